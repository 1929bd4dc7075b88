"""One thread that alone writes, and one commit for all that the event loop brings while it works.

What is asked for during one turn of the loop goes to the thread together; what is asked for while the thread is busy
goes with the next commit. So the busier the server, the more tasks share a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ndserve.errors import NdserveError, StoreFullError, StoreUnavailableError
from ndserve.stores.sqlite.arrays import Buffer, Files, remove
from ndserve.stores.sqlite.reserve import Reserve

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""How long a change that must not be refused waits for its next attempt."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Rows = list[tuple[Any, ...]]


@dataclass(slots=True, eq=False)
class Change:
    """Something to write: files first, then rows by statement, then what `then` does with the connection.

    `discard` are files to remove once it is committed. A change that is `due` in any case is tried again until it
    can be written; any other is refused where it cannot, by an exception of its future. `committed` and `refused`
    are called on the event loop, whether or not anybody still waits.
    """

    rows: dict[str, Rows] = field(default_factory=dict)
    files: list[tuple[Path, Sequence[Buffer]]] = field(default_factory=list)
    then: Callable[[sqlite3.Connection], Any] | None = None
    discard: list[Path] = field(default_factory=list)
    due: bool = False
    committed: Callable[[Any], Any] | None = None
    refused: Callable[[], Any] | None = None
    future: asyncio.Future[Any] | None = None
    result: Any = None
    error: Exception | None = None


class Writer:
    """Takes changes on the event loop and commits them on its thread, in the order in which they came."""

    def __init__(self, connection: sqlite3.Connection, files: Files, reserve: Reserve) -> None:
        self._connection = connection
        self._files = files
        self._reserve = reserve
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gathering: list[Change] = []
        self._scheduled = False
        self._busy = False
        self._postponed: dict[Change, asyncio.TimerHandle] = {}
        self._closed = False
        self._idle = asyncio.Event()
        self._queue: SimpleQueue[list[Change] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="ndserve-store", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, change: Change) -> asyncio.Future[Any]:
        """The result of `change.then` once all of the change is committed.

        Raises (from the future):
            StoreFullError: the disk is full.
            StoreUnavailableError: it could not be written for another reason.
        """
        assert self._loop is not None
        change.future = self._loop.create_future()
        if self._closed:
            change.future.set_exception(StoreUnavailableError("the task store is closed"))
        else:
            self._gather(change)
        return change.future

    def _gather(self, change: Change) -> None:
        self._postponed.pop(change, None)
        self._gathering.append(change)
        self._idle.clear()
        if not self._scheduled and not self._busy:
            self._scheduled = True
            assert self._loop is not None
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._scheduled = False
        if self._gathering and not self._busy:
            self._busy = True
            changes, self._gathering = self._gathering, []
            self._queue.put(changes)

    def _returned(self, changes: list[Change]) -> None:
        self._busy = False
        self._hand_over()
        for change in changes:
            future = change.future
            assert future is not None
            if change.error is not None and change.due and not self._closed:
                assert self._loop is not None
                self._postponed[change] = self._loop.call_later(RETRY_SECONDS, self._gather, change)
                continue
            if change.error is not None:
                if change.refused is not None:
                    change.refused()
            elif change.committed is not None:
                change.result = change.committed(change.result)
            if future.done():
                continue  # whoever asked has gone
            if change.error is None:
                future.set_result(change.result)
            else:
                future.set_exception(_as_refusal(change.error))
        if not self._busy:
            self._idle.set()

    async def close(self) -> None:
        """Commit what has been asked for, and end. What cannot be written now is given up."""
        self._closed = True
        self._idle.set()
        for change, timer in list(self._postponed.items()):
            timer.cancel()
            self._gather(change)
        if self._busy or self._gathering:
            self._idle.clear()
            await self._idle.wait()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # On the thread

    def _serve(self) -> None:
        assert self._loop is not None
        while (changes := self._queue.get()) is not None:
            self._commit(changes)
            try:
                self._loop.call_soon_threadsafe(self._returned, changes)
            except RuntimeError:
                return  # the loop has been closed: nobody is left to be told
            del changes
        self._connection.close()

    def _commit(self, changes: list[Change]) -> None:
        scarce = not self._reserve.hold()
        for change in changes:
            # Nothing new and nothing large while the reserve is in use: it would take the room that removing needs.
            waits = scarce and (not change.due or change.files)
            change.error = OSError(errno.ENOSPC, "no room is left") if waits else None
        self._attempt([change for change in changes if change.error is None])
        pressing = [
            change for change in changes if change.due and not change.files and change.error and _is_full(change.error)
        ]
        if pressing:
            self._make_way()
            self._attempt(pressing)
        for change in changes:
            if change.error is None:
                _remove_all(change.discard)
            elif not change.due:
                _remove_all([path for path, _ in change.files])

    def _attempt(self, changes: list[Change]) -> None:
        """Write what can be written, and set the errors of the rest."""
        for change in changes:
            change.error = None
            try:
                for path, buffers in change.files:
                    self._files.write(path, buffers)
            except OSError as error:
                change.error = error
        whole = [change for change in changes if change.error is None]
        if whole and not self._transact(whole) and len(whole) > 1:
            for change in whole:  # so that only those are refused that cannot be written
                self._transact([change])

    def _make_way(self) -> None:
        """Find room for what must be written: the reserve, and what the log takes that is in the database as well."""
        self._reserve.release()
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _transact(self, changes: list[Change]) -> bool:
        """Write the changes in one transaction; False, with their errors set, where it failed."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement, rows in _by_statement(changes).items():
                connection.executemany(statement, rows)
            for change in changes:
                change.error = None
                if change.then is not None:
                    change.result = change.then(connection)
            connection.execute("COMMIT")
        except Exception as error:  # the thread must go on, whatever it was given
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            for change in changes:
                change.error = error
            logger.warning("the task store could not write: %s: %s", type(error).__name__, error)
            return False
        return True


def _remove_all(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            remove(path)
        except OSError as error:  # the thread must go on; the next start removes what no row speaks of
            logger.warning("the task store could not remove %s: %s", path, error)


def _by_statement(changes: list[Change]) -> dict[str, Rows]:
    """The rows of all changes by statement, so that each is run once.

    New rows come first: a task may have ended before it was written.
    """
    joined: dict[str, Rows] = {}
    for change in changes:
        for statement, rows in change.rows.items():
            joined.setdefault(statement, []).extend(rows)
    return dict(sorted(joined.items(), key=lambda item: not item[0].startswith("INSERT")))


def _is_full(error: Exception) -> bool:
    """Whether there was no room on the disk."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


def _as_refusal(error: Exception) -> NdserveError:
    if _is_full(error):
        return StoreFullError("the disk of the task store is full; nothing was accepted, try again when there is room")
    return StoreUnavailableError(f"the task store could not write: {type(error).__name__}; the server's log says more")

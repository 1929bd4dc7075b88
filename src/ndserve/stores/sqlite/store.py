"""The verbs of the task store on SQLite."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ndserve.errors import GoneError, NotFailedError, StoreUnavailableError
from ndserve.stores.base import (
    MADE_ROOM,
    Closing,
    Delivery,
    Gone,
    Group,
    GroupState,
    Holder,
    Query,
    Usage,
    no_room,
)
from ndserve.stores.sqlite import removal, rows
from ndserve.stores.sqlite.arrays import INLINE, DamagedError, buffers, pack, unpack
from ndserve.stores.sqlite.at_hand import AtHand
from ndserve.stores.sqlite.folder import Folder
from ndserve.stores.sqlite.outbox import INSERT_DELIVERY, SqliteOutbox
from ndserve.stores.sqlite.removal import Removed
from ndserve.stores.sqlite.writer import Change
from ndserve.types import Task, TaskState, Tensors

logger = logging.getLogger(__name__)


class SqliteStore:
    """See `ndserve.stores.base.TaskStore`. The event loop keeps the books; one thread writes."""

    durable = True
    outbox: SqliteOutbox

    def __init__(self, folder: Path, durability: str, max_tasks: int, max_bytes: int) -> None:
        """`durability` is `normal` (survives the process) or `full` (survives the machine)."""
        self._folder = Folder(folder, durability)
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._tasks = 0
        self._nbytes = 0
        self._seq = 0
        self._unfinished: dict[int, int] = {}
        """Bytes of the tasks that are put and not ended yet, by number."""
        self._at_hand = AtHand()
        self._delivered: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Number and bytes of the tasks whose outcome somebody has seen in the life of this process."""
        self._delivered_bytes = 0
        self._dropping: set[int] = set()
        """Numbers of tasks that have left the books, and whose rows are about to go."""

    async def unfinished(self) -> list[Task]:
        held = await asyncio.to_thread(self._folder.open)
        self._folder.writer.start()
        self.outbox = SqliteOutbox(self._folder.writer, self._folder.reader)
        self._tasks, self._nbytes, self._seq = held.tasks, held.nbytes, held.last
        self._unfinished = {task.seq: task.input_bytes for task in held.unfinished}
        return held.unfinished

    def put(self, tasks: Sequence[Task], now: float, group: Group | None = None) -> Awaitable[None]:
        nbytes = 0
        for task in tasks:
            nbytes += task.input_bytes
        if self._tasks + len(tasks) > self._max_tasks or self._nbytes + nbytes > self._max_bytes:
            self._make_room(len(tasks), nbytes, now)
        change = Change()
        for task in tasks:
            self._seq += 1
            task.seq = self._seq
            filed, arrays = self._pack(change, task.seq, "in", task.inputs, task.input_bytes)
            statement, row = rows.insert(task, filed, arrays)
            change.rows.setdefault(statement, []).append(row)
            self._unfinished[task.seq] = task.input_bytes
        if group is not None:
            change.rows[rows.INSERT_GROUP] = [rows.insert_group(group)]
        change.refused = partial(self._withdraw, tasks)
        self._tasks += len(tasks)
        self._nbytes += nbytes
        return self._folder.writer.submit(change)

    def start(self, tasks: Sequence[Task], now: float) -> None:
        self._folder.running.add((task.seq for task in tasks), now)

    def finish(
        self, tasks: Sequence[Task], deliveries: Sequence[Delivery] = (), closing: Sequence[Closing] = ()
    ) -> Awaitable[None]:
        change = Change(due=True)
        for task in tasks:
            if self._unfinished.pop(task.seq, None) is None:
                continue  # its put was refused
            self._nbytes += task.nbytes - task.input_bytes
            if task.state is TaskState.FAILED:
                change.rows.setdefault(rows.FINISH_FAILED, []).append(rows.end(task))
                continue
            filed, arrays = self._pack(change, task.seq, "out", task.outputs or {}, task.output_bytes)
            statement, row = rows.finish(task, filed, arrays)
            change.rows.setdefault(statement, []).append(row)
            if task.input_bytes > INLINE:
                change.discard.append(self._folder.files.path(task.seq, "in"))
            self._at_hand.add(task)
        if deliveries:
            change.rows[INSERT_DELIVERY] = [tuple(delivery) for delivery in deliveries]
        if closing:
            change.then = partial(_set_expiry, closing)
            self._at_hand.set_expiry(dict(closing))
        while tasks and self._nbytes > self._max_bytes and self._delivered:
            self._drop_delivered(tasks[0].ended or 0.0)
        return self._folder.writer.submit(change)

    async def reopen(self, task: Task, now: float) -> Task:
        removed = GoneError(f"task {task.id} is gone: it was removed while it was to be queued again")
        row = self._folder.reader.task(task.id)
        if row is None:
            raise removed
        try:
            again = rows.read(row[:-1], await self._arrays("in", row))
        except StoreUnavailableError:
            if self._folder.reader.task(task.id) == row:
                raise
            raise removed from None  # its file went with it
        again.reopen(now)
        if task.seq in self._unfinished:
            raise NotFailedError(f"task {task.id} is queued again already; only a failed task can be run again")
        if task.seq in self._dropping:
            raise GoneError(f"task {task.id} is gone: {MADE_ROOM.reason}")
        self._undeliver(task.id)
        self._folder.running.forget(task.seq)
        # Before the commit, and not after it: from here on nothing may take the task for one that has ended.
        self._unfinished[task.seq] = again.input_bytes
        change = Change(then=partial(_reopen, task.seq, task.group, now))
        change.committed = partial(self._reopened, task)
        change.refused = partial(self._reopened, task, False)
        if not await self._folder.writer.submit(change):
            raise removed
        return again

    def _reopened(self, task: Task, there: bool) -> bool:
        if not there:
            self._unfinished.pop(task.seq)
        elif task.group is not None:
            self._at_hand.set_expiry({task.group: None})
        return there

    def remove(self, tasks: Sequence[Task], gone: Gone, now: float) -> Awaitable[object]:
        keys = [(task.seq, task.id) for task in tasks]
        return self._submit_removal(partial(removal.remove_tasks, keys=keys, gone=gone, now=now))

    def delivered(self, task: Task) -> None:
        if task.live or task.id in self._delivered or task.seq in self._dropping or task.seq in self._unfinished:
            return
        # What is in the books counts, not what the caller has: that one may have been removed or run again meanwhile.
        cached = self._at_hand.get(task.id)
        nbytes = self._folder.reader.ended_bytes(task.id) if cached is None else cached.nbytes
        if nbytes is not None:
            self._delivered[task.id] = task.seq, nbytes
            self._delivered_bytes += nbytes

    async def get(self, task_id: str) -> Task | Gone | None:
        while True:
            cached = self._at_hand.get(task_id)
            if cached is not None:
                return cached
            row = self._folder.reader.task(task_id)
            if row is None:
                return self._folder.reader.trace(task_id)
            state = rows.state_of(row)
            if state not in (TaskState.SUCCEEDED, TaskState.QUEUED):
                return rows.read(row[:-1], None)
            try:
                return rows.read(row[:-1], await self._arrays("out" if state is TaskState.SUCCEEDED else "in", row))
            except StoreUnavailableError:
                # The file goes with the row: it may have ended or been removed while the thread was on its way.
                if self._folder.reader.task(task_id) == row:
                    raise

    async def holder(self, idempotency_key: str) -> Holder | None:
        return self._folder.reader.holder(idempotency_key)

    async def page(self, query: Query) -> list[Task]:
        return [self._at_hand.get(task.id) or task for task in await self._folder.reader.page(query)]

    async def group(self, group_id: str) -> GroupState | Gone | None:
        group = self._folder.reader.group(group_id)
        state = None if group is None else await self._folder.reader.group_state(group)
        # Without tasks it has been removed between the two readings.
        return state if state is not None and state.counts else self._folder.reader.trace(group_id)

    def sweep(self, now: float, limit: int) -> Awaitable[int]:
        return self._submit_removal(partial(removal.remove_expired, now=now, limit=limit))

    def usage(self) -> Usage:
        return Usage(self._tasks, self._nbytes, self._max_tasks, self._max_bytes)

    async def close(self) -> None:
        await self._folder.close()

    def _pack(self, change: Change, seq: int, kind: str, tensors: Tensors, nbytes: int) -> tuple[int, bytearray]:
        """The columns `filed` and `arrays`; large arrays become a file of the change."""
        if not tensors:
            return 0, bytearray()
        if nbytes <= INLINE:
            return 0, pack(tensors)
        change.files.append((self._folder.files.path(seq, kind), buffers(tensors)))
        return 1, bytearray()

    async def _arrays(self, kind: str, row: Sequence[Any]) -> Tensors:
        """The arrays of a row as the reader gives it.

        Raises:
            StoreUnavailableError: they are not what was written.
        """
        seq, filed, arrays = row[0], row[-2], row[-1]
        try:
            if filed:
                path = self._folder.files.path(seq, kind)
                return unpack(await self._folder.reader.apart(path.read_bytes))
            return unpack(arrays) if arrays else {}
        except (OSError, DamagedError) as error:
            logger.error("the arrays of task %s: %s", row[1], error)
            raise StoreUnavailableError(f"the stored arrays of task {row[1]} cannot be read") from None

    def _withdraw(self, tasks: Sequence[Task]) -> None:
        """Take out of the books what could not be written."""
        for task in tasks:
            self._unfinished.pop(task.seq, None)
            self._forget(task.seq, task.id, task.nbytes)  # whether or not it has ended meanwhile

    def _make_room(self, tasks: int, nbytes: int, now: float) -> None:
        """Drop delivered results until there is room; none of them where even that would not do."""
        left_tasks = self._tasks - len(self._delivered) + tasks
        left_bytes = self._nbytes - self._delivered_bytes + nbytes
        if left_tasks > self._max_tasks or left_bytes > self._max_bytes:
            raise no_room(self.usage(), nbytes)
        while self._tasks + tasks > self._max_tasks or self._nbytes + nbytes > self._max_bytes:
            self._drop_delivered(now)

    def _drop_delivered(self, now: float) -> None:
        """Drop the result that was delivered longest ago; there must be one."""
        task_id, (seq, nbytes) = next(iter(self._delivered.items()))
        self._forget(seq, task_id, nbytes)
        self._dropping.add(seq)
        dropped = self._submit_removal(partial(removal.remove_tasks, keys=[(seq, task_id)], gone=MADE_ROOM, now=now))
        dropped.add_done_callback(lambda _: self._dropping.discard(seq))

    def _submit_removal(self, take: Callable[[sqlite3.Connection], list[Removed]]) -> asyncio.Future[int]:
        change = Change(due=True)
        change.then = partial(self._folder.remove, change, take)
        change.committed = self._account
        return self._folder.writer.submit(change)

    def _account(self, removed: list[Removed]) -> int:
        for task in removed:
            if task.seq not in self._dropping:
                self._forget(task.seq, task.id, task.nbytes)
        return len(removed)

    def _forget(self, seq: int, task_id: str, nbytes: int) -> None:
        self._tasks -= 1
        self._nbytes -= nbytes
        # By number as well: a put may have been refused because another task has its id.
        if task_id in self._delivered and self._delivered[task_id][0] == seq:
            self._undeliver(task_id)
        self._at_hand.drop(task_id, seq)

    def _undeliver(self, task_id: str) -> None:
        delivered = self._delivered.pop(task_id, None)
        if delivered is not None:
            self._delivered_bytes -= delivered[1]


def _reopen(seq: int, group: str | None, now: float, connection: sqlite3.Connection) -> bool:
    """Queue a task again; False when it is no longer there as one that has failed."""
    if connection.execute(rows.REOPEN, (seq, now)).rowcount == 0:
        return False
    if group is not None:
        _set_expiry([(group, None)], connection)
    return True


def _set_expiry(groups: Sequence[tuple[str, float | None]], connection: sqlite3.Connection) -> None:
    connection.executemany("UPDATE groups SET expires = ?2 WHERE id = ?1", groups)
    connection.executemany("UPDATE tasks SET expires = ?2 WHERE group_id = ?1", groups)

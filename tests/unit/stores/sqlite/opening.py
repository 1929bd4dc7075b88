"""What the tests of the writer share: what its thread is asked to do, and a disk that is full."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from ndserve.stores.base import TaskStore
from ndserve.stores.sqlite import SqliteStore
from ndserve.stores.sqlite.writer import Writer


def writer_of(store: TaskStore) -> Writer:
    assert isinstance(store, SqliteStore)
    return store._folder.writer


class Transactions:
    """Counts those that the writer begins from now on."""

    def __init__(self, store: TaskStore) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._begun = asyncio.Semaphore(0)
        writer_of(store)._connection.set_trace_callback(self._traced)

    async def begun(self, times: int) -> None:
        """Wait until that many more have begun."""
        for _ in range(times):
            await self._begun.acquire()

    def _traced(self, statement: str) -> None:
        if statement.startswith("BEGIN"):
            self.count += 1
            self._loop.call_soon_threadsafe(self._begun.release)


def fill(store: TaskStore) -> None:
    """Let the database grow no further."""
    connection = writer_of(store)._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")


def make_room(store: TaskStore) -> None:
    writer_of(store)._connection.execute("PRAGMA max_page_count=1000000")


class Disk:
    """Has no room for files while `full`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.refused = 0
        self._refused = threading.Semaphore(0)
        self._write = os.writev
        monkeypatch.setattr(os, "writev", self._writev)

    async def refuses(self, times: int) -> None:
        """Wait until that many more files have found no room."""
        for _ in range(times):
            await asyncio.to_thread(self._refused.acquire)

    def _writev(self, descriptor: int, pieces: Sequence[Any]) -> int:
        if self.full:
            self.refused += 1
            self._refused.release()
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, pieces)

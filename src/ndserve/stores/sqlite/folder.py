"""The data directory of one server: who may use it, what it holds, and how it is opened after whatever happened."""

from __future__ import annotations

import fcntl
import mmap
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ndserve.errors import StartupError
from ndserve.stores.sqlite import rows
from ndserve.stores.sqlite.arrays import DamagedError, Files, remove, unpack
from ndserve.stores.sqlite.reading import Reader
from ndserve.stores.sqlite.removal import Removed
from ndserve.stores.sqlite.reserve import Reserve
from ndserve.stores.sqlite.running import Running
from ndserve.stores.sqlite.schema import open_database
from ndserve.stores.sqlite.writer import Change, Writer
from ndserve.types import Task, TaskState, Tensors

_UNFINISHED = f"SELECT {rows.COLUMNS}, arrays FROM tasks WHERE ended IS NULL ORDER BY seq"  # noqa: S608 - our own text
_TOTALS = "SELECT count(*), coalesce(sum(nbytes), 0), coalesce(max(seq), 0) FROM tasks"
_FILED = "SELECT seq, state FROM tasks WHERE filed"
_RUNS = "UPDATE tasks SET attempts = ?, started = ?, run_by = ? WHERE seq = ?"


class Held(NamedTuple):
    """What lies in the folder: number of tasks, bytes of their arrays, the last number given, the unfinished tasks."""

    tasks: int
    nbytes: int
    last: int
    unfinished: list[Task]


class Folder:
    """The database `tasks.sqlite3`, `arrays/` for large arrays, `running`, `reserve`, and `lock` for one server."""

    files: Files
    running: Running
    writer: Writer
    reader: Reader

    def __init__(self, path: Path, durability: str) -> None:
        self._path = path
        self._durability = durability
        self._lock = -1

    def open(self) -> Held:
        """Take the folder and mend what a sudden end has left: runs that were not counted, files without a row.

        Raises:
            StartupError: another server has it, or it cannot be used.
        """
        sync = self._durability == "full"
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self.files = Files(self._path / "arrays", sync=sync)
            self.files.create()
            self.running = Running(self._path / "running", sync=sync)
            return self._open_database(self._path / "tasks.sqlite3")
        except BaseException as error:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1
            if isinstance(error, OSError):
                reason = f"{error.strerror or error}: {error.filename or self._path}"
                raise StartupError(f"the data directory {self._path} cannot be used: {reason} (--data-dir)") from None
            if isinstance(error, sqlite3.Error):
                raise StartupError(f"the task store in {self._path} cannot be read: {error} (--data-dir)") from None
            raise

    def _open_database(self, path: Path) -> Held:
        connection = open_database(path, self._durability)
        try:
            unfinished = self._read_unfinished(connection)
            self._count_runs(connection, unfinished)
            tasks, nbytes, last = connection.execute(_TOTALS).fetchone()
            self._remove_strays(connection)
        except BaseException:  # a damaged database, say
            connection.close()
            raise
        self.writer = Writer(connection, self.files, Reserve(self._path / "reserve"))
        self.reader = Reader(path)
        return Held(tasks, nbytes, last, unfinished)

    async def close(self) -> None:
        if self._lock < 0:
            return  # never opened
        await self.writer.close()
        self.reader.close()
        self.running.close()
        os.close(self._lock)
        self._lock = -1

    def remove(
        self, change: Change, take: Callable[[sqlite3.Connection], list[Removed]], connection: sqlite3.Connection
    ) -> list[Removed]:
        """Let `take` remove tasks, and have their files removed once that is committed; on the writer's thread."""
        removed = take(connection)
        change.discard = [self.files.path(task.seq, kind) for task in removed if task.filed for kind in ("in", "out")]
        return removed

    def _take_lock(self) -> None:
        lock = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise StartupError(
                f"another ndserve (process {owner}) uses the data directory {self._path}:"
                " stop it first, or give this one its own --data-dir"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def _read_unfinished(self, connection: sqlite3.Connection) -> list[Task]:
        found = connection.execute(_UNFINISHED).fetchall()
        return [rows.read(row[:-1], self._inputs(row)) for row in found]

    def _inputs(self, row: tuple[object, ...]) -> Tensors | None:
        """The inputs of an unfinished task; None where a power cut has damaged them.

        Files are mapped, not read: a long queue does not delay the start.
        """
        seq, filed, arrays = row[0], row[-2], row[-1]
        assert isinstance(seq, int)
        try:
            if not filed:
                return unpack(arrays) if isinstance(arrays, bytes) else {}
            with self.files.path(seq, "in").open("rb") as file:
                return unpack(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError, DamagedError):
            return None

    def _count_runs(self, connection: sqlite3.Connection, unfinished: list[Task]) -> None:
        """Enter the runs that had begun, each once: a start that is in the row already has been counted before."""
        started = self.running.started()
        counted = []
        for task in unfinished:
            start = started.get(task.seq)
            if start is not None and start != task.started:
                task.start(start)
                task.state = TaskState.QUEUED
                counted.append((task.attempts, task.started, task.run_by, task.seq))
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_RUNS, counted)
        connection.execute("COMMIT")
        self.running.clear()

    def _remove_strays(self, connection: sqlite3.Connection) -> None:
        wanted = set()
        for seq, state in connection.execute(_FILED).fetchall():
            wanted.add(self.files.path(seq, "out" if state == TaskState.SUCCEEDED else "in"))
        for stray in self.files.strays(wanted):
            remove(stray)

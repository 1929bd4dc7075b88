"""Tasks in this process's memory: the fastest store, and one that forgets all when the process ends."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import islice

from ndserve.errors import StoreFullError
from ndserve.stores.base import DONE, Gone, Usage
from ndserve.types import Task

TRACE_SECONDS = 24 * 3600.0
"""How long an id whose result has expired is told from one that never was."""

MAX_TRACES = 100_000


@dataclass(slots=True)
class _Entry:
    task: Task
    nbytes: int


class MemoryStore:
    """Bounded in tasks and in bytes of their arrays.

    Results are kept for `ttl` seconds from their end. All have the same span, so the order in which they
    end is the order in which they expire: every verb costs the same however much is stored.
    """

    def __init__(self, ttl: float, max_tasks: int, max_bytes: int) -> None:
        self._ttl = ttl
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._entries: dict[str, _Entry] = {}
        self._ended: dict[str, float] = {}
        self._delivered: dict[str, None] = {}
        self._traces: dict[str, tuple[float, Gone]] = {}

    def put(self, tasks: Sequence[Task], now: float) -> Awaitable[None]:
        self._make_room(len(tasks), sum(task.nbytes for task in tasks), now)
        for task in tasks:
            self._entries[task.id] = entry = _Entry(task, task.nbytes)
            self._nbytes += entry.nbytes
        return DONE

    def finish(self, tasks: Sequence[Task]) -> Awaitable[None]:
        for task in tasks:
            entry = self._entries[task.id]
            self._nbytes -= entry.nbytes
            entry.nbytes = task.nbytes
            self._nbytes += entry.nbytes
            self._ended[task.id] = task.ended or 0.0
        return DONE

    def delivered(self, task: Task) -> None:
        if task.id in self._ended:
            self._delivered[task.id] = None

    async def get(self, task_id: str) -> Task | Gone | None:
        entry = self._entries.get(task_id)
        if entry is not None:
            return entry.task
        trace = self._traces.get(task_id)
        return trace[1] if trace else None

    async def unfinished(self) -> list[Task]:
        return [entry.task for entry in self._entries.values() if entry.task.live]

    def sweep(self, now: float, limit: int) -> int:
        due = []
        for task_id, ended in islice(self._ended.items(), limit):
            if ended + self._ttl > now:
                break
            due.append(task_id)
        for task_id in due:
            self._remove(task_id, now, Gone(f"its result was kept for {self._ttl:g} s"))
        for task_id, (removed, _) in list(islice(self._traces.items(), limit)):
            if removed + TRACE_SECONDS > now and len(self._traces) <= MAX_TRACES:
                break
            del self._traces[task_id]
        return len(due)

    def usage(self) -> Usage:
        return Usage(len(self._entries), self._nbytes, self._max_tasks, self._max_bytes)

    async def close(self) -> None:
        self._entries.clear()

    def _make_room(self, tasks: int, nbytes: int, now: float) -> None:
        while len(self._entries) + tasks > self._max_tasks or self._nbytes + nbytes > self._max_bytes:
            oldest = next(iter(self._delivered), None)
            if oldest is None:
                raise StoreFullError(
                    f"the task store holds {len(self._entries)} of {self._max_tasks} tasks and {self._nbytes} of"
                    f" {self._max_bytes} bytes, and no delivered result is left to make room for {nbytes} bytes more",
                    **self.usage()._asdict(),
                )
            self._remove(oldest, now, Gone("its delivered result made room for newer tasks"))

    def _remove(self, task_id: str, now: float, why: Gone) -> None:
        self._nbytes -= self._entries.pop(task_id).nbytes
        del self._ended[task_id]
        self._delivered.pop(task_id, None)
        self._traces[task_id] = (now, why)

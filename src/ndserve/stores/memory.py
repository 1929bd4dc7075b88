"""Tasks in this process's memory: the fastest store, and one that forgets all when the process ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Sequence

from ndserve.errors import StoreFullError
from ndserve.stores.base import DONE, Gone, Usage
from ndserve.types import Task

TRACE_SECONDS = 24 * 3600.0
"""How long an id whose result has expired is told from one that never was."""

MAX_TRACES = 100_000


_MADE_ROOM = Gone("its delivered result made room for newer tasks")


class MemoryStore:
    """Bounded in tasks and in bytes of their arrays.

    Results are kept for `ttl` seconds from their end. All have the same span, so the order in which they
    end is the order in which they expire: every verb costs the same however much is stored.
    """

    def __init__(self, ttl: float, max_tasks: int, max_bytes: int) -> None:
        self._ttl = ttl
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._tasks: dict[str, Task] = {}
        self._nbytes = 0
        # Ordered dictionaries, because a plain one takes ever longer to find its first key when that keeps going.
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._delivered: OrderedDict[str, None] = OrderedDict()
        self._delivered_bytes = 0
        self._expired = Gone(f"its result was kept for {ttl:g} s")
        self._traces: OrderedDict[str, tuple[float, Gone]] = OrderedDict()

    def put(self, tasks: Sequence[Task], now: float) -> Awaitable[None]:
        nbytes = 0
        for task in tasks:
            nbytes += task.input_bytes
        if len(self._tasks) + len(tasks) > self._max_tasks or self._nbytes + nbytes > self._max_bytes:
            self._make_room(len(tasks), nbytes, now)
        for task in tasks:
            self._tasks[task.id] = task
        self._nbytes += nbytes
        return DONE

    def finish(self, tasks: Sequence[Task]) -> Awaitable[None]:
        for task in tasks:
            self._nbytes += task.output_bytes - task.input_bytes
            self._ended[task.id] = None
            while self._nbytes > self._max_bytes and self._delivered:
                self._drop_delivered(task.ended or 0.0)
        return DONE

    def delivered(self, task: Task) -> None:
        if task.id in self._ended and task.id not in self._delivered:
            self._delivered[task.id] = None
            self._delivered_bytes += task.output_bytes

    def forget(self, task: Task) -> None:
        if task.id in self._ended:
            self._remove(task)

    async def get(self, task_id: str) -> Task | Gone | None:
        task = self._tasks.get(task_id)
        if task is not None:
            return task
        trace = self._traces.get(task_id)
        return trace[1] if trace else None

    def sweep(self, now: float, limit: int) -> int:
        removed = 0
        while removed < limit and self._ended:
            task = self._tasks[next(iter(self._ended))]
            if (task.ended or 0.0) + self._ttl > now:
                break
            self._remove(task)
            self._traces[task.id] = now, self._expired
            removed += 1
        while self._traces:
            since, _ = next(iter(self._traces.values()))
            if since + TRACE_SECONDS > now and len(self._traces) <= MAX_TRACES:
                break
            self._traces.popitem(last=False)
        return removed

    def usage(self) -> Usage:
        return Usage(len(self._tasks), self._nbytes, self._max_tasks, self._max_bytes)

    async def close(self) -> None:
        self._tasks.clear()
        self._ended.clear()
        self._delivered.clear()
        self._nbytes = self._delivered_bytes = 0

    def _make_room(self, tasks: int, nbytes: int, now: float) -> None:
        """Drop delivered results until there is room; none of them where even that would not do."""
        left_tasks = len(self._tasks) - len(self._delivered) + tasks
        left_bytes = self._nbytes - self._delivered_bytes + nbytes
        if left_tasks > self._max_tasks or left_bytes > self._max_bytes:
            raise StoreFullError(
                f"the task store holds {len(self._tasks)} of {self._max_tasks} tasks and {self._nbytes} of"
                f" {self._max_bytes} bytes, and dropping every delivered result would not make room for {nbytes}"
                " bytes more; try again when results have expired or raise --store-tasks and --store-bytes",
                **self.usage()._asdict(),
            )
        while len(self._tasks) + tasks > self._max_tasks or self._nbytes + nbytes > self._max_bytes:
            self._drop_delivered(now)

    def _drop_delivered(self, now: float) -> None:
        """Drop the result that was delivered longest ago; there must be one."""
        task = self._tasks[next(iter(self._delivered))]
        self._remove(task)
        self._traces[task.id] = now, _MADE_ROOM

    def _remove(self, task: Task) -> None:
        del self._tasks[task.id]
        del self._ended[task.id]
        self._nbytes -= task.output_bytes
        if task.id in self._delivered:
            del self._delivered[task.id]
            self._delivered_bytes -= task.output_bytes

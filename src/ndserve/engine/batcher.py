"""Which tasks run next, and together with which: pure policy without clock, I/O or device.

The oldest task decides whose turn it is. Tasks of one `BatchKey` leave in the order in which they came; tasks of
different keys never meet.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple, TypeAlias

from ndserve.engine.targets import TargetKey
from ndserve.types import Batch, BatchKey, Task


class Limits(NamedTuple):
    """For one key: the most rows in a batch of several tasks, and seconds that its oldest task may wait for more."""

    max_rows: int
    max_wait: float = 0.0


class Turn(NamedTuple):
    """Whose turn it is, and whether waiting longer could make the batch no larger."""

    key: BatchKey
    full: bool


_Entry: TypeAlias = tuple[int, float, Task]
"""Arrival number, time of arrival, task."""


@dataclass(slots=True)
class _Queue:
    """The waiting tasks of one key. A discarded task stays in `entries` as a gap until it comes to the front."""

    entries: deque[_Entry] = field(default_factory=deque)
    rows: int = 0


class Batcher:
    """Queues by key, and the order among them.

    Every queue stands in line with its head's arrival number: in `_ready`, or in `_waiting` until its head is due,
    or in `_held` while its target cannot run. A number that is no longer some queue's head is stale and is dropped
    when it surfaces, so that each operation costs no more than the logarithm of the number of keys.
    """

    def __init__(self, limits: Callable[[BatchKey], Limits]) -> None:
        self._limits = limits
        self._queues: dict[BatchKey, _Queue] = {}
        self._queued: dict[str, Task] = {}
        self._heads: dict[int, BatchKey] = {}
        self._ready: list[int] = []
        self._waiting: list[tuple[float, int]] = []
        self._held: dict[TargetKey, list[int]] = {}
        self._returned: deque[Batch] = deque()
        self._arrivals = count()

    def __len__(self) -> int:
        """The tasks that wait in queues; those of returned batches have had their turn."""
        return len(self._queued)

    def add(self, task: Task, now: float) -> None:
        """Queue a task."""
        queue = self._queues.get(task.key)
        if queue is None:
            queue = self._queues[task.key] = _Queue()
        queue.entries.append((next(self._arrivals), now, task))
        queue.rows += task.rows
        self._queued[task.id] = task
        if len(queue.entries) == 1:
            self._line_up(task.key, queue)
        elif self._waiting and queue.rows >= self._limits(task.key).max_rows:
            heapq.heappush(self._ready, queue.entries[0][0])

    def discard(self, task: Task) -> bool:
        """Take a task out of its queue; False when it is not queued (any more)."""
        if self._queued.pop(task.id, None) is None:
            return False
        self._queues[task.key].rows -= task.rows
        return True

    def has(self, target: TargetKey) -> bool:
        """Whether tasks of a target wait in queues. Looks at every key."""
        return any(queue.rows > 0 and _target(key) == target for key, queue in self._queues.items())

    def put_back(self, batch: Batch) -> None:
        """Take back a batch that has to run again. It stays as it is and runs before anything that is queued."""
        self._returned.append(batch)

    def hold(self, target: TargetKey) -> None:
        """Pass over the tasks of a target that cannot run now."""
        self._held.setdefault(target, [])

    def release(self, target: TargetKey) -> None:
        """End `hold`."""
        for arrival in self._held.pop(target, ()):
            heapq.heappush(self._ready, arrival)

    def drop(self, target: TargetKey) -> list[Task]:
        """Take out and give all tasks of a target, oldest first within a key, and end `hold`."""
        tasks: list[Task] = []
        for batch in [batch for batch in self._returned if _target(batch.key) == target]:
            self._returned.remove(batch)
            tasks.extend(batch.tasks)
        for key in [key for key in self._queues if _target(key) == target]:
            queue = self._queues.pop(key)
            self._heads.pop(queue.entries[0][0], None)
            tasks.extend(task for _, _, task in queue.entries if self._queued.pop(task.id, None))
        self._held.pop(target, None)
        return tasks

    def peek(self, now: float) -> Turn | None:
        """Whose turn it is at `now`; None where nothing may run."""
        for batch in self._returned:
            if _target(batch.key) not in self._held:
                return Turn(batch.key, True)
        while self._due(now):
            arrival = self._ready[0]
            key = self._heads.get(arrival)
            if key is not None and not self._skip_gaps(key):
                held = self._held.get(_target(key))
                if held is None:
                    return Turn(key, self._queues[key].rows >= self._limits(key).max_rows)
                held.append(arrival)
            heapq.heappop(self._ready)
        return None

    def _due(self, now: float) -> bool:
        """Move what has waited long enough into line; whether anything stands there."""
        while self._waiting and self._waiting[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._waiting)[1])
        return bool(self._ready)

    def next_batch(self, now: float) -> Batch | None:
        """Take out the batch whose turn it is. Its rows are within the limit, unless one task alone exceeds it."""
        turn = self.peek(now)
        if turn is None:
            return None
        for batch in self._returned:
            if batch.key is turn.key:
                self._returned.remove(batch)
                return batch
        queue = self._queues[turn.key]
        del self._heads[queue.entries[0][0]]
        batch = Batch(turn.key, self._take(queue, self._limits(turn.key).max_rows))
        if queue.entries:
            self._line_up(turn.key, queue)
        else:
            del self._queues[turn.key]
        return batch

    def next_wakeup(self) -> float | None:
        """After a `peek` that gave None: when it may give more although nothing is added; None for never."""
        while self._waiting and self._waiting[0][1] not in self._heads:
            heapq.heappop(self._waiting)
        return self._waiting[0][0] if self._waiting else None

    def _line_up(self, key: BatchKey, queue: _Queue) -> None:
        arrival, time, _ = queue.entries[0]
        self._heads[arrival] = key
        limits = self._limits(key)
        if limits.max_wait > 0 and queue.rows < limits.max_rows:
            heapq.heappush(self._waiting, (time + limits.max_wait, arrival))
        else:
            heapq.heappush(self._ready, arrival)

    def _skip_gaps(self, key: BatchKey) -> bool:
        """Drop discarded tasks from the front. True when that changed the queue's place in line."""
        queue = self._queues[key]
        if queue.entries[0][2].id in self._queued:
            return False
        del self._heads[queue.entries[0][0]]
        while queue.entries and queue.entries[0][2].id not in self._queued:
            queue.entries.popleft()
        if queue.entries:
            self._line_up(key, queue)
        else:
            del self._queues[key]
        return True

    def _take(self, queue: _Queue, max_rows: int) -> list[Task]:
        tasks: list[Task] = []
        rows = 0
        while queue.entries:
            task = queue.entries[0][2]
            if task.id in self._queued:
                if tasks and rows + task.rows > max_rows:
                    break
                del self._queued[task.id]
                tasks.append(task)
                rows += task.rows
            queue.entries.popleft()
        queue.rows -= rows
        return tasks


def _target(key: BatchKey) -> TargetKey:
    return key.target, key.version

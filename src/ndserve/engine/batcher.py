"""Which tasks run next, and together with which: pure policy without clock, I/O or device.

A task's rank is its time of arrival, plus `AGEING_SECONDS` for each level that its priority is below the top. The task
with the lowest rank decides whose turn it is; of equal ranks the one that came first. Its batch takes tasks of the same
`BatchKey` in the order of their ranks; tasks of different keys never meet.

A rank never changes, so nothing is sorted again as time goes by, and tasks of one priority leave in the order in which
they came. A low priority still has its turn under steady load: whoever comes once a task has made up for its levels by
waiting goes after it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import NamedTuple, TypeAlias

from ndserve.engine.target import TargetKey
from ndserve.types import Batch, BatchKey, Task

TOP_PRIORITY = 9

AGEING_SECONDS = 10.0
"""What one level of priority is worth in seconds of waiting."""

SLACK = 64
"""Stale places beyond one a queue that may stand in line before they are cleared away."""


def rank_of(task: Task) -> float:
    """The rank of a task that is queued when it is created."""
    return task.created + (TOP_PRIORITY - task.options.priority) * AGEING_SECONDS


class Limits(NamedTuple):
    """For one key: the most rows in a batch of several tasks, and seconds that its oldest task may wait for more."""

    max_rows: int
    max_wait: float = 0.0


class Turn(NamedTuple):
    """Whose turn it is, and whether waiting longer could make the batch no larger."""

    key: BatchKey
    full: bool


_Entry: TypeAlias = tuple[int, float, Task]
"""Arrival number, time of arrival, task. The rank is made of them only where priorities meet, for that is seldom."""

_Rank: TypeAlias = tuple[float, int]
"""The rank proper, and the arrival number, which decides between equal ones."""

_Place: TypeAlias = "tuple[float, int, _Queue]"
"""Where a queue stands: by rank in the line of what is ready, by time in that of what waits; arrival number; queue."""


@dataclass(slots=True, eq=False)
class _Queue:
    """The waiting tasks of one key, by priority, each level in the order of arrival and thereby of rank.

    No level is empty, and none has a discarded task in front; further back it stays as a gap.
    `place` is None while the queue stands in no line, and `waiting` tells in which one it stands.
    """

    key: BatchKey
    levels: dict[int, deque[_Entry]]
    rows: int
    place: _Place | None = None
    waiting: bool = False

    def rank(self) -> _Rank:
        """The lowest one."""
        if len(self.levels) == 1:  # as nearly always; every batch comes through here
            ((priority, level),) = self.levels.items()
            return _rank(priority, level[0])
        return min([_rank(priority, level[0]) for priority, level in self.levels.items()])

    def oldest(self) -> _Entry:
        """The entry that came first, whatever its rank."""
        return min([level[0] for level in self.levels.values()])

    def entries(self) -> list[_Entry]:
        """All entries, and gaps, in the order in which they came."""
        return sorted(chain.from_iterable(self.levels.values()))

    def leader(self) -> tuple[int, _Rank | None]:
        """The priority whose turn it is, and the rank that ends its turn, for there another priority has its own."""
        if len(self.levels) == 1:
            (priority,) = self.levels
            return priority, None
        ranks = sorted([(_rank(priority, level[0]), priority) for priority, level in self.levels.items()])
        return ranks[0][1], ranks[1][0]

    def skip_gaps(self, priority: int, queued: Container[str]) -> None:
        """Bring a level's first task that is still `queued` to its front."""
        level = self.levels[priority]
        while level and level[0][2].id not in queued:
            level.popleft()
        if not level:
            del self.levels[priority]

    def take(self, max_rows: int, queued: dict[str, Task]) -> list[Task]:
        """Take the tasks of a batch out of here and `queued`, lowest rank first, until one does not fit."""
        tasks: list[Task] = []
        room = max_rows
        full = False
        while self.levels and not full:
            priority, end = self.leader()
            level = self.levels[priority]
            while level and (end is None or _rank(priority, level[0]) < end):
                task = level[0][2]
                if task.rows > room and tasks and task.id in queued:
                    full = True
                    break
                level.popleft()
                if queued.pop(task.id, None) is not None:
                    tasks.append(task)
                    room -= task.rows
            self.skip_gaps(priority, queued)
        self.rows -= max_rows - room
        return tasks


class Batcher:
    """Queues by key, and the order among them.

    Every queue stands in one place: in `_ready` by its head's rank, or in `_waiting` until its oldest task is due, or
    nowhere after its turn came while its target could not run. A place that its queue has left is stale. It is
    dropped when it surfaces, or with all others once they are many, so that each operation costs no more than the
    logarithm of the number of keys, unless it says otherwise.
    """

    def __init__(self, limits: Callable[[BatchKey], Limits]) -> None:
        self._limits = limits
        self._queues: dict[BatchKey, _Queue] = {}
        self._queued: dict[str, Task] = {}
        self._ready: list[_Place] = []
        self._waiting: list[_Place] = []
        self._held: set[TargetKey] = set()
        self._returned: deque[Batch] = deque()
        self._arrivals = count()
        self._restored = count(-1, -1)

    def __len__(self) -> int:
        """The tasks that wait in queues; those of returned batches have had their turn."""
        return len(self._queued)

    def add(self, task: Task, now: float) -> None:
        """Queue a task. `now` never steps back."""
        priority = task.options.priority
        entry = (next(self._arrivals), now, task)
        self._queued[task.id] = task
        queue = self._queues.get(task.key)
        if queue is None:
            queue = self._queues[task.key] = _Queue(task.key, {priority: deque((entry,))}, task.rows)
            self._line_up(queue)
            return
        queue.rows += task.rows
        level = queue.levels.get(priority)
        if level is not None:
            level.append(entry)
        else:
            queue.levels[priority] = deque((entry,))
        if queue.waiting:
            if queue.rows >= self._limits(task.key).max_rows:
                self._make_ready(queue)
        elif level is None and queue.place is not None and _rank(priority, entry) < queue.place[:2]:
            self._make_ready(queue)  # the new head takes the queue forward

    def discard(self, task: Task) -> bool:
        """Take a task out of its queue; False when it is not queued (any more)."""
        if self._queued.pop(task.id, None) is None:
            return False
        queue = self._queues[task.key]
        queue.rows -= task.rows
        queue.skip_gaps(task.options.priority, self._queued)
        self._line_up(queue)
        return True

    def has(self, target: TargetKey) -> bool:
        """Whether tasks of a target wait, in queues or in returned batches. Looks at every key."""
        keys = (*self._queues, *(batch.key for batch in self._returned))
        return any(_target(key) == target for key in keys)

    def positions(self) -> dict[str, int]:
        """By id, how many of the queued tasks have a lower rank. Sorts all of them."""
        ranks = [
            (_rank(priority, entry), entry[2].id)
            for queue in self._queues.values()
            for priority, level in queue.levels.items()
            for entry in level
            if entry[2].id in self._queued
        ]
        return {task_id: position for position, (_, task_id) in enumerate(sorted(ranks))}

    def restore(self, tasks: Sequence[Task]) -> None:
        """Queue tasks again that were taken out and have not run, in front of those that came after them."""
        for task in reversed(tasks):
            self._queued[task.id] = task
            entry = (next(self._restored), task.created, task)
            queue = self._queues.get(task.key)
            if queue is None:
                queue = self._queues[task.key] = _Queue(task.key, {}, 0)
            queue.levels.setdefault(task.options.priority, deque()).appendleft(entry)
            queue.rows += task.rows
            self._line_up(queue)

    def put_back(self, batch: Batch) -> None:
        """Take back a batch that has to run again. It stays as it is and runs before anything that is queued."""
        self._returned.append(batch)

    def hold(self, target: TargetKey) -> None:
        """Pass over the tasks of a target that cannot run now."""
        self._held.add(target)

    def release(self, target: TargetKey) -> None:
        """End `hold`. Looks at every key."""
        self._held.discard(target)
        for queue in self._queues.values():
            if queue.place is None and _target(queue.key) == target:
                self._make_ready(queue)

    def drop(self, target: TargetKey) -> list[Task]:
        """Take out and give all tasks of a target, oldest first within a key, and end `hold`. Looks at every key."""
        tasks: list[Task] = []
        for batch in [batch for batch in self._returned if _target(batch.key) == target]:
            self._returned.remove(batch)
            tasks.extend(batch.tasks)
        for key in [key for key in self._queues if _target(key) == target]:
            queue = self._queues.pop(key)
            queue.place = None
            tasks.extend(task for _, _, task in queue.entries() if self._queued.pop(task.id, None))
        self._held.discard(target)
        return tasks

    def peek(self, now: float) -> Turn | None:
        """Whose turn it is at `now`; None where nothing may run."""
        for batch in self._returned:
            if _target(batch.key) not in self._held:
                return Turn(batch.key, True)
        while self._waiting and self._waiting[0][0] <= now:
            place = heapq.heappop(self._waiting)
            if place[2].place is place:
                self._make_ready(place[2])
        while self._ready:
            place = self._ready[0]
            queue = place[2]
            if queue.place is place:
                if not self._held or _target(queue.key) not in self._held:
                    return Turn(queue.key, queue.rows >= self._limits(queue.key).max_rows)
                queue.place = None  # until it is released
            heapq.heappop(self._ready)
        return None

    def next_batch(self, now: float) -> Batch | None:
        """Take out the batch whose turn it is. Its rows are within the limit, unless one task alone exceeds it."""
        turn = self.peek(now)
        if turn is None:
            return None
        for batch in self._returned:
            if batch.key is turn.key:
                self._returned.remove(batch)
                return batch
        queue = heapq.heappop(self._ready)[2]
        batch = Batch(turn.key, queue.take(self._limits(turn.key).max_rows, self._queued))
        self._line_up(queue)
        return batch

    def next_wakeup(self) -> float | None:
        """After a `peek` that gave None: when it may give more although nothing is added; None for never."""
        while self._waiting:
            place = self._waiting[0]
            if place[2].place is place:
                return place[0]
            heapq.heappop(self._waiting)
        return None

    def _line_up(self, queue: _Queue) -> None:
        """Put a queue whose tasks have changed where it belongs; an empty one goes."""
        if not queue.levels:
            queue.place = None
            del self._queues[queue.key]
            return
        limits = self._limits(queue.key)
        if limits.max_wait <= 0 or queue.rows >= limits.max_rows:
            self._make_ready(queue)
            return
        arrival, time, _ = queue.oldest()
        self._stand(queue, self._waiting, time + limits.max_wait, arrival)

    def _make_ready(self, queue: _Queue) -> None:
        self._stand(queue, self._ready, *queue.rank())

    def _stand(self, queue: _Queue, line: list[_Place], order: float, arrival: int) -> None:
        """Put a queue into a line; the place that it had is stale from now on."""
        if len(line) > 2 * len(self._queues) + SLACK:
            line[:] = [place for place in line if place[2].place is place]
            heapq.heapify(line)
        queue.waiting = line is self._waiting
        queue.place = (order, arrival, queue)
        heapq.heappush(line, queue.place)


def _rank(priority: int, entry: _Entry) -> _Rank:
    return entry[1] + (TOP_PRIORITY - priority) * AGEING_SECONDS, entry[0]


def _target(key: BatchKey) -> TargetKey:
    return key.target, key.version, key.revision

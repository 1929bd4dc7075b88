"""When a task's time is over: the rule, and the one timer that applies it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from ndserve.errors import TaskTimeoutError
from ndserve.types import Failure, Outcome, Task, TaskState


def overdue(task: Task, now: float) -> Outcome | None:
    """How a task ends because of its deadlines; None while it is within them. Pure.

    A task that has run before, and was interrupted, has met its first deadline.
    """
    if task.run_by is not None and task.run_by <= now:
        message = f"the task had not ended {task.options.run_within:g} s after its first start (run_within)"
        return task, TaskState.FAILED, None, TaskTimeoutError(message).failure()
    if task.attempts == 0 and task.start_by is not None and task.start_by <= now:
        message = f"the task had not started {task.options.start_within:g} s after it was accepted (start_within)"
        return task, TaskState.EXPIRED, None, Failure("expired", message, 410)
    return None


class Deadlines:
    """The deadlines of all live tasks, on one timer. A task without any costs nothing."""

    def __init__(self, clock: Callable[[], float], on_due: Callable[[Outcome], object]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._heap: list[tuple[float, int, Task]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, task: Task) -> None:
        """Watch the deadline that the task now has; called when it is queued and when it starts."""
        due = task.start_by if task.attempts == 0 else task.run_by
        if due is not None:
            heapq.heappush(self._heap, (due, next(self._numbers), task))
            self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._heap and not self._heap[0][2].live:
            heapq.heappop(self._heap)
        if self._heap:
            delay = max(0.0, self._heap[0][0] - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            task = heapq.heappop(self._heap)[2]
            outcome = overdue(task, now) if task.live else None
            if outcome is not None:
                self._on_due(outcome)
        self._arm()

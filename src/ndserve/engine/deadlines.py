"""When a task's time is over: the rule, and the one timer that applies it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from ndserve.errors import TaskTimeoutError
from ndserve.types import Failure, Outcome, Task, TaskState

SLACK = 64
"""Stale entries beyond one a watched task that may lie in the heap before they are cleared away."""


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
    """The deadlines of all live tasks, on one timer. A task without any costs nothing.

    An entry of the heap is stale once its task has been forgotten or has another deadline. It names its task only by
    id: the deadline may be a day away, and the arrays of a task that has ended must not stay in memory till then.
    """

    def __init__(self, clock: Callable[[], float], on_due: Callable[[Outcome], object]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._heap: list[tuple[float, str]] = []
        self._watched: dict[str, tuple[float, Task]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """The tasks that are watched."""
        return len(self._watched)

    def add(self, task: Task) -> None:
        """Watch the deadline that the task now has; called when it is queued and when it starts."""
        due = task.start_by if task.attempts == 0 else task.run_by
        if due is None:
            self.forget(task)
            return
        self._watched[task.id] = due, task
        heapq.heappush(self._heap, (due, task.id))
        if len(self._heap) > 2 * len(self._watched) + SLACK:
            self._heap = [(due, task_id) for task_id, (due, _) in self._watched.items()]
            heapq.heapify(self._heap)
        self._arm()

    def forget(self, task: Task) -> None:
        """Watch a task no longer."""
        self._watched.pop(task.id, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._heap and not self._is_in_force(*self._heap[0]):
            heapq.heappop(self._heap)
        if self._heap:
            delay = max(0.0, self._heap[0][0] - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        now = self._clock()
        while self._heap and self._heap[0][0] <= now:
            due, task_id = heapq.heappop(self._heap)
            if self._is_in_force(due, task_id):
                _, task = self._watched.pop(task_id)
                outcome = overdue(task, now) if task.live else None
                if outcome is not None:
                    self._on_due(outcome)
        self._arm()

    def _is_in_force(self, due: float, task_id: str) -> bool:
        watched = self._watched.get(task_id)
        return watched is not None and watched[0] == due

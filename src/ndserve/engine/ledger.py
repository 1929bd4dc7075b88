"""The tasks that have not ended, and how they end: once, and told to nobody before the store has it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ndserve.engine.deadlines import Deadlines
from ndserve.engine.waiters import Waiters
from ndserve.engine.watchers import Watchers
from ndserve.errors import GoneError, TaskFailedError
from ndserve.stores.base import DONE, Closing, Delivery, TaskStore
from ndserve.types import LIVE, Outcome, Progress, Task, TaskState, Tensors

logger = logging.getLogger(__name__)


class Notifier(Protocol):
    """Who sends webhooks."""

    def notice(self, task: Task) -> Delivery | None:
        """The message about an ended task, if one is wanted."""
        ...

    def nudge(self) -> None:
        """A message is in the outbox."""
        ...


@dataclass(slots=True)
class _GroupCount:
    """The tasks of a group whose end has not been decided, and those whose end is not public."""

    undecided: int = 0
    unpublished: int = 0


class Ledger:
    """Every task from its acceptance until its end is public. All methods are for the event loop's thread."""

    def __init__(
        self, store: TaskStore, clock: Callable[[], float], result_ttl: float, notifier: Notifier | None
    ) -> None:
        """`result_ttl` is the seconds for which an outcome is kept where the task says nothing of it."""
        self.store = store
        self.live: dict[str, Task] = {}
        self.nbytes = 0
        self.waiters = Waiters()
        self.watchers = Watchers()
        self.deadlines = Deadlines(clock, lambda outcome: self.settle([outcome]))
        self.on_queued_end: Callable[[Task], object] = lambda task: None
        """Called with a task that ends while it is queued."""
        self.on_failed_end: Callable[[Task, float], object] = lambda task, now: None
        """Called with a task that has failed or expired, and the time."""
        self.ended = {state: 0 for state in TaskState if state not in LIVE}
        self.late = 0
        self.empty = asyncio.Event()
        self._clock = clock
        self._result_ttl = result_ttl
        self._notifier = notifier
        self._groups: dict[str, _GroupCount] = {}
        self._commits: set[asyncio.Task[None]] = set()

    def add(self, task: Task) -> None:
        """Enter a task that has been accepted."""
        self.live[task.id] = task
        self.nbytes += task.input_bytes
        if task.group is not None:
            group = self._groups.setdefault(task.group, _GroupCount())
            group.undecided += 1
            group.unpublished += 1
        if task.options.start_within is not None or task.run_by is not None:
            self.deadlines.add(task)

    def withdraw(self, task: Task) -> None:
        """Take out a task that could not be stored, as if it had never come; whatever becomes of it, is dropped."""
        if task.live:
            task.live = False
            self.on_queued_end(task)
        self._leave(task)
        self.waiters.wake([task.id])
        self.watchers.notify(task)

    def note(self, tasks: Sequence[Task], now: float) -> None:
        """Note in the store that tasks are about to run; may be called on the lane's thread."""
        kept = [task for task in tasks if task.kept and task.state is TaskState.QUEUED]
        if kept:
            self.store.start(kept, now)

    def started(self, tasks: Sequence[Task]) -> None:
        """Say that tasks run now."""
        for task in tasks:
            if task.run_by is not None:
                self.deadlines.add(task)
        if self.watchers:
            for task in tasks:
                self.watchers.notify(task)

    def progressed(self, tasks: Sequence[Task], fraction: float, message: str) -> None:
        """Note what a running process has said of these tasks."""
        progress = Progress(fraction, message, self._clock())
        for task in tasks:
            if task.live:
                task.progress = progress
                self.watchers.notify(task)

    def settle(self, outcomes: Sequence[Outcome]) -> int:
        """End tasks, and tell those who wait for them once the store has it. Gives how many were still live."""
        now = self._clock()
        kept: list[Task] = []
        loose: list[Task] = []
        for task, state, outputs, failure in outcomes:
            # Not by `live` alone: somebody may have read a task from the store that is being queued again just now.
            if not task.live or self.live.get(task.id) is not task:
                self.late += 1
                continue
            if task.state is TaskState.QUEUED:
                self.on_queued_end(task)
            task.settle(state, now, outputs=outputs, failure=failure)
            if failure is not None:
                self.on_failed_end(task, now)
            (kept if task.kept else loose).append(task)
        if kept:
            self._count(kept)
            self._store(kept, now)
        if loose:
            self._count(loose)
            self._publish(loose)
        return len(kept) + len(loose)

    async def close(self) -> None:
        """Wait until every end that has been decided is stored."""
        self.deadlines.close()
        await asyncio.gather(*self._commits, return_exceptions=True)

    def group_is_live(self, group: str) -> bool:
        """Whether some task of the group has no public end yet."""
        return group in self._groups

    def _count(self, tasks: list[Task]) -> None:
        """Count ended tasks by state; there is hardly ever more than one in a list."""
        while tasks:
            state = tasks[0].state
            others = [task for task in tasks if task.state is not state]
            self.ended[state] += len(tasks) - len(others)
            tasks = others

    def _store(self, tasks: list[Task], now: float) -> None:
        closing: list[Closing] = []
        for task in tasks:
            expires = now + (self._result_ttl if task.options.ttl is None else task.options.ttl)
            if task.group is None:
                task.expires = expires
                continue
            group = self._groups[task.group]
            group.undecided -= 1
            if not group.undecided:
                closing.append(Closing(task.group, expires))
        notices: list[Delivery] = []
        if self._notifier is not None:
            given = [self._notifier.notice(task) for task in tasks if task.options.webhook is not None]
            notices = [notice for notice in given if notice is not None]
        committed = self.store.finish(tasks, notices, closing)
        if committed is DONE:
            self._publish(tasks)
        else:
            commit = asyncio.ensure_future(self._publish_after(committed, tasks))
            self._commits.add(commit)  # the loop alone would not keep it alive
            commit.add_done_callback(self._commits.discard)

    async def _publish_after(self, committed: Awaitable[None], tasks: list[Task]) -> None:
        try:
            await committed
        except Exception:
            # Only while closing: until then the store tries again. The tasks run again at the next start.
            logger.exception("the ends of %d tasks could not be stored", len(tasks))
            return
        # One that was withdrawn meanwhile is gone, and another task may have its id by now.
        self._publish([task for task in tasks if self.live.get(task.id) is task])

    def _publish(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.public = True
            self._leave(task)
            if task.on_end is not None:
                try:
                    task.on_end()
                except Exception:  # one caller's fault must not cost the others their results
                    logger.exception("the caller of task %s could not be told of its end", task.id)
        self.waiters.wake([task.id for task in tasks])
        if self.watchers:
            for task in tasks:
                self.watchers.notify(task)
        if self._notifier is not None and any(task.options.webhook for task in tasks):
            self._notifier.nudge()

    def _leave(self, task: Task) -> None:
        if self.live.get(task.id) is not task:
            return
        del self.live[task.id]
        self.nbytes -= task.input_bytes
        self.deadlines.forget(task)
        if task.group is not None:
            group = self._groups[task.group]
            group.unpublished -= 1
            if not group.unpublished:
                del self._groups[task.group]
                self.waiters.wake([task.group])
        if not self.live:
            self.empty.set()


def outputs_of(task: Task) -> Tensors:
    """The outputs of an ended task.

    Raises:
        TaskFailedError: it failed.
        GoneError: it was cancelled or has expired.
    """
    if task.outputs is not None:
        return task.outputs
    if task.failure is not None and task.state is TaskState.FAILED:
        raise TaskFailedError(task.failure, **({"task_id": task.id} if task.kept else {}))
    reason = f": {task.failure.message}" if task.failure else ""
    raise GoneError(f"task {task.id} was {task.state.value}{reason}")

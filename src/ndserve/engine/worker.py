"""The loop between the batcher and the lane: gets models in, keeps the lane busy, hands outcomes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from ndserve.engine.batcher import Batcher, Limits
from ndserve.engine.deadlines import overdue
from ndserve.engine.execution import Executed, execute
from ndserve.engine.fallback import fall_back
from ndserve.engine.handover import Handover
from ndserve.engine.lane import Lane, describe_error
from ndserve.engine.loading import Loading, failure_of
from ndserve.engine.reporting import Reporter
from ndserve.engine.statistics import Spans
from ndserve.engine.target import Target
from ndserve.engine.targets import Targets
from ndserve.model_cache.cache import ModelCache
from ndserve.model_cache.session import Session
from ndserve.types import DEFAULT_OPTIONS, Batch, BatchKey, Failure, HostArray, Outcome, Task, TaskState

logger = logging.getLogger(__name__)


class Report(Protocol):
    """Who is told of what becomes of tasks."""

    def note(self, tasks: Sequence[Task], now: float) -> None:
        """They begin to run, in a moment; may be called on the lane's thread."""
        ...

    def started(self, tasks: Sequence[Task]) -> None: ...

    def progressed(self, tasks: Sequence[Task], fraction: float, message: str) -> None: ...

    def settle(self, outcomes: Sequence[Outcome]) -> int: ...


class Worker:
    """Keeps one lane busy.

    An idle lane takes whatever waits. While a batch runs, the next one gathers; it joins the lane's queue early only
    once it is full, so that the device goes from one full batch to the next without the event loop between them.
    """

    def __init__(
        self,
        targets: Targets,
        lane: Lane,
        cache: ModelCache,
        clock: Callable[[], float],
        report: Report,
        on_dead: Callable[[str], None],
    ) -> None:
        self.batches = 0
        self.batched_tasks = 0
        self.batcher = Batcher(self._limits)
        self.loading = Loading(lane, cache, self.batcher, clock, self._pump, self._fail)
        self._targets = targets
        self._lane = lane
        self._cache = cache
        self._clock = clock
        self._report = report
        self._on_dead = on_dead
        self._scheduled = False
        self._closed = False
        self._halted = False
        self._timer: asyncio.TimerHandle | None = None
        self._next: Handover | None = None
        self._before: Handover | None = None  # which `_next` stands behind

    def add(self, task: Task, now: float) -> None:
        """Queue a task. Everything that one tick of the loop brings is looked at together, in the next."""
        self.batcher.add(task, now)
        if self._next is not None:
            self._next.yield_to(task)
        self.wake()

    def wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def halt(self) -> None:
        """Give the lane nothing more, and call no task failed because of it: the engine has died, not the tasks.

        Those that are stored run at the next start.
        """
        self._halted = True
        self.loading.halt()

    async def close(self) -> None:
        """Give up what is under way, and give the lane nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.loading.close()

    def _limits(self, key: BatchKey) -> Limits:
        target = self._targets.of(key)
        return Limits(target.limit, target.max_wait)

    def _pump(self) -> None:
        self._scheduled = False
        if self._closed or self._halted:
            return
        now = self._clock()
        self.loading.new_round()
        while self._lane.in_flight < 2 and (turn := self.batcher.peek(now)) is not None:
            if self._lane.in_flight and not turn.full:
                break
            target = self._targets.of(turn.key)
            if target.models and not self.loading.may_run(target):
                self.loading.begin(target)
                continue
            batch = self.batcher.next_batch(now)
            assert batch is not None  # peek has just said so
            batch.tasks = self._in_time(batch.tasks, now)
            if batch.tasks:
                self._start(target, batch, now)
        self._arm()

    def _in_time(self, tasks: list[Task], now: float) -> list[Task]:
        """Those of the tasks that still want to run; ends those whose time is over."""
        pressed = [task for task in tasks if task.options is not DEFAULT_OPTIONS and task.live]
        late = [end for task in pressed if (end := overdue(task, now)) is not None]
        if late:
            self._report.settle(late)
        return [task for task in tasks if task.live]

    def _arm(self) -> None:
        """Come back when a waiting batch falls due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakeup = self.batcher.next_wakeup()
        if wakeup is not None and not self._lane.in_flight:
            delay = max(0.0, wakeup - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self.wake)

    def _start(self, target: Target, batch: Batch, now: float) -> None:
        work: Callable[[Mapping[str, Session]], Executed | None]
        if self._lane.in_flight:
            self._before, self._next = self._next, Handover(batch)
            work = partial(self._take_and_run, target, self._next, asyncio.get_running_loop())
        else:
            self._report.note(batch.tasks, now)
            self._begin(target, batch.tasks, now)
            work = partial(self._run, target, batch, batch.parts())
        self.loading.turn(target)
        lease = self._cache.lease(target.models)
        self.batches += 1
        self.batched_tasks += len(batch.tasks)
        running = self._lane.run(self._heard(target, partial(work, lease.__enter__()), batch.tasks))
        running.add_done_callback(partial(self._finish, target, batch, lease))

    def _begin(self, target: Target, tasks: Sequence[Task], now: float) -> None:
        """Note that tasks begin to run; those of a batch that is run again have begun before."""
        first = [task for task in tasks if task.live and task.start(now, self._lane.device.name)]
        if target.models:
            self.loading.note_waits(target, first)
        if first:
            self._report.started(first)

    def _take_and_run(
        self, target: Target, handover: Handover, loop: asyncio.AbstractEventLoop, sessions: Mapping[str, Session]
    ) -> Executed | None:
        """Run a batch that stood behind another one, unless it was recalled; on the lane's thread."""
        now = self._clock()
        parts = handover.take(now)
        if parts is None:
            return None
        tasks = handover.batch.tasks
        if not tasks:
            return Executed([], Spans(0, 0, 0), None)
        self._report.note(tasks, now)
        loop.call_soon_threadsafe(self._begin, target, tasks, now)
        return self._run(target, handover.batch, parts, sessions)

    def _run(
        self, target: Target, batch: Batch, parts: Mapping[str, list[HostArray]], sessions: Mapping[str, Session]
    ) -> Executed:
        return execute(self._lane.device, target, sessions, batch, parts)

    def has_begun(self, task: Task) -> bool:
        """Whether the lane has taken a prefetched task, although the event loop may not have heard of it."""
        return any(handover is not None and handover.has_begun(task) for handover in (self._before, self._next))

    def _heard(
        self, target: Target, work: Callable[[], Executed | None], tasks: Sequence[Task]
    ) -> Callable[[], Executed | None]:
        """`work` with an ear for the progress that a process reports."""
        if target.process is None:
            return work
        reporter = Reporter(asyncio.get_running_loop(), partial(self._report.progressed, tasks))

        def listened() -> Executed | None:
            with reporter.listening():
                return work()

        return listened

    def _finish(
        self,
        target: Target,
        batch: Batch,
        lease: AbstractContextManager[dict[str, Session]],
        running: asyncio.Future[Executed | None],
    ) -> None:
        lease.__exit__(None, None, None)
        if not self._lane.in_flight:
            self._before = self._next = None
        self.loading.came_back(target)
        outcomes: list[Outcome] = []
        executed: Executed | None = None
        error = running.exception()
        if error is None:
            executed = running.result()
            if executed is None:
                self._recall(batch)
                return
            if executed.batching is not None:
                self.loading.judge(target, executed.batching)
            results = zip(batch.tasks, executed.results, strict=True)
            outcomes = [(task, TaskState.SUCCEEDED, outputs, None) for task, outputs in results]
        elif self._halted:
            return
        elif not self._lane.device.healthy():
            self._on_dead(f"{self._lane.device.name} no longer answers: {describe_error(error)}")
            return
        elif len(batch.tasks) > 1:
            for half in batch.halves():
                self.batcher.put_back(half)
        else:
            outcomes = [(batch.tasks[0], TaskState.FAILED, None, failure_of(target, error))]
        self._pump()  # the device first; the callers are served while it works
        if executed is not None and batch.tasks:
            target.statistics.ran(batch.tasks, executed.spans, self._clock())
        if outcomes:
            self._report.settle(outcomes)

    def _fail(self, target: Target, tasks: list[Task], failure: Failure) -> None:
        """End tasks whose models cannot be loaded, save those that an older version can take."""
        if not self._lane.device.healthy():
            self._on_dead(f"{self._lane.device.name} no longer answers: {failure.message}")
            return
        left = fall_back(target, self._targets, tasks)
        now = self._clock()
        for task in tasks:
            if task not in left:
                self.batcher.add(task, now)
        self._report.settle([(task, TaskState.FAILED, None, failure) for task in left])
        self.wake()

    def _recall(self, batch: Batch) -> None:
        """Queue a batch again that the lane has left alone, and see who goes first now."""
        self.batches -= 1
        self.batched_tasks -= len(batch.tasks)
        self.batcher.restore([task for task in batch.tasks if task.live])
        self._pump()

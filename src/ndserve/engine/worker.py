"""The loop between the batcher and the lane: gets models in, keeps the lane busy, hands outcomes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from ndserve.engine.batcher import Batcher, Limits
from ndserve.engine.deadlines import overdue
from ndserve.engine.execution import Executed, execute, host_run
from ndserve.engine.handover import Handover
from ndserve.engine.lane import Lane, describe_error
from ndserve.engine.reporting import Reporter
from ndserve.engine.statistics import Spans
from ndserve.engine.targets import Target, TargetKey, Targets
from ndserve.errors import ExecutionError, NdserveError
from ndserve.model_cache import batch_safety
from ndserve.model_cache.cache import ModelCache
from ndserve.model_cache.session import Session
from ndserve.types import DEFAULT_OPTIONS, Batch, Batching, BatchKey, Failure, HostArray, Outcome, Task, TaskState

logger = logging.getLogger(__name__)

MAX_REASON = 2000
"""Characters of an exception's text that a caller gets."""


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
        self._jobs: set[asyncio.Task[None]] = set()
        # Targets that have had a batch while others waited for room in the cache; they queue up for it now.
        self._served: set[TargetKey] = set()
        self._turned = asyncio.Event()
        # When each target's models were loaded last, from when to when: what a task that waited for it waited.
        self._loads: dict[TargetKey, tuple[float, float]] = {}

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

    async def warm(self, target: Target) -> None:
        """Load the target's models ahead of the first request, and probe them.

        Raises:
            ModelLoadError, ModelTooLargeError: as `ModelCache.loaded` says.
        """
        async with self._cache.loaded(target.models):
            await self._probe(target)
        self.wake()  # for tasks that came while the probe held the lane

    def halt(self) -> None:
        """Give the lane nothing more, and call no task failed because of it: the engine has died, not the tasks.

        Those that are stored run at the next start.
        """
        self._halted = True

    async def close(self) -> None:
        """Give up what is under way, and give the lane nothing more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for job in list(self._jobs):
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def _limits(self, key: BatchKey) -> Limits:
        target = self._targets.of(key)
        return Limits(target.limit, target.max_wait)

    def _pump(self) -> None:
        self._scheduled = False
        if self._closed or self._halted:
            return
        now = self._clock()
        if not self._cache.room_wanted:
            self._served.clear()
        while self._lane.in_flight < 2 and (turn := self.batcher.peek(now)) is not None:
            if self._lane.in_flight and not turn.full:
                break
            target = self._targets.of(turn.key)
            if target.models and not self._may_run(target):
                self.batcher.hold(target.key)
                self._spawn(self._load(target))
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

    def _may_run(self, target: Target) -> bool:
        """Whether its models are there, and it is not their turn to make room for somebody who waits."""
        if target.key in self._served and not all(info.options.pinned for info in target.models):
            return False
        return all(self._cache.resident(info) for info in target.models)

    def _arm(self) -> None:
        """Come back when a waiting batch falls due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakeup = self.batcher.next_wakeup()
        if wakeup is not None and not self._lane.in_flight:
            delay = max(0.0, wakeup - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self.wake)

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._jobs.add(task)  # the loop alone would not keep it alive
        task.add_done_callback(self._jobs.discard)

    def _start(self, target: Target, batch: Batch, now: float) -> None:
        work: Callable[[Mapping[str, Session]], Executed | None]
        if self._lane.in_flight:
            self._before, self._next = self._next, Handover(batch)
            work = partial(self._take_and_run, target, self._next, asyncio.get_running_loop())
        else:
            self._report.note(batch.tasks, now)
            self._begin(target, batch.tasks, now)
            work = partial(self._run, target, batch, batch.parts())
        if self._cache.room_wanted:
            self._served.add(target.key)
        self._turned.set()
        lease = self._cache.lease(target.models)
        self.batches += 1
        self.batched_tasks += len(batch.tasks)
        running = self._lane.run(self._heard(target, partial(work, lease.__enter__()), batch.tasks))
        running.add_done_callback(partial(self._finish, target, batch, lease))

    def _begin(self, target: Target, tasks: Sequence[Task], now: float) -> None:
        """Note that tasks begin to run; those of a batch that is run again have begun before."""
        first = [task for task in tasks if task.live and task.start(now, self._lane.device.name)]
        if target.key in self._loads:
            began, ended = self._loads[target.key]
            for task in first:
                task.load_seconds = max(0.0, ended - max(began, task.created))
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
        self._turned.set()
        outcomes: list[Outcome] = []
        executed: Executed | None = None
        error = running.exception()
        if error is None:
            executed = running.result()
            if executed is None:
                self._recall(batch)
                return
            if executed.batching is not None:
                self._judge(target, executed.batching)
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
            outcomes = [(batch.tasks[0], TaskState.FAILED, None, _failure(target, error))]
        self._pump()  # the device first; the callers are served while it works
        if executed is not None and batch.tasks:
            target.statistics.ran(batch.tasks, batch.rows, executed.spans, self._clock())
        if outcomes:
            self._report.settle(outcomes)

    def _recall(self, batch: Batch) -> None:
        """Queue a batch again that the lane has left alone, and see who goes first now."""
        self.batches -= 1
        self.batched_tasks -= len(batch.tasks)
        self.batcher.restore([task for task in batch.tasks if task.live])
        self._pump()

    async def _load(self, target: Target) -> None:
        began = self._clock()
        try:
            async with self._cache.loaded(target.models):
                await self._probe(target)
                self._loads[target.key] = began, self._clock()
                self._served.discard(target.key)
                self.batcher.release(target.key)
                self._pump()
                # Not evicted again before it has had its turn, which a busy lane may put off.
                while self._cache.room_wanted and self._lane.in_flight and self._has_turn_to_come(target):
                    self._turned.clear()
                    await self._turned.wait()
        except Exception as error:
            logger.error("%s: %s", target.name, error)
            if self._halted:
                return
            failure = error.failure() if isinstance(error, NdserveError) else _failure(target, error)
            self._report.settle([(task, TaskState.FAILED, None, failure) for task in self.batcher.drop(target.key)])
            self.wake()

    def _has_turn_to_come(self, target: Target) -> bool:
        return target.key not in self._served and self.batcher.has(target.key)

    async def _probe(self, target: Target) -> None:
        """Judge the batch safety of a model that has just been loaded, where random inputs can tell."""
        if target.process is not None or target.batching.mode != "untested":
            return
        (info,) = target.models
        with self._cache.lease(target.models) as sessions:
            run = host_run(self._lane.device, sessions[target.name].run)
            batching = await self._lane.run(partial(batch_safety.at_load, run, info))
        if target.batching.mode == "untested":
            target.batching = batching

    def _judge(self, target: Target, batching: Batching) -> None:
        if target.batching.mode != "untested":
            return  # a batch that was on its way when the verdict fell
        target.probes_left -= 1
        if batching.mode == "untested" and target.probes_left <= 0:
            batching = Batching("off", f"no request could show that batching is safe: {batching.reason}")
        target.batching = batching
        logger.info("model %s/%s: batching is %s: %s", *target.key[:2], batching.mode, batching.reason)


def _failure(target: Target, error: BaseException) -> Failure:
    """What the caller of a task that failed on the device is told; the log has the traceback."""
    logger.error("%s %s failed", target.kind, target.name, exc_info=error)
    return ExecutionError(f"{target.name!r} raised {describe_error(error)[:MAX_REASON]}").failure()

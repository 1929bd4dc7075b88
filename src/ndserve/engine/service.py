"""The front of the engine: arrays and plain values in and out, and nothing of any transport."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndserve.codecs.base import UNNAMED
from ndserve.engine.admission import admit, fit
from ndserve.engine.figures import figures
from ndserve.engine.ids import RandomIds
from ndserve.engine.lane import Lane
from ndserve.engine.ledger import Ledger, outputs_of
from ndserve.engine.recovery import resume
from ndserve.engine.sweeper import Sweeper
from ndserve.engine.target import Plan, Target
from ndserve.engine.targets import Targets
from ndserve.engine.worker import Worker
from ndserve.errors import (
    EngineDeadError,
    GoneError,
    NdserveError,
    QueueFullError,
    ShuttingDownError,
    UnknownTaskError,
)
from ndserve.model_cache.cache import ModelCache
from ndserve.stores.base import DONE, Gone, Group
from ndserve.types import DEFAULT_OPTIONS, HostArray, Outcome, Parameter, Task, TaskOptions, TaskState, Tensors

logger = logging.getLogger(__name__)

STOP_SECONDS = 2.0
"""How long a lane that is in the middle of a batch is waited for once everything is settled."""


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """The most tasks that may wait or run at once, and the most bytes of their inputs."""

    tasks: int
    nbytes: int


class InferenceService:
    """Accepts tasks, runs them, and gives their outcomes. All methods are for the event loop's thread."""

    def __init__(
        self,
        targets: Targets,
        ledger: Ledger,
        cache: ModelCache,
        lane: Lane,
        bounds: QueueBounds,
        clock: Callable[[], float],
        on_dead: Callable[[str], None],
        max_attempts: int = 3,
    ) -> None:
        """`on_dead` is called once with the reason when the engine cannot go on.

        A task during which the process has died `max_attempts` times is not run again.
        """
        self.targets = targets
        self.ledger = ledger
        self.store = ledger.store
        self.waiters = ledger.waiters
        self.cache = cache
        self.lane = lane
        self.bounds = bounds
        self.dead = ""
        self.closing = False
        self.worker = Worker(targets, lane, cache, clock, ledger, self._die)
        self.clock = clock
        self._on_dead = on_dead
        ledger.on_queued_end = self._left_queue
        ledger.on_failed_end = self._count_failure
        self._max_attempts = max_attempts
        self._ids = RandomIds()
        self._drained: asyncio.Event | None = None
        self._sweeper = Sweeper(self.store, clock)

    async def start(self, preload: Sequence[Target] = ()) -> None:
        """Start the lane, load the models of the targets in `preload`, and go on with what the store holds.

        Raises:
            ModelLoadError, ModelTooLargeError: one of them cannot be loaded.
            StartupError: the store cannot be used.
        """
        unfinished = await self.store.unfinished()
        self.lane.start(self._die)
        self._sweeper.start()
        for target in preload:
            await self.worker.loading.warm(target)
        if unfinished:
            self.requeue(unfinished, self.clock())

    def target(self, name: str, version: str | None = None) -> Target:
        """The model or process of that name; the newest version where none is named.

        Raises:
            UnknownTargetError, ModelLoadError: as `Targets.find` says.
        """
        return self.targets.find(name, version)

    async def submit(
        self,
        target: Target | str,
        inputs: Tensors | HostArray,
        parameters: Mapping[str, Parameter] | None = None,
        *,
        cast: bool = False,
        options: TaskOptions = DEFAULT_OPTIONS,
        task_id: str | None = None,
        keep: bool = True,
    ) -> Task:
        """Accept a task; when this returns it is stored and queued.

        Args:
            inputs: arrays by input name, or one array for the target's only input. They must not change any more.
            parameters: of a process; text is converted to the type of the parameter's default.
            cast: convert other dtypes where no value changes by more than rounding.
            task_id: the task's id, which nothing else has; a random one without.
            keep: False for a task whose caller waits: it is not stored unless `keep` is called.

        Raises:
            UnknownTargetError: `target` is a name that nothing has.
            InvalidInputError, InvalidParameterError: the arrays or parameters do not fit.
            QueueFullError, StoreFullError, StoreUnavailableError: there is no room now.
            ShuttingDownError, EngineDeadError: this server takes no more tasks.
        """
        if isinstance(target, str):
            target = self.target(target)
        if isinstance(inputs, np.ndarray):
            inputs = {UNNAMED: inputs}
        admitted = admit(target, inputs, parameters or {}, cast=cast)
        now = self.clock()
        task = Task(task_id or self._ids.next(now), *admitted, created=now, options=options)
        self.check_room(task.input_bytes)
        if keep:
            await self.accept([task], now)
        else:
            self.ledger.add(task)
            self.worker.add(task, now)
        return task

    def start_inference(
        self,
        target: Target,
        plan: Plan,
        inputs: Tensors,
        parameters: Mapping[str, Parameter],
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> Task:
        """Queue a task that is never stored: its caller waits for it, and takes it along when it goes.

        `plan` is what `admission.plan_for` gives for the form of the arrays.

        Raises:
            NdserveError: as for `submit`.
        """
        admitted = fit(target, plan, inputs, parameters)
        now = self.clock()
        task = Task(self._ids.next(now), *admitted, created=now, options=options)
        self.check_room(task.input_bytes)
        self.ledger.add(task)
        self.worker.add(task, now)
        return task

    async def accept(self, tasks: Sequence[Task], now: float, group: Group | None = None) -> None:
        """Queue new tasks, which may be all those of a group, and return when they are stored.

        Raises:
            StoreFullError, StoreUnavailableError: they could not be stored, and are given up.
        """
        stored = self.store.put(tasks, now, group)
        for task in tasks:
            task.kept = True
            self.ledger.add(task)
            self.worker.add(task, now)  # the device need not wait for the store; the caller does
        if stored is not DONE:
            await self._stored(tasks, stored, now)

    async def keep(self, task: Task) -> None:
        """Store a task that was not to be kept, because its caller no longer waits for it.

        Raises:
            StoreFullError, StoreUnavailableError: it could not be stored, and is given up.
        """
        now = self.clock()
        try:
            stored = self.store.put([task], now)
        except NdserveError:
            self.ledger.withdraw(task)
            raise
        task.kept = True
        if task.started is not None:
            self.store.start([task], task.started)
        if stored is not DONE:
            await self._stored([task], stored, now)

    async def find(self, task_id: str) -> Task:
        """The task of that id, whatever its state.

        Raises:
            UnknownTaskError: there is none.
            GoneError: it was removed lately.
        """
        task = self.ledger.live.get(task_id) or await self.store.get(task_id)
        if task is None:
            raise UnknownTaskError(f"no task has the id {task_id[:100]!r}; it may have been forgotten")
        if isinstance(task, Gone):
            raise GoneError(f"task {task_id} is gone: {task.reason}")
        return task

    def requeue(self, tasks: Sequence[Task], now: float) -> None:
        """Queue stored tasks again, save those whose end can be told already."""
        ends: list[Outcome] = []
        for task in tasks:
            end = resume(task, self.targets, now, self._max_attempts)
            self.ledger.add(task)
            if end is None:
                self.worker.add(task, task.created)
            else:
                ends.append(end)
        self.ledger.settle(ends)
        logger.info("%d tasks are queued again, %d have ended", len(tasks) - len(ends), len(ends))

    async def infer(
        self, target: Target | str, inputs: Tensors | HostArray, parameters: Mapping[str, Parameter] | None = None
    ) -> Tensors:
        """Submit, wait, and give the outputs by name. A caller that is cancelled takes its task along.

        Raises:
            NdserveError: as for `submit`, or the task's own failure.
        """
        task = await self.submit(target, inputs, parameters, keep=False)
        try:
            if not task.public:
                await self.waiters.add(task.id)
        except asyncio.CancelledError:
            self.cancel(task)
            raise
        return outputs_of(task)

    def cancel(self, task: Task) -> bool:
        """Give up a task: a queued one never runs, a running one's result is dropped. False when it has ended."""
        return self.ledger.settle([(task, TaskState.CANCELLED, None, None)]) > 0

    async def drain(self, seconds: float) -> None:
        """Take no new tasks, and finish the accepted ones within `seconds`.

        Those that are left then stay in the store if it outlives the process, and run at the next start; otherwise
        they fail. A second call waits for the first.
        """
        if self._drained is not None:
            await self._drained.wait()
            return
        self._drained = asyncio.Event()
        self.closing = True
        if self.ledger.live and not self.dead:
            self.ledger.empty.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self.ledger.empty.wait()
            except TimeoutError:
                left = len(self.ledger.live)
                logger.warning("%d tasks were not finished within %g s of draining", left, seconds)
        self._give_up(ShuttingDownError("the server shut down before the task was finished; submit it again"))
        self._drained.set()

    async def close(self) -> None:
        """Stop everything; `drain` comes first where tasks matter."""
        await self._sweeper.close()
        await self.worker.close()
        await self.cache.close()
        if not self.lane.stop(STOP_SECONDS):
            logger.warning("the lane of %s is still busy; it ends with the process", self.lane.device.name)
        else:
            await self.lane.delivered()
        await self.ledger.close()
        await self.store.close()

    def stats(self) -> dict[str, Any]:
        """Figures since the start, as plain values."""
        return figures(self)

    def check_room(self, nbytes: int, tasks: int = 1) -> None:
        """Refuse early: callers ask before they read a body of that many bytes.

        Raises:
            QueueFullError, ShuttingDownError, EngineDeadError: as for `submit`.
        """
        if self.dead:
            raise EngineDeadError(f"the engine has stopped: {self.dead}")
        if self.closing:
            raise ShuttingDownError("the server is shutting down and takes no new tasks")
        live, bounds = self.ledger, self.bounds
        if len(live.live) + tasks > bounds.tasks or live.nbytes + nbytes > bounds.nbytes:
            raise QueueFullError(
                f"the queue holds {len(live.live)} of {bounds.tasks} tasks and {live.nbytes} of {bounds.nbytes} bytes,"
                f" which leaves no room for {tasks} more with {nbytes} bytes; try again in"
                f" {QueueFullError.retry_after} s"
            )

    def _give_up(self, error: NdserveError) -> None:
        """Fail the tasks that will not be there after this process, and have everybody stop waiting."""
        failure = error.failure()
        lost = [task for task in self.ledger.live.values() if not (task.kept and self.store.durable)]
        self.ledger.settle([(task, TaskState.FAILED, None, failure) for task in lost])
        self.waiters.close()
        self.ledger.watchers.notify_all()

    def _left_queue(self, task: Task) -> None:
        self.worker.batcher.discard(task)
        self.worker.loading.look_again()

    def _count_failure(self, task: Task, now: float) -> None:
        target = self.targets.admitted(task.key)
        if target is not None:
            target.statistics.failed(task, now)

    def _die(self, reason: str) -> None:
        if self.dead:
            return
        self.dead = reason
        logger.critical("the engine has stopped: %s", reason)
        self.worker.halt()
        self._give_up(EngineDeadError(f"the engine has stopped: {reason}"))
        self._on_dead(reason)

    async def _stored(self, tasks: Sequence[Task], stored: Awaitable[None], since: float) -> None:
        """Wait until new tasks are safe; give up those that are not, and those whose caller has gone meanwhile."""
        try:
            await stored
        except asyncio.CancelledError:
            self.ledger.settle([(task, TaskState.CANCELLED, None, None) for task in tasks])
            raise
        except Exception:
            for task in tasks:
                self.ledger.withdraw(task)
            raise
        took = self.clock() - since
        for task in tasks:
            task.store_seconds = took

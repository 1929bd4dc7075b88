"""The front of the engine: arrays and plain values in and out, and nothing of any transport."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndserve.codecs.base import UNNAMED
from ndserve.engine.admission import admit
from ndserve.engine.ids import RandomIds
from ndserve.engine.lane import Lane
from ndserve.engine.targets import Target, Targets
from ndserve.engine.waiters import Waiters
from ndserve.engine.worker import Outcome, Worker
from ndserve.errors import (
    EngineDeadError,
    GoneError,
    QueueFullError,
    ShuttingDownError,
    TaskFailedError,
    UnknownTaskError,
)
from ndserve.model_cache.cache import ModelCache
from ndserve.stores.base import DONE, Gone, TaskStore
from ndserve.types import LIVE, HostArray, Parameter, Task, TaskState, Tensors

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
SWEEP_TASKS = 1000
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
        store: TaskStore,
        cache: ModelCache,
        lane: Lane,
        bounds: QueueBounds,
        clock: Callable[[], float],
        on_dead: Callable[[str], None],
    ) -> None:
        """`on_dead` is called once with the reason when the engine cannot go on."""
        self.targets = targets
        self.store = store
        self.cache = cache
        self.lane = lane
        self.bounds = bounds
        self.dead = ""
        self.closing = False
        self.worker = Worker(targets, lane, cache, clock, self._settle, self._die)
        self._clock = clock
        self._on_dead = on_dead
        self.live: dict[str, Task] = {}  # accepted, and not ended yet
        self._live_bytes = 0
        self.waiters = Waiters()
        self._ids = RandomIds()
        self._ended = {state: 0 for state in TaskState if state not in LIVE}
        self._late = 0
        self._empty = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        self._commits: set[asyncio.Task[None]] = set()

    async def start(self, preload: Sequence[Target] = ()) -> None:
        """Start the lane and load the models of the targets in `preload`.

        Raises:
            ModelLoadError, ModelTooLargeError: one of them cannot be loaded.
        """
        self.lane.start(self._die)
        self._sweep()
        for target in preload:
            await self.worker.warm(target)

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
    ) -> Task:
        """Accept a task; when this returns it is stored and queued.

        Args:
            inputs: arrays by input name, or one array for the target's only input. They must not change any more.
            parameters: of a process; text is converted to the type of the parameter's default.
            cast: convert other dtypes where no value changes by more than rounding.

        Raises:
            UnknownTargetError: `target` is a name that nothing has.
            InvalidInputError, InvalidParameterError: the arrays or parameters do not fit.
            QueueFullError, StoreFullError: there is no room now.
            ShuttingDownError, EngineDeadError: this server takes no more tasks.
        """
        if isinstance(target, str):
            target = self.target(target)
        if isinstance(inputs, np.ndarray):
            inputs = {UNNAMED: inputs}
        admitted = admit(target, inputs, parameters or {}, cast=cast)
        now = self._clock()
        task = Task(self._ids.next(), *admitted, created=now)
        self.check_room(task.input_bytes)
        stored = self.store.put([task], now)
        self.live[task.id] = task
        self._live_bytes += task.input_bytes
        if stored is not DONE:
            await self._stored(task, stored)
        if task.live:  # the engine may have died while the store was busy
            self.worker.add(task, now)
        return task

    async def find(self, task_id: str) -> Task:
        """The task of that id, whatever its state.

        Raises:
            UnknownTaskError: there is none.
            GoneError: it was removed lately.
        """
        task = self.live.get(task_id) or await self.store.get(task_id)
        if task is None:
            raise UnknownTaskError(f"no task has the id {task_id!r}; it may have been forgotten")
        if isinstance(task, Gone):
            raise GoneError(f"task {task_id} is gone: {task.reason}")
        return task

    async def infer(
        self, target: Target | str, inputs: Tensors | HostArray, parameters: Mapping[str, Parameter] | None = None
    ) -> Tensors:
        """Submit, wait, and give the outputs by name. A caller that is cancelled takes its task along.

        Raises:
            NdserveError: as for `submit`, or the task's own failure.
        """
        task = await self.submit(target, inputs, parameters)
        try:
            if task.live:
                await self.waiters.add(task)
        except asyncio.CancelledError:
            self.cancel(task)
            raise
        return outputs_of(task)

    def cancel(self, task: Task) -> bool:
        """Give up a task: a queued one never runs, a running one's result is dropped. False when it has ended."""
        return self._settle([(task, None, None)]) > 0

    async def _stored(self, task: Task, stored: Awaitable[None]) -> None:
        """Wait until a new task is safe. One that is not, or whose caller has gone meanwhile, is not live any more."""
        try:
            await stored
        except asyncio.CancelledError:
            self.cancel(task)
            raise
        except Exception:
            if self.live.pop(task.id, None):
                self._live_bytes -= task.input_bytes
            raise

    async def drain(self, seconds: float) -> None:
        """Take no new tasks, finish the accepted ones within `seconds`, and fail those that are left then."""
        self.closing = True
        if self.live:
            self._empty.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError:
                logger.warning("%d tasks were not finished within %g s of draining", len(self.live), seconds)
        failure = ShuttingDownError("the server shut down before the task was finished; submit it again").failure()
        self._settle([(task, None, failure) for task in list(self.live.values())])

    async def close(self) -> None:
        """Stop everything; `drain` comes first where tasks matter."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.worker.close()
        await self.cache.close()
        await asyncio.gather(*self._commits, return_exceptions=True)
        if not self.lane.stop(STOP_SECONDS):
            logger.warning("the lane of %s is still busy; it ends with the process", self.lane.device.name)
        await self.store.close()

    def stats(self) -> dict[str, Any]:
        """Figures since the start, as plain values."""
        batches, tasks = self.worker.batches, self.worker.batched_tasks
        return {
            "queue": {
                "queued": len(self.worker.batcher),
                "live": len(self.live),
                "bytes": self._live_bytes,
                "max_tasks": self.bounds.tasks,
                "max_bytes": self.bounds.nbytes,
            },
            "ended": {state.value: number for state, number in self._ended.items()},
            "settled_late": self._late,
            "batches": {"count": batches, "tasks": tasks, "mean_size": round(tasks / batches, 2) if batches else None},
            "store": self.store.usage()._asdict(),
            "models": {
                "budget_bytes": self.cache.budget,
                "bytes": self.cache.nbytes,
                "loads": self.cache.loads,
                "evictions": self.cache.evictions,
            },
            "waiting": len(self.waiters),
        }

    def check_room(self, nbytes: int) -> None:
        """Refuse early: callers ask before they read a body of that many bytes.

        Raises:
            QueueFullError, ShuttingDownError, EngineDeadError: as for `submit`.
        """
        if self.dead:
            raise EngineDeadError(f"the engine has stopped: {self.dead}")
        if self.closing:
            raise ShuttingDownError("the server is shutting down and takes no new tasks")
        if len(self.live) >= self.bounds.tasks or self._live_bytes + nbytes > self.bounds.nbytes:
            raise QueueFullError(
                f"the queue holds {len(self.live)} of {self.bounds.tasks} tasks and {self._live_bytes} of"
                f" {self.bounds.nbytes} bytes, which leaves no room for {nbytes} bytes more;"
                f" try again in {QueueFullError.retry_after} s"
            )

    def _settle(self, outcomes: Sequence[Outcome]) -> int:
        """End tasks and answer those who wait for them, once the store has it. Gives how many were still live.

        An outcome with neither outputs nor failure is a cancellation.
        """
        now = self._clock()
        settled: list[Task] = []
        state = TaskState.SUCCEEDED
        for task, outputs, failure in outcomes:
            if not task.live:
                self._late += 1
                continue
            if task.state is TaskState.QUEUED:
                self.worker.batcher.discard(task)
            self._live_bytes -= task.input_bytes
            state = TaskState.SUCCEEDED if outputs is not None else TaskState.FAILED if failure else TaskState.CANCELLED
            task.settle(state, now, outputs=outputs, failure=failure)
            del self.live[task.id]
            settled.append(task)
        if settled:  # the outcomes of one call are all of one kind
            self._ended[state] += len(settled)
        if not self.live:
            self._empty.set()
        committed = self.store.finish(settled)
        if committed is DONE:
            self.waiters.wake(settled)
        else:
            commit = asyncio.ensure_future(self._wake_after(committed, settled))
            self._commits.add(commit)
            commit.add_done_callback(self._commits.discard)
        return len(settled)

    async def _wake_after(self, committed: Awaitable[None], tasks: list[Task]) -> None:
        try:
            await committed
        except Exception:
            logger.exception("the outcomes of %d tasks could not be stored", len(tasks))
        finally:
            self.waiters.wake(tasks)

    def _die(self, reason: str) -> None:
        if self.dead:
            return
        self.dead = reason
        logger.critical("the engine has stopped: %s", reason)
        failure = EngineDeadError(f"the engine has stopped: {reason}").failure()
        self._settle([(task, None, failure) for task in list(self.live.values())])
        self._on_dead(reason)

    def _sweep(self) -> None:
        """Remove what has expired, a little at a time."""
        removed = self.store.sweep(self._clock(), SWEEP_TASKS)
        delay = 0.0 if removed == SWEEP_TASKS else SWEEP_SECONDS
        self._sweeper = asyncio.get_running_loop().call_later(delay, self._sweep)


def outputs_of(task: Task) -> Tensors:
    """The outputs of an ended task.

    Raises:
        TaskFailedError: it failed.
        GoneError: it was cancelled or has expired.
    """
    if task.outputs is not None:
        return task.outputs
    if task.failure is not None:
        raise TaskFailedError(task.failure)
    raise GoneError(f"task {task.id} was {task.state.value}")

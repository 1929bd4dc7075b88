"""Gets the models of targets in, finds out whether their tasks may share a batch, and lets them go again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from ndserve.engine.batcher import Batcher
from ndserve.engine.lane import Lane, describe_error
from ndserve.engine.target import Target, TargetKey
from ndserve.errors import ExecutionError, ModelChangedError, NdserveError
from ndserve.model_cache.cache import ModelCache
from ndserve.model_info import Batching
from ndserve.types import Failure, Task

logger = logging.getLogger(__name__)

MAX_REASON = 2000
"""Characters of an exception's text that a caller gets."""


class Loading:
    """The loads that tasks wait for. A target is held back in the batcher until its models are there."""

    def __init__(
        self,
        lane: Lane,
        cache: ModelCache,
        batcher: Batcher,
        clock: Callable[[], float],
        pump: Callable[[], None],
        fail: Callable[[Target, list[Task], Failure], None],
    ) -> None:
        """`pump` is called when tasks may run that could not; `fail` with those whose models cannot be loaded."""
        self._lane = lane
        self._cache = cache
        self._batcher = batcher
        self._clock = clock
        self._pump = pump
        self._fail = fail
        self.read_anew: Callable[[str], Awaitable[None]] | None = None
        """Has a name answer with what lies in the repository now; called when a model's file has changed meanwhile."""
        self._halted = False
        self._jobs: dict[TargetKey, asyncio.Task[None]] = {}
        # Targets that have had a batch while others waited for room in the cache; they queue up for it now.
        self._served: set[TargetKey] = set()
        self._turned = asyncio.Event()
        self._running: Counter[TargetKey] = Counter()
        # When each target's models were loaded last, from when to when: what a task that waited for it waited.
        self._loads: dict[TargetKey, tuple[float, float]] = {}

    def may_run(self, target: Target) -> bool:
        """Whether its models are there, and it is not their turn to make room for somebody who waits."""
        if target.key in self._served and not all(self._cache.known(info).pinned for info in target.models):
            return False
        return all(self._cache.resident(info) for info in target.models)

    def begin(self, target: Target) -> None:
        """Load the target's models, and hold its tasks back meanwhile."""
        self._batcher.hold(target.key)
        job = asyncio.create_task(self._load(target))
        self._jobs[target.key] = job  # the loop alone would not keep it alive
        job.add_done_callback(partial(self._ended, target.key))

    async def warm(self, target: Target, instead_of: Sequence[Target] = ()) -> None:
        """Load the target's models ahead of the first request, also such as have failed to load a moment ago.

        Args:
            instead_of: what this target is to replace.

        Raises:
            ModelLoadError, ModelTooLargeError, ModelMemoryFullError: as `ModelCache.loaded` says.
        """
        replaced = [info.key for former in instead_of for info in former.models]
        async with self._cache.loaded(target.models, instead_of=replaced, again=True):
            self._take_verdict(target)

    async def left(self, target: Target) -> None:
        """Wait until no task of the target is queued or runs any more, and give up a load that nobody waits for now."""
        while self._running[target.key] or self._batcher.has(target.key):
            self._turned.clear()
            await self._turned.wait()
        job = self._jobs.get(target.key)
        if job is not None:
            job.cancel()
            await asyncio.wait([job])
            self._batcher.release(target.key)

    def forget(self, target: Target) -> None:
        """Drop what is known of a target that is gone."""
        self._loads.pop(target.key, None)
        self._running.pop(target.key, None)
        self._served.discard(target.key)

    def look_again(self) -> None:
        """Note that a task has left its queue other than in a batch."""
        self._turned.set()

    def came_back(self, target: Target) -> None:
        """Note that a batch of the target has ended."""
        self._running[target.key] -= 1
        self._turned.set()

    def new_round(self) -> None:
        """Give everyone a turn again, once nobody waits for room."""
        if not self._cache.room_wanted:
            self._served.clear()

    def turn(self, target: Target) -> None:
        """Note that the target has its batch."""
        self._running[target.key] += 1
        if self._cache.room_wanted:
            self._served.add(target.key)
        self._turned.set()

    def note_waits(self, target: Target, tasks: Sequence[Task]) -> None:
        """Note how long each task has waited for the target's models."""
        load = self._loads.get(target.key)
        if load is not None:
            began, ended = load
            for task in tasks:
                if task.created < ended:
                    task.load_seconds = ended - max(began, task.created)

    def judge(self, target: Target, batching: Batching) -> None:
        """Take what a batch has shown of the target's batch safety."""
        if target.batching.mode != "untested":
            return  # a batch that was on its way when the verdict fell
        target.probes_left -= 1
        if batching.mode == "untested" and target.probes_left <= 0:
            batching = Batching("off", f"no request could show that batching is safe: {batching.reason}")
        target.batching = batching
        logger.info("model %s/%s: batching is %s: %s", target.name, target.version, batching.mode, batching.reason)

    def halt(self) -> None:
        """Call no task failed any more because its models do not load: the engine has died, not the tasks."""
        self._halted = True

    async def close(self) -> None:
        """Give up the loads under way."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    def _ended(self, key: TargetKey, job: asyncio.Task[None]) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]

    async def _load(self, target: Target) -> None:
        began = self._clock()
        try:
            async with self._cache.loaded(target.models):
                self._take_verdict(target)
                self._loads[target.key] = began, self._clock()
                self._served.discard(target.key)
                self._batcher.release(target.key)
                self._pump()
                # Not evicted again before it has had its turn, which a busy lane may put off.
                while self._cache.room_wanted and self._lane.in_flight and self._has_turn_to_come(target):
                    self._turned.clear()
                    await self._turned.wait()
        except Exception as error:
            logger.error("%s: %s", target.name, error)
            if self._halted:
                return
            failure = error.failure() if isinstance(error, NdserveError) else failure_of(target, error)
            if isinstance(error, ModelChangedError) and self.read_anew is not None:
                for info in target.models:
                    with contextlib.suppress(NdserveError):
                        await self.read_anew(info.name)  # then what is new there can take the tasks
            self._fail(target, self._batcher.drop(target.key), failure)
            self._turned.set()

    def _has_turn_to_come(self, target: Target) -> bool:
        return target.key not in self._served and self._batcher.has(target.key)

    def _take_verdict(self, target: Target) -> None:
        """Take what the load has shown of a model's batch safety, where random inputs could tell."""
        if target.process is not None or target.batching.mode != "untested":
            return
        verdict = self._cache.known(target.models[0]).verdict
        if verdict is not None:
            target.batching = verdict


def failure_of(target: Target, error: BaseException) -> Failure:
    """What the caller of a task that failed on the device is told; the log has the traceback."""
    logger.error("%s %s failed", target.kind, target.name, exc_info=error)
    return ExecutionError(f"{target.name!r} raised {describe_error(error)[:MAX_REASON]}").failure()

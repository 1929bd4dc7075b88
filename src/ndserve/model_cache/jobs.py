"""What threads do for the cache: find out what models take, and load them. Failures are remembered for a while."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ndserve.errors import ModelChangedError, ModelLoadError, NdserveError, ShuttingDownError
from ndserve.model_cache.books import Books
from ndserve.model_cache.residency import Job, Loads, Residency
from ndserve.model_info import ModelInfo

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOADERS = 4
"""Loads that may be under way at a time, so that a slow one does not hold up the others."""

MOST_DOUBLINGS = 6
"""Failures in a row, each of which doubles the time until a load is tried again."""


class Jobs:
    """The loads under way, and their ends in the books."""

    def __init__(self, loads: Loads, books: Books, clock: Callable[[], float], load_retry: float) -> None:
        """`load_retry` are the seconds after which a load that has failed is tried again for the first time."""
        self.closed = False
        self.done = 0
        """Loads that have succeeded."""
        self.on_outcome: Callable[[ModelInfo, bool], None] = _nobody
        """Called when a load has ended: whether it has failed, in a way that is the model's own."""
        self._loads = loads
        self._books = books
        self._clock = clock
        self._load_retry = load_retry
        self._loaders = ThreadPoolExecutor(max_workers=LOADERS, thread_name_prefix="ndserve-loader")

    def price(self, model: Residency) -> Job | None:
        """Find out what a model takes; None where that is known at once."""
        if model.cost is None:
            model.cost = self._loads.known_cost(model.info)
        if model.cost is not None:
            return None
        if model.pricing is None or model.pricing.done():
            model.pricing = asyncio.create_task(self._find_cost(model))
        return model.pricing

    def load(self, models: Sequence[Residency], more: int) -> None:
        """Begin to load models, one after the other, which are booked from now on.

        `more` is what the one that is being loaded may take beyond what it keeps. It is booked until the last is there.
        """
        before: Job | None = None
        for model in models:
            model.nbytes = model.expected.resident + (more if model is models[-1] else 0)
            before = model.load = asyncio.create_task(self._load(model, before))
            before.add_done_callback(partial(self._ended, model))

    def _ended(self, model: Residency, job: Job) -> None:
        """See off a model that was dropped while it loaded."""
        self._books.let_go(model)

    async def end_of(self, job: Job) -> None:
        """Wait for a job that others may wait for, too.

        Raises:
            NdserveError: what it ended with.
        """
        # Not the job itself is awaited: a caller that gives up must not take it from the others.
        await asyncio.wait([job])
        self.check_open()
        error = job.result()
        if error is not None:
            raise type(error)(error.message)

    def check_open(self) -> None:
        """Raises ShuttingDownError after the end."""
        if self.closed:
            raise ShuttingDownError("the server is shutting down; its models are no longer loaded")

    def check_failure(self, model: Residency) -> None:
        """Raises ModelLoadError where the model failed to load a moment ago."""
        seconds = model.retry_at - self._clock()
        if model.problem and model.away and seconds > 0:
            raise ModelLoadError(f"{model.problem} (it is tried again in {math.ceil(seconds)} s)")

    def fail(self, model: Residency, problem: str) -> None:
        """Note that a model cannot be loaded, through its own fault."""
        model.problem = problem
        self.on_outcome(model.info, True)

    def remember(self, model: Residency, problem: str) -> None:
        """Note the same, and do not try again for a while, which grows with every failure."""
        model.failures += 1
        doubled = 2 ** (min(model.failures, MOST_DOUBLINGS) - 1)
        model.retry_at = self._clock() + self._load_retry * doubled
        self.fail(model, problem)

    async def close(self) -> None:
        """Give up what is under way."""
        models = self._books.models.values()
        jobs = [job for model in models for job in (model.load, model.pricing) if job is not None]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        self._loaders.shutdown(wait=False, cancel_futures=True)

    async def _find_cost(self, model: Residency) -> NdserveError | None:
        found = await self._on_loader(model, partial(self._loads.cost, model.info))
        if isinstance(found, NdserveError):
            return found
        model.cost = found
        return None

    async def _load(self, model: Residency, before: Job | None) -> NdserveError | None:
        if before is not None:
            await asyncio.wait([before])
        began, cost = self._clock(), model.expected
        work = partial(self._loads.load, model.info, cost, judge=model.verdict is None)
        loaded = await self._on_loader(model, work)
        if isinstance(loaded, NdserveError):
            return loaded
        model.session, model.verdict = loaded.take(), loaded.verdict or model.verdict
        model.last_used = self._clock()
        model.load_seconds = model.last_used - began
        model.loads += 1
        model.failures, model.problem = 0, ""
        self.done += 1
        self._books.correct(model, cost, loaded.reading)
        self.on_outcome(model.info, False)
        name, version, _ = model.info.key
        logger.info("loaded model %s/%s in %.2f s, %d bytes", name, version, model.load_seconds, model.nbytes)
        return None

    async def _on_loader(self, model: Residency, work: Callable[[], T]) -> T | NdserveError:
        """What `work` gives on a loader's thread, or why it fails, which is remembered."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._loaders, work)
        except ModelChangedError as error:
            self._books.cancel(model)
            return ModelChangedError(error.message)
        except ModelLoadError as error:
            failed = ModelLoadError(error.message)  # a new one, since frames that it came through hold the session
        except Exception as error:
            name, version, _ = model.info.key
            logger.exception("model %s/%s does not load", name, version)
            failed = ModelLoadError(f"model {name!r} version {version} does not load: {error!r}")
        self._books.cancel(model)
        self.remember(model, failed.message)
        return failed


def _nobody(info: ModelInfo, failed: bool) -> None:
    """Nobody asks."""

"""Loads that a test can hold back and look at, and the ways to wait for the cache."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from ndserve.devices.cpu import CpuDevice
from ndserve.errors import ModelLoadError
from ndserve.model_cache.batch_safety import ON
from ndserve.model_cache.cache import ModelCache, Patience
from ndserve.model_cache.costs import Cost
from ndserve.model_cache.meter import Reading
from ndserve.model_cache.residency import Loaded
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo, ModelOptions

PATIENCE = 20.0
"""Seconds after which a thread that hangs fails its test; nothing ever waits that long."""


def info(name: str, nbytes: int = 1, *, pinned: bool = False, largest: int = 0, revision: int = 0) -> ModelInfo:
    options = ModelOptions(pinned=pinned)
    return ModelInfo(name, "1", Path(name), nbytes, (), (), options, largest=largest, revision=revision)


class Clock:
    """Seconds, as the test sets them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Loads:
    """Opens empty sessions. Knows what was opened, what was alive then, and how many bytes that came to."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.generous: set[str] = set()
        self.unpriced: set[str] = set()
        self.unreadable: set[str] = set()
        self.priced: list[str] = []
        self.failing: set[str] = set()
        self.mishaps: set[str] = set()
        self.readings: dict[str, list[Reading]] = {}
        self.alive_before: list[set[str]] = []
        self.given_back: list[int] = []
        self.peak = 0
        self._lock = threading.Lock()
        self._opening: list[int] = []
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._gates: dict[str, threading.Event] = {}
        self._begun = threading.Semaphore(0)

    def known_cost(self, info: ModelInfo) -> Cost | None:
        return None if info.name in self.unpriced else self._cost(info)

    def cost(self, info: ModelInfo) -> Cost:
        """On a loader's thread, as `load` is."""
        self.priced.append(info.name)
        if info.name in self.unreadable:
            raise ModelLoadError(f"{info.name} cannot be read")
        return self._cost(info)

    def _cost(self, info: ModelInfo) -> Cost:
        more = info.nbytes if info.name in self.generous else info.largest
        return Cost(info.nbytes, info.nbytes + more, measured=False)

    def load(self, info: ModelInfo, cost: Cost, *, judge: bool) -> Loaded:
        with self._lock:
            self.opened.append(info.name)
            self.alive_before.append(self.alive())
            self._opening.append(cost.loading)
            self.peak = max(self.peak, sum(session.info.nbytes for session in self._sessions) + sum(self._opening))
        self._begun.release()
        try:
            for held in ("", info.name):
                assert self._gate(held).wait(PATIENCE)
            if info.name in self.failing:
                raise ModelLoadError(f"{info.name} is broken")
            if info.name in self.mishaps:
                raise ZeroDivisionError
            session = Session(info, CpuDevice(), None)
            self._sessions.add(session)
        finally:
            with self._lock:
                self._opening.remove(cost.loading)
        readings = self.readings.get(info.name, [Reading()])
        reading = readings.pop(0) if len(readings) > 1 else readings[0]
        return Loaded(session, reading, ON if judge else None)

    def known_digest(self, info: ModelInfo) -> str | None:
        return None

    def gone(self, nbytes: int) -> None:
        self.given_back.append(nbytes)

    def _gate(self, name: str) -> threading.Event:
        if name not in self._gates:
            self._gates[name] = threading.Event()
            self._gates[name].set()
        return self._gates[name]

    def alive(self) -> set[str]:
        """The names of the sessions that somebody still refers to."""
        return {session.info.name for session in self._sessions}

    @contextmanager
    def held(self, name: str = "") -> Iterator[None]:
        """Loads begin but do not end within: all of them, or those of one model."""
        self._gate(name).clear()
        try:
            yield
        finally:
            self._gate(name).set()

    async def begun(self) -> None:
        """Wait until a load is under way."""
        await asyncio.to_thread(self._wait_for_one)

    def _wait_for_one(self) -> None:
        while not self._opening:
            assert self._begun.acquire(timeout=PATIENCE)


@asynccontextmanager
async def a_cache(
    budget: int, clock: Clock | None = None, *, load_wait: float = PATIENCE, load_retry: float = 0.0
) -> AsyncIterator[tuple[ModelCache, Loads]]:
    loads = Loads()
    cache = ModelCache(loads, budget, clock or Clock(), Patience(load_wait, load_retry))
    try:
        yield cache, loads
    finally:
        await cache.close()


async def settle(cache: ModelCache, rounds: int = 20) -> None:
    """Let everything happen that can happen by itself. Loads must not be held."""
    for _ in range(rounds):
        models = list(cache._books.models.values())
        if jobs := [job for model in models for job in (model.load, model.pricing) if job and not job.done()]:
            await asyncio.wait(jobs)
        # The closer works in order: this returns when all that was given to it before has ended.
        await asyncio.get_running_loop().run_in_executor(cache._books._closer, int)
        await ticks(5)


async def ticks(number: int) -> None:
    """Let the event loop go round."""
    for _ in range(number):
        await asyncio.sleep(0)


async def use(cache: ModelCache, *infos: ModelInfo) -> None:
    """Load the models and let them go again."""
    async with cache.loaded(infos):
        await asyncio.sleep(0)


async def ends(cache: ModelCache, *calls: Coroutine[Any, Any, None]) -> list[BaseException | None]:
    """How these calls end, by themselves and together; none of them may be left waiting."""
    tasks = [asyncio.create_task(call) for call in calls]
    await settle(cache)
    waiting = [task for task in tasks if not task.done()]
    for task in waiting:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not waiting, f"{len(waiting)} of {len(tasks)} callers wait for ever; {cache.loads} loads were made"
    return results

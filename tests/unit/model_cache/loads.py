"""A stand-in for `Session.open` whose loads a test can hold back, and the ways to wait for the cache."""

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
from ndserve.model_cache.cache import ModelCache
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo, ModelOptions

PATIENCE = 20.0
"""Seconds after which a thread that hangs fails its test; nothing ever waits that long."""


def info(name: str, nbytes: int = 1, *, pinned: bool = False) -> ModelInfo:
    return ModelInfo(name, "1", Path(name), nbytes, (), (), ModelOptions(pinned=pinned))


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
        self.failing: set[str] = set()
        self.mishaps: set[str] = set()
        self.alive_before: list[set[str]] = []
        self.peak = 0
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._gate = threading.Event()
        self._gate.set()
        self._begun = threading.Semaphore(0)

    def __call__(self, info: ModelInfo) -> Session:
        """On the loader's thread."""
        self.opened.append(info.name)
        self.alive_before.append(self.alive())
        self.peak = max(self.peak, sum(session.info.nbytes for session in self._sessions) + info.nbytes)
        self._begun.release()
        assert self._gate.wait(PATIENCE)
        if info.name in self.failing:
            raise ModelLoadError(f"{info.name} is broken")
        if info.name in self.mishaps:
            raise ZeroDivisionError
        session = Session(info, CpuDevice(), None)
        self._sessions.add(session)
        return session

    def alive(self) -> set[str]:
        """The names of the sessions that somebody still refers to."""
        return {session.info.name for session in self._sessions}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Loads begin but do not end within."""
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    async def begun(self) -> None:
        """Wait until one more load has begun than at the last call."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=PATIENCE)


@asynccontextmanager
async def a_cache(budget: int, clock: Clock | None = None) -> AsyncIterator[tuple[ModelCache, Loads]]:
    loads = Loads()
    cache = ModelCache(loads, budget, clock or Clock())
    try:
        yield cache, loads
    finally:
        await cache.close()


async def settle(cache: ModelCache, rounds: int = 20) -> None:
    """Let everything happen that can happen by itself. Loads must not be held."""
    for _ in range(rounds):
        # The loader works in order: this returns when all that was given to it before has ended.
        await asyncio.get_running_loop().run_in_executor(cache._loader, int)
        await ticks(10)


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

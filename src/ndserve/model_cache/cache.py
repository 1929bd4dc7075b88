"""Which models are resident on the device.

Ask before taking memory: does it fit, else evict idle models, else wait for a lease to end, and then load. A model
under a lease is never evicted; a model is loaded once however many wait for it. The event loop owns the books;
a loader thread makes the sessions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ndserve.errors import ModelTooLargeError, NdserveError
from ndserve.model_cache.session import Session
from ndserve.types import ModelInfo

logger = logging.getLogger(__name__)

ModelKey: TypeAlias = tuple[str, str]
"""A model's name and version."""


@dataclass(slots=True)
class Resident:
    """A loaded model and who uses it."""

    info: ModelInfo
    session: Session
    leases: int
    last_used: float
    load_seconds: float


class Evictable(NamedTuple):
    """What the eviction plan looks at."""

    key: ModelKey
    nbytes: int
    last_used: float
    free: bool


def plan_eviction(residents: Iterable[Evictable], excess: int) -> list[ModelKey] | None:
    """The least recently used free models whose bytes together reach `excess`; None where they cannot."""
    plan: list[ModelKey] = []
    for resident in sorted((r for r in residents if r.free), key=lambda r: r.last_used):
        if excess <= 0:
            break
        plan.append(resident.key)
        excess -= resident.nbytes
    return plan if excess <= 0 else None


class ModelCache:
    """Residents within a budget of bytes, least recently used out first."""

    def __init__(self, open_session: Callable[[ModelInfo], Session], budget: int, clock: Callable[[], float]) -> None:
        self.budget = budget
        self.loads = 0
        self.evictions = 0
        self._open_session = open_session
        self._clock = clock
        self._residents: dict[ModelKey, Resident] = {}
        self._loading: dict[ModelKey, asyncio.Task[None]] = {}
        self._problems: dict[ModelKey, str] = {}
        self._reserved = 0
        self._room = asyncio.Event()
        self._sets = asyncio.Lock()
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ndserve-loader")

    @property
    def nbytes(self) -> int:
        """Bytes of all residents and of the loads under way."""
        return sum(resident.info.nbytes for resident in self._residents.values()) + self._reserved

    def resident(self, info: ModelInfo) -> Resident | None:
        return self._residents.get(_key(info))

    def problem(self, info: ModelInfo) -> str:
        """Why the last load failed; empty where it did not."""
        return self._problems.get(_key(info), "")

    def loading(self, info: ModelInfo) -> bool:
        return _key(info) in self._loading

    async def load(self, info: ModelInfo) -> None:
        """Make the model resident; callers that come meanwhile share the one load.

        Raises:
            ModelLoadError: the file could not become a session.
            ModelTooLargeError: there can never be room for it.
        """
        key = _key(info)
        if key in self._residents:
            return
        if key not in self._loading:
            self._loading[key] = asyncio.create_task(self._load(key, info))
        # Shielded: a caller that gives up must not take the load from the others.
        await asyncio.shield(self._loading[key])

    @contextmanager
    def lease(self, infos: Iterable[ModelInfo]) -> Iterator[dict[str, Session]]:
        """The sessions of resident models by name; none of them is evicted until the lease ends.

        Raises:
            KeyError: one of the models is not resident.
        """
        residents = [self._residents[_key(info)] for info in infos]
        for resident in residents:
            resident.leases += 1
        try:
            yield {resident.info.name: resident.session for resident in residents}
        finally:
            for resident in residents:
                resident.leases -= 1
                resident.last_used = self._clock()
            self._room.set()

    @asynccontextmanager
    async def loaded(self, infos: Sequence[ModelInfo]) -> AsyncIterator[None]:
        """Load all of these models and keep them resident while the context lasts.

        Raises:
            ModelLoadError, ModelTooLargeError: as for `load`; also when they do not fit together.
        """
        needed = sum(info.nbytes for info in infos)
        if needed > self.budget:
            names = ", ".join(f"{info.name}/{info.version}" for info in infos)
            raise ModelTooLargeError(
                f"{names} needs {needed} bytes, more than the model cache's budget of {self.budget} (--model-memory)"
            )
        async with AsyncExitStack() as stack:
            if len(infos) > 1:
                # One set at a time: two half-leased sets could wait for each other forever.
                await stack.enter_async_context(self._sets)
            for info in infos:
                while _key(info) not in self._residents:
                    await self.load(info)
                stack.enter_context(self.lease([info]))
            yield

    async def close(self) -> None:
        """Give up the loads under way and drop every session."""
        loads = list(self._loading.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        self._residents.clear()
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def _load(self, key: ModelKey, info: ModelInfo) -> None:
        reserved = 0
        try:
            doomed = await self._make_room(info)
            reserved = info.nbytes
            self._reserved += reserved
            started = self._clock()
            loop = asyncio.get_running_loop()
            session = await loop.run_in_executor(self._loader, self._replace, doomed, info)
            now = self._clock()
            self._residents[key] = Resident(info, session, 0, now, now - started)
            self._problems.pop(key, None)
            self.loads += 1
            logger.info("loaded model %s/%s in %.2f s", *key, now - started)
        except NdserveError as error:
            self._problems[key] = error.message
            raise
        finally:
            self._reserved -= reserved
            del self._loading[key]
            self._room.set()

    def _replace(self, doomed: list[Session], info: ModelInfo) -> Session:
        """On the loader's thread: evicted sessions are freed before the new one takes memory."""
        doomed.clear()
        return self._open_session(info)

    async def _make_room(self, info: ModelInfo) -> list[Session]:
        """Take the sessions out of the books that must go for `info`; wait for leases to end if need be."""
        while True:
            candidates = [
                Evictable(key, r.info.nbytes, r.last_used, not r.leases and not r.info.options.pinned)
                for key, r in self._residents.items()
            ]
            plan = plan_eviction(candidates, self.nbytes + info.nbytes - self.budget)
            if plan is not None:
                self.evictions += len(plan)
                return [self._residents.pop(key).session for key in plan]
            if not self._reserved and not any(resident.leases for resident in self._residents.values()):
                raise ModelTooLargeError(
                    f"model {info.name!r} needs {info.nbytes} bytes; {self.nbytes} of the budget of {self.budget}"
                    " are taken by pinned models (--model-memory)"
                )
            self._room.clear()
            await self._room.wait()


def _key(info: ModelInfo) -> ModelKey:
    return info.name, info.version

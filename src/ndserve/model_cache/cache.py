"""Which models are resident on the device.

Ask before taking memory: does it fit, else evict idle models, else wait for a lease to end, and then load. A model
under a lease is never evicted; a model is loaded once however many wait for it. The event loop owns the books;
a loader thread makes the sessions.

Callers of `loaded` come in one at a time, in the order in which they asked. The first in line waits for room for all
of its models at once, and holds none of them meanwhile; once in, it holds all of them and waits for loads alone,
which end by themselves. So nobody waits in a circle, and nobody is passed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from ndserve.errors import ModelLoadError, ModelTooLargeError, ShuttingDownError
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo, ModelKey

logger = logging.getLogger(__name__)

Wanted: TypeAlias = dict[ModelKey, ModelInfo]
"""What one caller of `loaded` asks for."""


@dataclass(slots=True, eq=False)
class Resident:
    """A model in the books, and who uses it. It has no session until it is loaded, nor once it is evicted."""

    info: ModelInfo
    session: Session | None = None
    leases: int = 0
    last_used: float = 0.0
    load_seconds: float = 0.0
    unwanted: bool = False
    load: asyncio.Task[str] = field(init=False)
    """Ends with the reason where the load fails, else with an empty string."""

    @property
    def evictable(self) -> bool:
        return self.session is not None and not self.leases and not self.info.options.pinned


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
        self._models: dict[ModelKey, Resident] = {}
        self._problems: dict[ModelKey, str] = {}
        self._line: list[Wanted] = []
        self._turn = asyncio.Lock()  # wakes those who wait in the order in which they came
        self._room = asyncio.Event()
        self._closed = False
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ndserve-loader")

    @property
    def nbytes(self) -> int:
        """Bytes of all residents and of the loads under way."""
        return sum(resident.info.nbytes for resident in self._models.values())

    @property
    def room_wanted(self) -> bool:
        """Whether callers of `loaded` wait in line for room.

        Who leases evictable models again and again keeps them waiting, and should now ask for `loaded` first.
        """
        return bool(self._line)

    def resident(self, info: ModelInfo) -> Resident | None:
        """The model's entry; None where it is not loaded, or not yet."""
        resident = self._models.get(info.key)
        return resident if resident is not None and resident.session is not None else None

    def loading(self, info: ModelInfo) -> bool:
        """Whether a load is under way, or waits for room."""
        key = info.key
        if key in self._models:
            return self._models[key].session is None
        return any(key in wanted for wanted in self._line)

    def problem(self, info: ModelInfo) -> str:
        """Why the last load failed; empty where it did not."""
        return self._problems.get(info.key, "")

    @contextmanager
    def lease(self, infos: Iterable[ModelInfo]) -> Iterator[dict[str, Session]]:
        """The sessions of resident models by name; none of them is evicted until the lease ends.

        Raises:
            KeyError: one of the models is not resident.
        """
        residents, sessions = [], {}
        for info in infos:
            resident = self._models[info.key]
            if resident.session is None:
                raise KeyError(info.key)
            residents.append(resident)
            sessions[info.name] = resident.session
        _hold(residents)
        try:
            yield sessions
        finally:
            self._release(residents)

    @asynccontextmanager
    async def loaded(self, infos: Iterable[ModelInfo]) -> AsyncIterator[None]:
        """Load all of these models, and keep them resident while the context lasts.

        Not to be entered under a lease: it may wait for that lease to end.

        Raises:
            ModelLoadError: a file could not become a session.
            ModelTooLargeError: there can never be room for all of them beside the pinned models.
            ShuttingDownError: the cache was closed.
        """
        residents = await self._enter({info.key: info for info in infos})
        try:
            for resident in residents:
                # Not the load itself is awaited: a caller that gives up must not take it from the others.
                await asyncio.wait([resident.load])
                self._check_open()
                if problem := resident.load.result():
                    raise ModelLoadError(problem)
            yield
        finally:
            self._release(residents)

    async def close(self) -> None:
        """Give up the loads under way, refuse whoever waits, and drop every session."""
        self._closed = True
        self._room.set()
        loads = [resident.load for resident in self._models.values()]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        self._models.clear()
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def _enter(self, wanted: Wanted) -> list[Resident]:
        """Wait in line for room for all that is wanted, and lease it."""
        self._check_possible(wanted)
        self._line.append(wanted)
        try:
            async with self._turn:
                while (residents := self._admit(wanted)) is None:
                    self._room.clear()
                    await self._room.wait()
                return residents
        finally:
            self._line.remove(wanted)

    def _admit(self, wanted: Wanted) -> list[Resident] | None:
        """Evict what must go for it, begin its loads, and lease it, all at once; None while there is no room."""
        self._check_open()
        self._check_possible(wanted)  # again: pinned models may have come while this caller waited
        missing = [info for key, info in wanted.items() if key not in self._models]
        evictables = [
            Evictable(key, r.info.nbytes, r.last_used, r.evictable and key not in wanted)
            for key, r in self._models.items()
        ]
        plan = plan_eviction(evictables, self.nbytes + sum(info.nbytes for info in missing) - self.budget)
        if plan is None:
            return None
        self.evictions += len(plan)
        evicted = [self._models.pop(key) for key in plan]
        for info in missing:
            resident = self._models[info.key] = Resident(info)
            resident.load = asyncio.create_task(self._load(resident, evicted))
        residents = [self._models[key] for key in wanted]
        _hold(residents)
        return residents

    def drop(self, info: ModelInfo) -> None:
        """Let go of a model that nobody will ask for again, pinned or not, as soon as its last lease ends."""
        self._problems.pop(info.key, None)
        resident = self._models.get(info.key)
        if resident is not None:
            resident.unwanted = True
            if not resident.leases:
                self._forget(resident)
                self._room.set()

    def _forget(self, resident: Resident) -> None:
        if self._models.get(resident.info.key) is resident and resident.session is not None:
            del self._models[resident.info.key]
            self._loader.submit(_close, resident)  # a device may take its time to give memory back

    def _release(self, residents: Iterable[Resident]) -> None:
        for resident in residents:
            resident.leases -= 1
            resident.last_used = self._clock()
            if resident.unwanted and not resident.leases:
                self._forget(resident)
        self._room.set()

    def _check_open(self) -> None:
        if self._closed:
            raise ShuttingDownError("the server is shutting down; its models are no longer loaded")

    def _check_possible(self, wanted: Wanted) -> None:
        """Raise ModelTooLargeError where all that can be evicted would not be enough."""
        needed = sum(info.nbytes for info in wanted.values())
        pinned = sum(
            resident.info.nbytes
            for key, resident in self._models.items()
            if resident.session is not None and resident.info.options.pinned and key not in wanted
        )
        if pinned + needed <= self.budget:
            return
        names = ", ".join(f"{name}/{version}" for name, version, _ in wanted)
        message = (
            f"{names} needs {needed} bytes; the model cache has {self.budget} (--model-memory),"
            f" of which pinned models take {pinned}"
        )
        if len(wanted) == 1:  # of a set, no one model is to blame
            self._problems[next(iter(wanted))] = message
        raise ModelTooLargeError(message)

    async def _load(self, resident: Resident, evicted: list[Resident]) -> str:
        """Make the session, or say why that fails: by what it gives, because nobody may be left to catch an error."""
        key = resident.info.key
        try:
            opening = asyncio.get_running_loop().run_in_executor(self._loader, self._open, resident.info, evicted)
            resident.session, resident.load_seconds = await opening
        except ModelLoadError as error:
            self._problems[key] = error.message
            return error.message
        finally:
            if resident.session is None:
                del self._models[key]
            self._room.set()
        resident.last_used = self._clock()
        self._problems.pop(key, None)
        self.loads += 1
        logger.info("loaded model %s/%s in %.2f s", *key[:2], resident.load_seconds)
        if resident.unwanted and not resident.leases:
            self._forget(resident)  # it was dropped while it loaded, and its callers have gone
        return ""

    def _open(self, info: ModelInfo, evicted: list[Resident]) -> tuple[Session, float]:
        """The session, and the seconds that it took; on the loader's thread."""
        for resident in evicted:
            # Before the new session takes memory. Some caller's traceback may hold the entry for longer.
            resident.session = None
        started = self._clock()
        return self._open_session(info), self._clock() - started


def _close(resident: Resident) -> None:
    resident.session = None


def _hold(residents: Iterable[Resident]) -> None:
    for resident in residents:
        resident.leases += 1

"""A device that loads nothing and accounts for every byte, and traffic for the cache that loads models onto it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ndserve.devices.cpu import CpuDevice
from ndserve.errors import ModelLoadError, NdserveError
from ndserve.model_cache.cache import ModelCache, Patience
from ndserve.model_cache.costs import Cost
from ndserve.model_cache.meter import Meter, Reading
from ndserve.model_cache.residency import Loaded
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo
from tests.unit.model_cache.loads import PATIENCE, Clock, info, settle


@dataclass(frozen=True)
class Simulated:
    """A model: what its file says, what it really takes once it is loaded, and for how many seconds it loads."""

    info: ModelInfo
    takes: int
    seconds: float


@dataclass
class Fleet:
    """The models by name, and the memory that they have to share."""

    models: list[Simulated]
    budget: int

    @classmethod
    def random(cls, count: int, times: float, seed: int) -> Fleet:
        """So many models, between 1 and 100 MB, which together take so many times the budget."""
        chance = random.Random(seed)
        models = []
        for number in range(count):
            nbytes = int(10 ** chance.uniform(6, 8))
            entry = info(f"m{number}", nbytes, largest=int(nbytes * chance.uniform(0.05, 0.3)))
            seconds = 0.05 + nbytes / 4e8 * chance.uniform(0.5, 3)
            models.append(Simulated(entry, int(nbytes * chance.uniform(0.7, 1.0)), seconds))
        return cls(models, int(sum(model.info.nbytes for model in models) / times))


@dataclass
class SimulatedDevice:
    """Loads by the book: what a model takes while it loads, then what it keeps. `used` is never to pass the budget."""

    fleet: Fleet
    clock: Clock
    fails: Callable[[str], bool] = lambda name: False
    used: int = 0
    peak: int = 0
    loads: int = 0
    alive: dict[int, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._meter = Meter(lambda: self.used)
        self._by_name = {model.info.name: model for model in self.fleet.models}
        self._measured: dict[str, int] = {}

    def known_cost(self, entry: ModelInfo) -> Cost:
        known = self._measured.get(entry.name)
        resident = entry.nbytes if known is None else known
        return Cost(resident, resident + entry.largest, measured=known is not None)

    def cost(self, entry: ModelInfo) -> Cost:
        return self.known_cost(entry)

    def known_digest(self, entry: ModelInfo) -> str | None:
        return None

    def load(self, entry: ModelInfo, cost: Cost, *, judge: bool) -> Loaded:
        """On a loader's thread; several at a time."""
        model = self._by_name[entry.name]
        self._meter.begin()
        self._take(model.takes + entry.largest)
        with self._lock:
            self.clock.now += model.seconds
            failed = self.fails(entry.name)
        if failed:
            self._take(-model.takes - entry.largest)
            self._meter.fail()
            raise ModelLoadError(f"{entry.name} is broken")
        self._take(-entry.largest)
        session = _SimulatedSession(entry, self, model.takes)
        reading = self._meter.end(entry.key, cost.resident)
        if reading.alone is not None:
            # As in the loader: that others let go meanwhile must not make it look smaller.
            reading = Reading(max(reading.alone, model.takes))
            self._measured[entry.name] = min(self._measured.get(entry.name, reading.alone or 0), reading.alone or 0)
        with self._lock:
            self.loads += 1
        return Loaded(session, reading)

    def gone(self, nbytes: int) -> None:
        self._meter.gone(nbytes)

    def _take(self, nbytes: int) -> None:
        with self._lock:
            self.used += nbytes
            self.peak = max(self.peak, self.used)


class _SimulatedSession(Session):
    """Gives its memory back when the last reference to it goes."""

    def __init__(self, entry: ModelInfo, device: SimulatedDevice, nbytes: int) -> None:
        super().__init__(entry, CpuDevice(), None)
        self._simulated = device
        self._nbytes = nbytes
        device.alive[id(self)] = entry.name

    def __del__(self) -> None:
        del self._simulated.alive[id(self)]
        self._simulated._take(-self._nbytes)


@dataclass
class Played:
    """What a trace has come to."""

    hits: int = 0
    served: int = 0
    failed: int = 0
    evicted_leases: int = 0
    over: int = 0


async def play(fleet: Fleet, device: SimulatedDevice, trace: Sequence[int], *, at_once: int) -> Played:
    """Ask for the models of a trace, so many at a time, and hold a lease of each for a while."""
    cache = ModelCache(device, fleet.budget, device.clock, Patience(PATIENCE, 0.0))
    played = Played()
    turn = asyncio.Semaphore(at_once)

    async def ask(number: int) -> None:
        entry = fleet.models[number].info
        async with turn:
            device.clock.now += 0.1
            if cache.resident(entry) is not None:
                played.hits += 1
            try:
                async with cache.loaded([entry]):
                    with cache.lease([entry]) as sessions:
                        for _ in range(number % 3 + 1):
                            await asyncio.sleep(0)
                            held = sessions[entry.name]
                            gone = cache.resident(entry) is None or id(held) not in device.alive
                            played.evicted_leases += gone
                            played.over += cache.nbytes > fleet.budget
                    del sessions, held
                played.served += 1
            except NdserveError:
                played.failed += 1

    try:
        async with asyncio.timeout(PATIENCE * 2):
            await asyncio.gather(*map(ask, trace))
        await settle(cache, rounds=2)
    finally:
        await cache.close()
        await asyncio.to_thread(cache._jobs._loaders.shutdown)  # its threads may still hold the last sessions
        await asyncio.to_thread(cache._books._closer.shutdown)
    return played


def zipf(models: int, length: int, seed: int, *, exponent: float = 1.0) -> list[int]:
    """Numbers of models, of which the nth most popular is asked for in proportion to 1 / n."""
    chance = random.Random(seed)
    numbers = list(range(models))
    chance.shuffle(numbers)
    return chance.choices(numbers, [1 / rank**exponent for rank in range(1, models + 1)], k=length)


def hits_of_lru_by_count(fleet: Fleet, trace: Sequence[int]) -> float:
    """The hit rate of as many models as always fit, the least recently used out first, as Ray Serve does it."""
    sizes = sorted((model.info.nbytes for model in fleet.models), reverse=True)
    most = max(count for count in range(1, len(sizes)) if sum(sizes[:count]) <= fleet.budget)
    return _hit_rate(trace, lambda resident: len(resident) > most)


def hits_of_lru_by_bytes(fleet: Fleet, trace: Sequence[int]) -> float:
    """The hit rate where the least recently used goes until the files of the rest fit."""
    return _hit_rate(trace, lambda resident: sum(fleet.models[n].info.nbytes for n in resident) > fleet.budget)


def _hit_rate(trace: Sequence[int], is_over: Callable[[Any], bool]) -> float:
    resident: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for number in trace:
        hits += number in resident
        resident[number] = None
        resident.move_to_end(number)
        while is_over(resident):
            resident.popitem(last=False)
    return hits / len(trace)

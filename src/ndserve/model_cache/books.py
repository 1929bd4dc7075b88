"""The cache's books: who is there, who uses it, what it takes, and who goes. The event loop owns them.

A thread of their own closes sessions, since a device may take its time to give memory back. What is being closed stays
booked until that has happened, so that nothing is loaded into memory that is not free yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from ndserve.model_cache.costs import Cost
from ndserve.model_cache.eviction import Refusal, plan
from ndserve.model_cache.meter import Reading
from ndserve.model_cache.residency import Residency
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo, ModelKey


class Books:
    """Every model that has been asked for, by key."""

    def __init__(
        self, budget: int, clock: Callable[[], float], gone: Callable[[int], None], on_room: Callable[[], None]
    ) -> None:
        """`gone` is told on the closing thread of bytes given back; `on_room` is called when there may be more room."""
        self.budget = budget
        self.evictions = 0
        self.models: dict[ModelKey, Residency] = {}
        self._clock = clock
        self._gone = gone
        self._on_room = on_room
        self._closed = False
        self._closer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ndserve-closer")

    @property
    def nbytes(self) -> int:
        """Bytes of all that is loaded, being loaded or being closed."""
        return sum(model.nbytes for model in self.models.values())

    def entry(self, info: ModelInfo) -> Residency:
        """The model's entry, a new one where it has none."""
        return self.models.setdefault(info.key, Residency(info))

    def make_room(self, need: int, spared: Collection[ModelKey], given_up: Collection[ModelKey] = ()) -> Refusal | None:
        """Evict what must go so that `need` bytes fit into the budget once that is closed; or say why nothing was.

        Args:
            spared: models that are not to go, because the caller wants them.
            given_up: models that may go although they are pinned.
        """
        closing = sum(model.nbytes for model in self.models.values() if model.closing)
        candidates = [
            model.candidate(spared=key in spared, given_up=key in given_up)
            for key, model in self.models.items()
            if model.nbytes and not model.closing
        ]
        decided = plan(candidates, self.nbytes - closing + need - self.budget, self._clock())
        if isinstance(decided, Refusal):
            return decided
        for key in decided:
            self.evictions += 1
            self.models[key].evictions += 1
            self._evict(self.models[key])
        return None

    def correct(self, model: Residency, cost: Cost, reading: Reading) -> None:
        """Book what a load has shown, and get back within the budget where that is more than was expected."""
        model.nbytes = cost.resident
        if reading.alone is not None:
            model.nbytes = reading.alone
            if reading.alone <= self.budget:  # else it is measured again, since others may have taken memory meanwhile
                least = min(reading.alone, cost.resident) if cost.measured else reading.alone
                model.cost = Cost(least, least + cost.loading - cost.resident, measured=True)
        for key, nbytes in reading.together.items():
            other = self.models.get(key)
            if other is not None and other.session is not None:
                other.nbytes = max(other.nbytes, nbytes)
        if self.nbytes > self.budget and self.make_room(0, {model.info.key}) is not None:
            self._evict(model)  # who waits for it comes in again, for as much room as it really takes
        self._on_room()

    def cancel(self, model: Residency) -> None:
        """Give back what was booked for a load that has failed."""
        model.nbytes = 0
        self._on_room()

    def release(self, models: Iterable[Residency]) -> None:
        """A lease of these models has ended."""
        now = self._clock()
        for model in models:
            model.leases -= 1
            model.used(now)
            self.let_go(model)
        self._on_room()

    def let_go(self, model: Residency) -> None:
        """See an unwanted model off, as far as that can be done now."""
        if not model.unwanted or model.leases or model.loading or model.closing or self._closed:
            return
        if model.session is not None:
            self._evict(model)
        elif self.models.get(model.info.key) is model:
            del self.models[model.info.key]

    def close(self) -> None:
        """Drop every session that nobody uses any more."""
        self._closed = True
        for model in self.models.values():
            model.session = None  # leases have their own references
        self.models.clear()
        self._closer.shutdown(wait=False, cancel_futures=True)

    def _evict(self, model: Residency) -> None:
        held, model.session, model.closing = [model.session], None, True
        closed = asyncio.get_running_loop().run_in_executor(self._closer, self._drop, held, model.nbytes)
        closed.add_done_callback(lambda _: self._note_closed(model))

    def _drop(self, held: list[Session | None], nbytes: int) -> None:
        """On the closing thread. The list has the last reference to the session, save for a caller's traceback."""
        held.clear()
        self._gone(nbytes)

    def _note_closed(self, model: Residency) -> None:
        model.closing, model.nbytes = False, 0
        self.let_go(model)
        self._on_room()

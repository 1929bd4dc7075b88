"""Which models are resident on the device: never more than the budget, whatever is asked for.

Ask before taking memory: does it fit, else evict idle models, else wait for a lease to end, and then load. What a model
takes is booked before it is loaded, and put right by what the load has shown. A model under a lease is never evicted; a
model is loaded once however many wait for it. The event loop owns the books; threads make and close the sessions.

Callers of `loaded` come in one at a time, in the order in which they asked. The first in line waits for room for all
of its models at once, and holds none of them meanwhile; once in, it holds all of them and waits for loads alone,
which end by themselves. So nobody waits in a circle, and nobody is passed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from ndserve.errors import ModelMemoryFullError, ModelTooLargeError
from ndserve.model_cache.books import Books
from ndserve.model_cache.costs import Cost
from ndserve.model_cache.eviction import Refusal
from ndserve.model_cache.jobs import Jobs
from ndserve.model_cache.residency import Loads, Residency
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo, ModelKey

logger = logging.getLogger(__name__)

TRIES = 3
"""Times that a caller's models are loaded when they turn out to be larger than was expected."""

Wanted: TypeAlias = dict[ModelKey, ModelInfo]
"""What one caller of `loaded` asks for."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a caller waits for room, and after which a load that has failed is tried again the first time."""

    load_wait: float = 30.0
    load_retry: float = 5.0


DEFAULT_PATIENCE = Patience()


class ModelCache:
    """Residents within a budget of bytes; what is worth least goes first."""

    def __init__(
        self, loads: Loads, budget: int, clock: Callable[[], float], patience: Patience = DEFAULT_PATIENCE
    ) -> None:
        self._patience = patience
        self._line: list[Wanted] = []
        self._turn = asyncio.Lock()  # wakes those who wait in the order in which they came
        self._room = asyncio.Event()
        self._refusal: Refusal | None = None  # of the first in line
        self._loads = loads
        self._books = Books(budget, clock, loads.gone, self._room.set)
        self._jobs = Jobs(loads, self._books, clock, patience.load_retry)

    def on_outcome(self, call: Callable[[ModelInfo, bool], None]) -> None:
        """Have `call` told when a load has ended: whether it has failed, in a way that is the model's own."""
        self._jobs.on_outcome = call

    @property
    def loads(self) -> int:
        """Loads that have succeeded."""
        return self._jobs.done

    @property
    def budget(self) -> int:
        return self._books.budget

    @property
    def nbytes(self) -> int:
        """Bytes of all residents, of the loads under way, and of what is being closed."""
        return self._books.nbytes

    @property
    def evictions(self) -> int:
        return self._books.evictions

    @property
    def room_wanted(self) -> bool:
        """Whether callers of `loaded` wait in line for room that leases hold.

        Who leases evictable models again and again keeps them waiting, and should now ask for `loaded` first.
        """
        return bool(self._line) and (self._refusal is None or self._refusal.leases_would_do)

    def resident(self, info: ModelInfo) -> Residency | None:
        """The model's entry; None where it is not loaded, or not yet."""
        model = self._books.models.get(info.key)
        return model if model is not None and model.session is not None else None

    def known(self, info: ModelInfo) -> Residency:
        """What is known of a model, loaded or not."""
        return self._books.models.get(info.key) or Residency(info)

    def cost(self, info: ModelInfo) -> Cost | None:
        """What a model takes, as far as that is known now."""
        return self.known(info).cost or self._loads.known_cost(info)

    def digest(self, info: ModelInfo) -> str | None:
        """The SHA-256 of a model's files in hex, where they have been read."""
        return self._loads.known_digest(info)

    def loading(self, info: ModelInfo) -> bool:
        """Whether a load is under way, or waits for its price or for room."""
        model = self.known(info)
        pricing = model.pricing is not None and not model.pricing.done()
        return model.loading or pricing or any(info.key in wanted for wanted in self._line if model.session is None)

    @contextmanager
    def lease(self, infos: Iterable[ModelInfo]) -> Iterator[dict[str, Session]]:
        """The sessions of resident models by name; none of them is evicted until the lease ends.

        Raises:
            KeyError: one of the models is not resident.
        """
        models, sessions = [], {}
        for info in infos:
            model = self._books.models[info.key]
            if model.session is None:
                raise KeyError(info.key)
            models.append(model)
            sessions[info.name] = model.session
        for model in models:
            model.leases += 1
            model.hits += 1
        try:
            yield sessions
        finally:
            self._books.release(models)

    @asynccontextmanager
    async def loaded(
        self, infos: Iterable[ModelInfo], *, instead_of: Collection[ModelKey] = (), again: bool = False
    ) -> AsyncIterator[None]:
        """Load all of these models, and keep them resident while the context lasts.

        Not to be entered under a lease: it may wait for that lease to end.

        Args:
            instead_of: models that these are to replace, which may be evicted for them although they are pinned.
            again: try at once what has failed a moment ago.

        Raises:
            ModelLoadError: a file could not become a session, now or a moment ago.
            ModelTooLargeError: they are larger than the whole budget.
            ModelMemoryFullError: there was no room for them for as long as is waited for it.
            ShuttingDownError: the cache was closed.
        """
        wanted = {info.key: info for info in infos}
        self._check_size(wanted, {key: info.nbytes for key, info in wanted.items()}, 0)
        if not again:
            for info in wanted.values():
                self._jobs.check_failure(self.known(info))
        for _ in range(TRIES):
            await self._price(wanted)
            models = await self._enter(wanted, instead_of)
            try:
                for model in models:
                    if model.load is not None:
                        await self._jobs.end_of(model.load)
                if all(model.session is not None for model in models):
                    yield
                    return
            finally:
                self._books.release(models)
        budget = f"the model cache has {self.budget} bytes (--model-memory)"
        message = f"{_names(wanted)} took more memory than there was, {TRIES} times: {budget}"
        for model in models:
            if model.session is None:
                self._jobs.remember(model, message)
        raise ModelMemoryFullError(message)

    def pin(self, info: ModelInfo, *, pinned: bool) -> None:
        """Keep a model from being evicted once it is loaded, or no more; for as long as the process lives."""
        self._books.entry(info).pin = pinned
        self._room.set()

    def move(self, info: ModelInfo) -> None:
        """Note that a model's files lie elsewhere now; what is loaded stays loaded."""
        self._books.entry(info).info = info

    def drop(self, info: ModelInfo) -> None:
        """Let go of a model that nobody will ask for again, pinned or not, as soon as its last lease ends."""
        model = self._books.models.get(info.key)
        if model is not None:
            model.unwanted = True
            self._books.let_go(model)

    async def close(self) -> None:
        """Give up the loads under way, refuse whoever waits, and drop every session."""
        self._jobs.closed = True
        self._room.set()
        await self._jobs.close()
        self._books.close()

    async def _price(self, wanted: Wanted) -> None:
        """Find out what each model takes.

        Raises:
            NdserveError: as for `loaded`.
        """
        models = [self._books.entry(info) for info in wanted.values()]
        for model in models:
            job = self._jobs.price(model)
            if job is not None:
                await self._jobs.end_of(job)
        missing = [model for model in models if model.session is None and not model.loading]
        more = max((model.expected.least_more(model.info) for model in missing), default=0)
        self._check_size(wanted, {model.info.key: model.takes for model in models}, more)

    async def _enter(self, wanted: Wanted, instead_of: Collection[ModelKey]) -> list[Residency]:
        """Wait in line for room for all that is wanted, and lease it."""
        refusal: Refusal | None = None
        models = [self._books.entry(info) for info in wanted.values()]
        if not self.room_wanted and all(model.session is not None for model in models):
            return _leased(models)  # it takes nothing from those who wait
        self._line.append(wanted)
        try:
            async with asyncio.timeout(self._patience.load_wait) as waiting, self._turn:
                deadline = waiting.when()
                while not isinstance(admitted := self._admit(wanted, instead_of), list):
                    self._refusal = refusal = admitted
                    # What goes for it closes by itself, and is not waited for in vain.
                    waiting.reschedule(None if refusal is None else deadline)
                    self._room.clear()
                    await self._room.wait()
                return admitted
        except TimeoutError:
            raise self._full(wanted, refusal) from None
        finally:
            self._line.remove(wanted)
            if refusal is self._refusal:
                self._refusal = None

    def _admit(self, wanted: Wanted, instead_of: Collection[ModelKey]) -> list[Residency] | Refusal | None:
        """Begin the loads of what is wanted, and lease it, all at once; None while what goes for it is being closed."""
        self._jobs.check_open()
        books = self._books
        models = [books.entry(info) for info in wanted.values()]
        missing = [model for model in models if model.session is None and not model.loading]
        resident = sum(model.expected.resident for model in missing)
        liked = max((model.expected.loading - model.expected.resident for model in missing), default=0)
        least = max((model.expected.least_more(model.info) for model in missing), default=0)
        # One that is too large for what a load likes gets all that there is, if that is not less than it must have.
        present = sum(model.nbytes for model in models if model not in missing)
        more = max(least, min(liked, books.budget - present - resident))
        need = resident + more
        # Those that are to be replaced go last: they serve until their successors are there.
        refusal = books.make_room(need, wanted)
        if refusal is not None and instead_of:
            refusal = books.make_room(need, wanted, instead_of)
        if refusal is not None:
            return refusal
        if books.nbytes + need > books.budget or any(model.closing for model in models):
            return None
        self._jobs.load(missing, more)
        return _leased(models)

    def _check_size(self, wanted: Wanted, sizes: Mapping[ModelKey, int], more: int) -> None:
        """`more` is what loading one of them takes at least beyond the sizes of all."""
        if sum(sizes.values()) + more > self.budget:
            each = ", ".join(f"{name}/{version} ({nbytes} bytes)" for (name, version, _), nbytes in sizes.items())
            beside = f" and {more} more while it is loaded" if more else ""
            message = f"{each}{beside} cannot be had: the model cache has {self.budget} bytes in all (--model-memory)"
            if len(wanted) == 1:  # of a set, no one model is to blame
                (info,) = wanted.values()
                self._jobs.fail(self._books.entry(info), message)
            raise ModelTooLargeError(message)

    def _full(self, wanted: Wanted, refusal: Refusal | None) -> ModelMemoryFullError:
        reason = str(refusal) if refusal else "others were first in line"
        return ModelMemoryFullError(
            f"there was no room for {_names(wanted)} within {self._patience.load_wait:g} s (--load-wait):"
            f" of {self.budget} bytes (--model-memory) {self.nbytes} are taken; {reason}"
        )


def _leased(models: list[Residency]) -> list[Residency]:
    for model in models:
        model.leases += 1
    return models


def _names(wanted: Wanted) -> str:
    return ", ".join(f"{name}/{version}" for name, version, _ in wanted)

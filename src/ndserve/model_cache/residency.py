"""A model in the cache's books, and what has become of it so far."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ndserve.errors import NdserveError
from ndserve.model_cache.costs import Cost
from ndserve.model_cache.eviction import Candidate, Held, cooled
from ndserve.model_cache.meter import UNREAD, Reading
from ndserve.model_cache.session import Session
from ndserve.model_info import Batching, ModelInfo

Job: TypeAlias = "asyncio.Task[NdserveError | None]"
"""Something that a loader does for a model: it gives why it failed, since nobody may be left to catch an error."""

State: TypeAlias = Literal["UNLOADED", "LOADING", "READY", "FAILED", "UNLOADING"]


@dataclass(slots=True, eq=False)
class Loaded:
    """A session that has run, what the load has shown of memory, and of batch safety where that was asked."""

    session: Session | None
    reading: Reading = UNREAD
    verdict: Batching | None = None

    def take(self) -> Session | None:
        """The session, which the loader's thread may hold this by for a moment longer, and so would keep in memory."""
        session, self.session = self.session, None
        return session


class Loads(Protocol):
    """How models come and go. Threads call it, several at a time, save where it says otherwise."""

    def known_cost(self, info: ModelInfo) -> Cost | None:
        """What the model will take, where that can be told at once; called on the event loop."""
        ...

    def cost(self, info: ModelInfo) -> Cost:
        """What the model will take; may read all of it.

        Raises:
            ModelLoadError: it cannot be read, or is not to be loaded.
        """
        ...

    def load(self, info: ModelInfo, cost: Cost, *, judge: bool) -> Loaded:
        """Make a session and warm it up; `judge` asks for its batch safety.

        Raises:
            ModelLoadError: it cannot be done.
        """
        ...

    def known_digest(self, info: ModelInfo) -> str | None:
        """The SHA-256 of the model's files in hex, where they have been read; called on the event loop."""
        ...

    def gone(self, nbytes: int) -> None:
        """A session was let go of, and has given back so many bytes."""
        ...


@dataclass(slots=True, eq=False)
class Residency:
    """One revision of a model: whether it is loaded, who uses it, and its figures. The event loop owns it.

    `nbytes` is what it is booked with now: nothing while it is away. `pin` is what a client has said of it, which
    counts more than its model.toml. `unwanted` says that it goes with its last lease. `times` are Unix seconds.
    """

    info: ModelInfo
    session: Session | None = None
    closing: bool = False
    nbytes: int = 0
    cost: Cost | None = None
    pricing: Job | None = None
    load: Job | None = None
    verdict: Batching | None = None
    leases: int = 0
    pin: bool | None = None
    unwanted: bool = False
    heat: float = 0.0
    last_used: float = 0.0
    load_seconds: float = 0.0
    hits: int = 0
    loads: int = 0
    evictions: int = 0
    failures: int = 0
    problem: str = ""
    retry_at: float = 0.0

    @property
    def pinned(self) -> bool:
        return self.info.options.pinned if self.pin is None else self.pin

    @property
    def loading(self) -> bool:
        return self.load is not None and not self.load.done()

    @property
    def expected(self) -> Cost:
        """What loading it takes. Without a price, because it was dropped and is wanted again, by its files alone."""
        return self.cost or Cost(self.info.nbytes, self.info.nbytes + self.info.largest, measured=False)

    @property
    def takes(self) -> int:
        """Bytes that it keeps, or will keep."""
        return self.nbytes if self.session is not None else self.expected.resident

    @property
    def away(self) -> bool:
        """Neither loaded nor on its way in or out."""
        return self.session is None and not self.loading and not self.closing

    @property
    def state(self) -> State:
        if self.loading:
            return "LOADING"
        if self.closing:
            return "UNLOADING"
        if self.session is not None:
            return "READY"
        return "FAILED" if self.problem else "UNLOADED"

    def used(self, now: float) -> None:
        """Note that it was of use."""
        self.heat = cooled(self.heat, now - self.last_used) + 1.0
        self.last_used = now

    def candidate(self, *, spared: bool, given_up: bool) -> Candidate:
        """As the eviction plan sees it. It is `spared` for who asks, or `given_up` by who asks, whatever its pin."""
        held: Held = ""
        if self.session is None:
            held = "loading"
        elif self.leases or spared:
            held = "leased"
        elif self.pinned and not given_up:
            held = "pinned"
        return Candidate(self.info.key, self.nbytes, self.load_seconds, self.heat, self.last_used, held)

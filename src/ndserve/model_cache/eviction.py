"""Which models make room for others: a pure decision.

Kept is what would cost most to be without: the seconds that it takes to load again, as often as it is asked for, for
each byte that it takes. Such is the worth of a document in Cao and Irani's GreedyDual-Size
(https://www.usenix.org/legacy/publications/library/proceedings/usits97/cao.html) and in its successors that count uses.
Here a use counts half after `HALF_LIFE` seconds, which takes the place of their ageing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

from ndserve.model_info import ModelKey

HALF_LIFE = 300.0
"""Seconds after which a use counts half."""

Held: TypeAlias = Literal["", "leased", "pinned", "loading"]
"""Why a model cannot go; empty where it can."""


class Candidate(NamedTuple):
    """What the plan looks at. `heat` is the decayed number of uses at `last_used`."""

    key: ModelKey
    nbytes: int
    load_seconds: float
    heat: float
    last_used: float
    held: Held

    def worth(self, now: float) -> float:
        """Seconds of loading that keeping a byte of it spares, up to a common factor."""
        return self.load_seconds * cooled(self.heat, now - self.last_used) / max(self.nbytes, 1)


class Refusal(NamedTuple):
    """Not enough can go: bytes that are needed, that could go, and that cannot, by what holds them."""

    need: int
    free: int
    leased: int
    pinned: int
    loading: int

    @property
    def leases_would_do(self) -> bool:
        """Whether there would be enough if all leases ended."""
        return self.need <= self.free + self.leased

    def __str__(self) -> str:
        return (
            f"{self.need} bytes more are needed, and idle models hold {self.free};"
            f" in use are {self.leased}, pinned {self.pinned}, and being loaded {self.loading}"
        )


def plan(residents: Iterable[Candidate], need: int, now: float) -> list[ModelKey] | Refusal:
    """The models to evict so that `need` bytes become free, or why there are not so many.

    Those that are worth least go first; what turns out to be more than enough stays.
    """
    residents = list(residents)
    free = sorted((each for each in residents if not each.held), key=lambda each: (each.worth(now), each.last_used))
    chosen: list[Candidate] = []
    missing = need
    for candidate in free:
        if missing <= 0:
            break
        chosen.append(candidate)
        missing -= candidate.nbytes
    if missing > 0:
        held = {
            why: sum(each.nbytes for each in residents if each.held == why) for why in ("leased", "pinned", "loading")
        }
        return Refusal(need, need - missing, **held)
    for candidate in reversed(chosen.copy()):
        if missing + candidate.nbytes <= 0:
            chosen.remove(candidate)
            missing += candidate.nbytes
    return [candidate.key for candidate in chosen]


def cooled(heat: float, seconds: float) -> float:
    """What is left of a number of uses after so many seconds."""
    return heat * math.exp2(-seconds / HALF_LIFE)

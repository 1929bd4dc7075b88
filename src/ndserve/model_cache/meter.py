"""What a load really takes: the memory in use before and after it.

Several loads may be under way at once, and then nothing tells what each has added. What all of them have added together
still can be told, once the last of them has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ndserve.model_info import ModelKey

NOTHING: Mapping[ModelKey, int] = MappingProxyType({})


class Reading(NamedTuple):
    """What a load has shown: bytes of this model alone where no other load overlapped, or of all that did."""

    alone: int | None = None
    together: Mapping[ModelKey, int] = NOTHING


UNREAD = Reading()


class Meter:
    """Compares what is in use before and after loads. Called by the loaders' threads."""

    def __init__(self, used: Callable[[], int]) -> None:
        """`used` gives the bytes in use now."""
        self._used = used
        self._lock = threading.Lock()
        self._running = 0
        self._before = 0
        self._expected: dict[ModelKey, int] = {}

    def begin(self) -> None:
        """A load begins; what it evicts must have gone before."""
        with self._lock:
            if not self._running:
                self._expected = {}
                self._before = self._used()
            self._running += 1

    def end(self, key: ModelKey, expected: int) -> Reading:
        """A load has ended well, and was expected to take so many bytes."""
        with self._lock:
            self._running -= 1
            self._expected[key] = expected
            if self._running:
                return Reading()
            total = max(0, self._used() - self._before)
            return Reading(total) if len(self._expected) == 1 else Reading(None, _shared(self._expected, total))

    def fail(self) -> None:
        """A load has failed, and holds nothing."""
        with self._lock:
            self._running -= 1

    def gone(self, nbytes: int) -> None:
        """So many bytes were given back meanwhile."""
        with self._lock:
            if self._running:
                self._before -= nbytes


def _shared(expected: Mapping[ModelKey, int], total: int) -> dict[ModelKey, int]:
    """The bytes of all of them by what each was expected to take; never less than that, since nobody can tell."""
    whole = sum(expected.values())
    if total <= whole:
        return dict(expected)
    return {key: -(-nbytes * total // max(whole, 1)) for key, nbytes in expected.items()}

"""Ids that nobody can guess: whoever knows a task's id may fetch its result."""

from __future__ import annotations

import os

BYTES = 16
BLOCK = 256
"""Ids drawn from the system at a time; one call costs as much as one for a single id."""


class RandomIds:
    """128 random bits each, behind the time, as 43 hexadecimal digits.

    The time makes ids that are made one after the other lie side by side in an index. That of a database then grows
    at its end, instead of being written all over.
    """

    def __init__(self) -> None:
        self._block = ""
        self._position = 0
        self._millisecond = 0
        self._time = ""

    def next(self, now: float) -> str:
        """A new id; `now` in Unix seconds."""
        if self._position == len(self._block):
            self._block = os.urandom(BYTES * BLOCK).hex()
            self._position = 0
        start = self._position
        self._position = end = start + 2 * BYTES
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            self._millisecond, self._time = millisecond, f"{millisecond:011x}"
        return self._time + self._block[start:end]

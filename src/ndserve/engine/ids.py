"""Ids that nobody can guess: whoever knows a task's id may fetch its result."""

from __future__ import annotations

import os

BYTES = 16
BLOCK = 256
"""Ids drawn from the system at a time; one call costs as much as one for a single id."""


class RandomIds:
    """128 random bits each, as 32 hexadecimal digits."""

    def __init__(self) -> None:
        self._block = ""
        self._position = 0

    def next(self) -> str:
        if self._position == len(self._block):
            self._block = os.urandom(BYTES * BLOCK).hex()
            self._position = 0
        start = self._position
        self._position = end = start + 2 * BYTES
        return self._block[start:end]

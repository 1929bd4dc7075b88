"""A process that refuses some items."""

from __future__ import annotations

from types import ModuleType

from ndserve import process
from ndserve.types import Array


@process("picky", batched=True)
def picky(xp: ModuleType, x: Array) -> Array:
    """Twice each item.

    Raises:
        ValueError: an item holds a negative number.
    """
    if bool(xp.any(x < 0)):
        raise ValueError("picky takes no negative numbers")
    return x * 2

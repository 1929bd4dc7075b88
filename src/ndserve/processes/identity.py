"""Give back what came: to try the wire and to measure the server itself."""

from __future__ import annotations

from types import ModuleType

from ndserve.processes.base import process
from ndserve.types import Array


@process("identity", batched=True)
def identity(xp: ModuleType, x: Array) -> Array:
    """The array as it came."""
    return x

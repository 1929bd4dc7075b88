"""A process that stands still until a test in another process lets it go."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ndserve import process
from ndserve.types import Array


@process("fifo", batched=False)
def fifo(xp: ModuleType, x: Array, *, path: str = "") -> Array:
    """The array as it came, once the named pipe `path` has been opened and closed by its writer."""
    with Path(path).open("rb") as pipe:
        pipe.read()
    return x

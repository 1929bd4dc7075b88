"""What the processes of this folder share; a file whose name begins with `_` is no process."""

from __future__ import annotations

from ndserve.types import Array


def minus(a: Array, b: Array) -> Array:
    return a - b

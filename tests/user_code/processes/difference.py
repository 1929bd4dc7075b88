"""A process with two inputs, and with what its file shares with others."""

from __future__ import annotations

from types import ModuleType

from ndserve import TensorSpec, process
from ndserve.types import Array

from ._shared import minus


@process("difference", batched=True, inputs=[TensorSpec("a", shape=(None, 3)), TensorSpec("b", shape=(None, 3))])
def difference(xp: ModuleType, a: Array, b: Array) -> Array:
    """`a` less `b`, rows of three."""
    return minus(a, b)

"""Scores to probabilities."""

from __future__ import annotations

from types import ModuleType

from ndserve.processes.base import process
from ndserve.types import Array


@process("softmax", batched=True)
def softmax(xp: ModuleType, x: Array) -> Array:
    """exp(x) over its sum along each item's last axis. Integers become float32."""
    if x.ndim < 2:
        raise ValueError("softmax takes items of at least one axis")
    if not xp.isdtype(x.dtype, "real floating"):
        x = xp.astype(x, xp.float32)
    # Less the largest score: the same quotient, and exp cannot overflow.
    scores = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return scores / xp.sum(scores, axis=-1, keepdims=True)

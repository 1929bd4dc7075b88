"""Scores to probabilities."""

from __future__ import annotations

from types import ModuleType

from ndserve.processes.base import process, require_real
from ndserve.types import Array


@process("softmax", batched=True)
def softmax(xp: ModuleType, x: Array) -> Array:
    """exp(x) over its sum along each item's last axis. Float dtypes stay; integers and booleans become float32.

    Raises:
        TypeError: the array is complex.
        ValueError: the items have no axis.
    """
    require_real(xp, x, "softmax")
    if x.ndim < 2:
        raise ValueError("softmax takes items of at least one axis")
    dtype = x.dtype if xp.isdtype(x.dtype, "real floating") else xp.float32
    # At least in single precision: the sum of many scores overflows in half precision.
    x = xp.astype(x, xp.result_type(dtype, xp.float32), copy=False)
    # Less the largest score: the same quotient, and exp cannot overflow.
    scores = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return xp.astype(scores / xp.sum(scores, axis=-1, keepdims=True), dtype, copy=False)

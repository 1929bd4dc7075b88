"""Standardise each item: zero mean, unit variance."""

from __future__ import annotations

from types import ModuleType

from ndserve.processes.base import process
from ndserve.types import Array


@process("normalize", batched=True)
def normalize(xp: ModuleType, x: Array) -> Array:
    """Each item less its mean, over its population standard deviation.

    Float dtypes stay; integers and booleans become float32. A constant item becomes zeros.
    Complex arrays are refused with a TypeError.
    """
    if xp.isdtype(x.dtype, "complex floating"):
        raise TypeError("normalize takes real numbers")
    if not xp.isdtype(x.dtype, "real floating"):
        x = xp.astype(x, xp.float32)
    axes = tuple(range(1, x.ndim))
    if not axes:  # a lone number is its own mean
        return xp.zeros_like(x)
    centred = x - xp.mean(x, axis=axes, keepdims=True)
    deviation = xp.std(x, axis=axes, keepdims=True)
    return centred / xp.where(deviation > 0, deviation, xp.ones_like(deviation))

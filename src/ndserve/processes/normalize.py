"""Standardise each item: zero mean, unit variance."""

from __future__ import annotations

from types import ModuleType

from ndserve.processes.base import process, require_real
from ndserve.types import Array


@process("normalize", batched=True)
def normalize(xp: ModuleType, x: Array) -> Array:
    """Each item less its mean, over its population standard deviation.

    Float dtypes stay; integers and booleans become float32. A constant item becomes zeros.

    Raises:
        TypeError: the array is complex.
    """
    require_real(xp, x, "normalize")
    dtype = x.dtype if xp.isdtype(x.dtype, "real floating") else xp.float32
    if x.ndim == 1 or 0 in x.shape:  # a lone number is its own mean, and nothing has none
        return xp.zeros_like(x, dtype=dtype)
    axes = tuple(range(1, x.ndim))
    # At least in single precision: squares overflow in half precision.
    x = xp.astype(x, xp.result_type(dtype, xp.float32), copy=False)
    # The mean of a constant may miss it by a rounding error, but the mean of zeros is zero.
    x = x - xp.min(x, axis=axes, keepdims=True)
    centred = x - xp.mean(x, axis=axes, keepdims=True)
    deviation = xp.std(x, axis=axes, keepdims=True)
    return xp.astype(centred / xp.where(deviation > 0, deviation, xp.ones_like(deviation)), dtype, copy=False)

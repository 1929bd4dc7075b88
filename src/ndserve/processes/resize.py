"""Change the size of images or of any two-dimensional grid."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ndserve.processes.base import process, require_real
from ndserve.types import Array

MAX_SIDE = 16_384


@process("resize", batched=True)
def resize(xp: ModuleType, x: Array, *, height: int = 224, width: int = 224) -> Array:
    """Bilinear interpolation of the last two axes to `height` by `width`.

    Sample positions are half-pixel centres with the border repeated (ONNX Resize: mode linear,
    coordinate_transformation_mode half_pixel). There is no smoothing before a reduction. Float dtypes stay;
    integers are rounded to the nearest and stay, too. They pass through float64, which holds those beyond 2**53
    only to 53 bits.

    Raises:
        TypeError: the array is complex.
        ValueError: the items are no images, or a side is out of range.
    """
    require_real(xp, x, "resize")
    if x.ndim < 3 or 0 in x.shape[-2:]:
        raise ValueError(f"resize takes items of at least two non-empty axes, not {list(x.shape[1:])}")
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"height {height} and width {width} must be from 1 to {MAX_SIDE}")
    floating = xp.isdtype(x.dtype, "real floating")
    values = x if floating else xp.astype(x, xp.float64)
    values = _interpolate(xp, values, -2, height)
    values = _interpolate(xp, values, -1, width)
    return values if floating else _to_integers(xp, xp.round(values), x.dtype)


def _interpolate(xp: ModuleType, x: Array, axis: int, size: int) -> Array:
    length = x.shape[axis]
    # In float64 whatever x is: half precision cannot count to 2049.
    positions = (xp.arange(size, dtype=xp.float64, device=x.device) + 0.5) * (length / size) - 0.5
    positions = xp.clip(positions, 0, length - 1)
    lower = xp.astype(xp.floor(positions), xp.int64)
    upper = xp.clip(lower + 1, 0, length - 1)
    weight = xp.astype(positions - xp.astype(lower, xp.float64), x.dtype)
    if axis == -2:
        weight = xp.expand_dims(weight, axis=-1)
    return xp.take(x, lower, axis=axis) * (1 - weight) + xp.take(x, upper, axis=axis) * weight


def _to_integers(xp: ModuleType, whole: Array, dtype: Any) -> Array:
    """Whole float64 numbers as integers. What 64 bits cannot hold becomes the largest number that they can."""
    if dtype not in (xp.int64, xp.uint64):
        return xp.astype(whole, dtype)
    # float64 does not know that largest number, 2**63 - 1 or 2**64 - 1: it is rounded up to the power of two.
    largest = xp.iinfo(dtype).max
    beyond = whole >= float(largest)
    held = xp.astype(xp.where(beyond, xp.zeros_like(whole), whole), dtype)
    return xp.where(beyond, xp.asarray(largest, dtype=dtype, device=whole.device), held)

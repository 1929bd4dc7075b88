"""Change the size of images or of any two-dimensional grid."""

from __future__ import annotations

from types import ModuleType

from ndserve.processes.base import process
from ndserve.types import Array

MAX_SIDE = 16_384


@process("resize", batched=True)
def resize(xp: ModuleType, x: Array, *, height: int = 224, width: int = 224) -> Array:
    """Bilinear interpolation of the last two axes to `height` by `width`.

    Sample positions are half-pixel centres with the border repeated (ONNX Resize: mode linear,
    coordinate_transformation_mode half_pixel). There is no smoothing before a reduction. Float dtypes stay;
    integers are rounded to the nearest and stay, too.
    """
    if x.ndim < 3 or 0 in x.shape[-2:]:
        raise ValueError(f"resize takes items of at least two non-empty axes, not {list(x.shape[1:])}")
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"height {height} and width {width} must be from 1 to {MAX_SIDE}")
    floating = xp.isdtype(x.dtype, "real floating")
    values = x if floating else xp.astype(x, xp.float64)
    values = _interpolate(xp, values, -2, height)
    values = _interpolate(xp, values, -1, width)
    return values if floating else xp.astype(xp.round(values), x.dtype)


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

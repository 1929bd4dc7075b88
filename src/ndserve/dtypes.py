"""What the elements of an array may be: NumPy's own dtypes, those of ml_dtypes, and texts.

NumPy has neither bfloat16 nor the floats of one byte; ml_dtypes adds them (https://github.com/jax-ml/ml_dtypes). No
array namespace computes with them, so array code and devices see their bits: an unsigned integer of the same width,
the *carrier*. Texts are arrays of Python objects, each of them `bytes` (`byte_strings`).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from ndserve.types import TEXT_NAME as TEXT_NAME
from ndserve.types import HostArray
from ndserve.types import name_of as name_of

PLAIN = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
"""NumPy's own dtypes that are served, by name: simple, of fixed size and free of pickles."""

NARROW = {
    np.dtype(scalar).name: np.dtype(scalar)
    for scalar in (
        *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz),
        *(ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz),
    )
}
"""The floats of ml_dtypes that ONNX has too, by name."""

TEXT = np.dtype(object)
"""The dtype of an array of byte strings."""

_NARROW = frozenset(NARROW.values())  # a dtype's hash is kept, but its name is put together at each call

_CARRIERS: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}


def is_narrow(dtype: np.dtype[Any] | None) -> bool:
    """Whether this is one of ml_dtypes' floats."""
    return dtype in _NARROW


def carrier(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which devices see a dtype: of a narrow float the unsigned integer of its width, else itself."""
    return _CARRIERS[dtype.itemsize] if dtype in _NARROW else dtype


def is_float(dtype: np.dtype[Any] | None) -> bool:
    """Whether the elements are real or complex numbers with a fraction."""
    return dtype is not None and (dtype.kind in "fc" or dtype in _NARROW)


def widened(array: HostArray) -> HostArray:
    """Narrow floats as float32, which holds each of them exactly; anything else as it is."""
    if array.dtype not in _NARROW:
        return array
    with np.errstate(invalid="ignore"):  # NaN of some bit patterns
        return array.astype(np.float32)


def carried(array: HostArray) -> HostArray:
    """The array as devices take it: the bits of a narrow float, anything else as it is."""
    if array.dtype not in _NARROW:
        return array
    bits: HostArray = array.view(_CARRIERS[array.dtype.itemsize])
    return bits


def uncarried(array: HostArray, dtype: np.dtype[Any] | None) -> HostArray:
    """The array that a device gave, with `dtype` again where that is narrow and these are its bits."""
    if dtype is None or dtype not in _NARROW or array.dtype != _CARRIERS[dtype.itemsize]:
        return array
    floats: HostArray = array.view(dtype)
    return floats

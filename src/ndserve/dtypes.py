"""What the elements of an array may be: NumPy's own dtypes, those of ml_dtypes, and texts.

NumPy has neither bfloat16 nor the floats of one byte; ml_dtypes adds them (https://github.com/jax-ml/ml_dtypes). No
array namespace computes with them, so array code and devices see their bits: an unsigned integer of the same width,
the *carrier*. Texts are arrays of Python objects, each of them `bytes` (`byte_strings`).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from ndserve.types import HostArray

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

TEXT_NAME = "bytes"

_CARRIERS: dict[int, np.dtype[Any]] = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}


def name_of(dtype: np.dtype[Any]) -> str:
    """The name by which callers know a dtype: NumPy's or ml_dtypes' own, and `bytes` for texts."""
    return TEXT_NAME if dtype.hasobject else dtype.name


def is_narrow(dtype: np.dtype[Any]) -> bool:
    """Whether this is one of ml_dtypes' floats."""
    return dtype.itemsize <= 2 and dtype.name in NARROW


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the elements are real or complex numbers with a fraction."""
    return dtype.kind in "fc" or is_narrow(dtype)


def carried(array: HostArray) -> HostArray:
    """The array as devices take it: the bits of a narrow float, anything else as it is."""
    if not is_narrow(array.dtype):
        return array
    bits: HostArray = array.view(_CARRIERS[array.dtype.itemsize])
    return bits


def uncarried(array: HostArray, dtype: np.dtype[Any] | None) -> HostArray:
    """The array that a device gave, with `dtype` again where that is narrow and these are its bits."""
    if dtype is None or not is_narrow(dtype) or array.dtype != _CARRIERS[dtype.itemsize]:
        return array
    floats: HostArray = array.view(dtype)
    return floats

"""Values that most models take: for probes and for warming up."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from ndserve import byte_strings
from ndserve.dtypes import TEXT, is_float, is_narrow
from ndserve.types import HostArray

MAX_RANDOM = 2**26
"""Elements of an array up to which one is made up unasked."""


def random_array(
    generator: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...], scale: float = 1.0
) -> HostArray:
    """Normal floats times `scale`; the integers 0 and 1, which are valid indices nearly everywhere; or the text "0"."""
    if dtype == TEXT:  # which is a number, too, for models that read those from texts
        return byte_strings.of([b"0"] * math.prod(shape), shape)
    if is_float(dtype):
        values = generator.standard_normal(shape) * scale
        return clipped(values, dtype) if is_narrow(dtype) else values.astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def clipped(values: HostArray, dtype: np.dtype[Any]) -> HostArray:
    """The values as narrow floats, of which some have no infinity to overflow to."""
    most = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    return np.clip(values, -most, most).astype(dtype)

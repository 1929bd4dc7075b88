"""The protocol's names of datatypes.

BF16 and BYTES are as Triton has them. The protocol has no names for floats of one byte: those here are ndserve's own,
made of ONNX's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ndserve.codecs.base import excerpt
from ndserve.dtypes import NARROW, PLAIN, TEXT
from ndserve.errors import MalformedBodyError, NotAcceptableError

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": PLAIN["bool"],
    **{f"{sign}INT{bits}": PLAIN[f"{sign.lower()}int{bits}"] for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": PLAIN[f"float{bits}"] for bits in (16, 32, 64)},
    "BF16": NARROW["bfloat16"],
    **{f"FP8_{name[7:].upper()}": dtype for name, dtype in NARROW.items() if name.startswith("float8_")},
    "BYTES": TEXT,
}
"""Datatype -> dtype."""

DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
"""dtype -> datatype."""

BINARY_ONLY = frozenset(DTYPES) - {"BOOL", "FP32", "FP64", "BYTES"} - {name for name in DTYPES if "INT" in name}
"""What has no form in JSON: JavaScript Object Notation knows no half numbers, says the protocol."""


def dtype_of(datatype: object) -> np.dtype[Any]:
    """The dtype of a datatype that a client named.

    Raises:
        MalformedBodyError: there is no such datatype.
    """
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise MalformedBodyError(f"the datatype {excerpt(datatype)} is unknown; use one of {', '.join(DTYPES)}")
    return dtype


def datatype_of(dtype: np.dtype[Any], name: str) -> str:
    """The datatype of the tensor of that name.

    Raises:
        NotAcceptableError: the protocol has none, as for complex numbers.
    """
    datatype = DATATYPES.get(dtype)
    if datatype is None:
        raise NotAcceptableError(f"{name!r} is of dtype {dtype.name}, for which Open Inference has no datatype")
    return datatype

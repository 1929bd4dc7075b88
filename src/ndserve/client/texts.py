"""Arrays of texts, which `.npy` has no place for, as Open Inference messages with binary tensors.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np

from ndserve import byte_strings
from ndserve.types import HostArray

FAMILY = "application/vnd.open-inference+"
MEDIA_TYPE = f"{FAMILY}octet-stream"
LENGTH_HEADER = "Inference-Header-Content-Length"

_DTYPES = {
    "BOOL": np.dtype(np.bool),
    **{f"{sign}INT{bits}": np.dtype(f"{sign.lower()}int{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}


def is_text(array: HostArray) -> bool:
    """Whether the array holds texts: in NumPy's own strings, or as objects that are all `str` or `bytes`."""
    if array.dtype.kind in "UST":
        return True
    return array.dtype.hasobject and array.size > 0 and all(isinstance(each, str | bytes) for each in array.flat)


def encode(arrays: Mapping[str, HostArray]) -> tuple[bytes, dict[str, str]]:
    """A body with the arrays by name, and its headers. A `str` goes as UTF-8.

    Raises:
        TypeError: an array has a dtype that this form has no word for.
    """
    inputs, pieces = [], []
    for name, array in arrays.items():
        if is_text(array):
            datatype, piece = "BYTES", byte_strings.pack(byte_strings.encoded(array))
        elif array.dtype in _DATATYPES:
            datatype, piece = _DATATYPES[array.dtype], array.tobytes()
        else:
            raise TypeError(f"input {name!r} of dtype {array.dtype} cannot be sent beside texts")
        size = {"binary_data_size": len(piece)}
        inputs.append({"name": name, "shape": list(array.shape), "datatype": datatype, "parameters": size})
        pieces.append(piece)
    head = json.dumps({"inputs": inputs}).encode()
    return b"".join([head, *pieces]), {"Content-Type": MEDIA_TYPE, LENGTH_HEADER: str(len(head))}


def decode(content: bytes, length: int) -> dict[str, HostArray]:
    """The arrays of an answer by name; texts as objects, each `bytes`.

    Raises:
        ValueError, KeyError: it is cut off, or none.
    """
    arrays: dict[str, HostArray] = {}
    start = length
    for output in json.loads(content[:length])["outputs"]:
        end = start + output["parameters"]["binary_data_size"]
        shape, piece = tuple(output["shape"]), content[start:end]
        if output["datatype"] == "BYTES":
            arrays[output["name"]] = byte_strings.unpack(piece, math.prod(shape), shape)
        else:
            # A copy, because a view of bytes cannot be written to.
            arrays[output["name"]] = np.frombuffer(piece, _DTYPES[output["datatype"]]).reshape(shape).copy()
        start = end
    return arrays

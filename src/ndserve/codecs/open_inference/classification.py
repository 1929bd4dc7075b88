"""The classification extension: an output's largest values, each as the text `value:index`.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from __future__ import annotations

import math

import numpy as np

from ndserve import byte_strings
from ndserve.dtypes import is_float
from ndserve.errors import InvalidInputError
from ndserve.types import HostArray


def classified(name: str, array: HostArray, classes: int, rows: int | None) -> HostArray:
    """Byte strings of shape [rows, n], or [n] without a batch axis: the n largest values, the largest first.

    n is `classes`, or the number of values where there are fewer. Of equal values the first comes first, and NaN last.

    Raises:
        InvalidInputError: the output holds neither integers nor real numbers.
    """
    if array.dtype.kind not in "iu" and (not is_float(array.dtype) or array.dtype.kind == "c"):
        raise InvalidInputError(f"output {name!r} has no classes: it holds no numbers")
    # Counted, because NumPy finds no length for an axis beside one of length 0.
    values = array.reshape((1, array.size) if rows is None else (rows, math.prod(array.shape[1:])))
    # Half precision is sorted and written as what it means; integers stay exact.
    exact = values if values.dtype.kind in "iu" else values.astype(np.float64)
    # Stable, from the end: the largest first, and of equal ones the first. NaN sorts last, and so comes first here.
    order = values.shape[1] - 1 - np.argsort(exact[:, ::-1], axis=1, kind="stable")[:, ::-1]
    if exact.dtype.kind == "f":
        last = np.isnan(np.take_along_axis(exact, order, axis=1))
        order = np.take_along_axis(order, np.argsort(last, axis=1, kind="stable"), axis=1)
    order = order[:, :classes]
    kind = "d" if exact.dtype.kind in "iu" else "f"
    texts = [
        f"{value:{kind}}:{index}".encode()
        for row, indices in zip(exact, order.tolist(), strict=True)
        for value, index in zip(row[indices].tolist(), indices, strict=True)
    ]
    return byte_strings.of(texts, order.shape if rows is not None else order.shape[1:])

"""Memory between onnxruntime and the array libraries, by the protocols that NumPy and CuPy arrays follow.

https://numpy.org/doc/stable/reference/arrays.interface.html
https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
"""

from __future__ import annotations

from typing import Any

from ndserve.types import Array


def address_of(array: Array) -> int:
    """Where the array's first element lies."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    address: int = interface["data"][0]
    return address


class View:
    """An OrtValue as NumPy and CuPy read foreign arrays: without a copy, and kept alive by the array made of it.

    A model may hand an input through as an output, which then points to the input's memory (`source`): that is kept,
    too, and not to be written to.
    """

    def __init__(self, value: Any, kind: str, typestr: str, source: Array | None) -> None:
        self._kept = (value, source)
        interface = {
            "shape": tuple(value.shape()),
            "typestr": typestr,
            "data": (value.data_ptr(), source is not None),
            "version": 3,
        }
        setattr(self, "__cuda_array_interface__" if kind == "cuda" else "__array_interface__", interface)

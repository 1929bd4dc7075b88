"""What a wire format is.

To add one: write one file here with a class that follows `Codec`, and name it in this folder's lookup
(`codecs/__init__.py`). A codec turns a whole body into arrays and arrays into a whole body. It knows nothing
of HTTP beyond its media types, and it refuses hostile bytes before it allocates anything for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from ndserve.errors import InvalidInputError, MalformedBodyError
from ndserve.types import Tensors, TensorSpec

Buffer: TypeAlias = bytes | bytearray | memoryview

UNNAMED = ""
"""The name of an array that came without one; it goes to the target's only input."""

MAX_TENSORS = 256
MAX_RANK = 32

DTYPES = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}
"""Every dtype that the wire carries, by name: simple, fixed-size and free of pickles."""


class Payload(NamedTuple):
    """A body ready to be sent: its Content-Type and its bytes in order, without a copy of large arrays."""

    content_type: bytes
    chunks: tuple[bytes | memoryview, ...]


class Codec(Protocol):
    """One wire format."""

    media_types: tuple[str, ...]
    """The first one is what answers carry; the others are synonyms that are read."""

    cheap: bool
    """Whether `encode` costs next to nothing however large the arrays are."""

    def decode(self, body: Buffer, specs: Sequence[TensorSpec], limit: int) -> Tensors:
        """The arrays of `body`, in native byte order and C order.

        They may be read-only views of `body`. `specs` are the target's inputs: a format without dtypes of its
        own takes them from there. `limit` is the most bytes that the arrays may hold together.

        Raises:
            MalformedBodyError: the bytes are not of this format.
            InvalidInputError: the format is right and the values do not fit.
            BodyTooLargeError: the arrays would hold more than `limit` bytes.
        """
        ...

    def encode(self, outputs: Tensors) -> Payload:
        """The arrays as a body. `decode` gives them back, bit for bit where the format can.

        Raises:
            NotAcceptableError: this format cannot hold these arrays.
        """
        ...


def checked_shape(shape: Sequence[object]) -> tuple[int, ...]:
    """`shape` as a tuple of plain ints; it came from a client.

    Raises:
        MalformedBodyError: an axis is not a non-negative integer, or there are over 32 axes.
    """
    if len(shape) > MAX_RANK:
        raise MalformedBodyError(f"the array has {len(shape)} axes; at most {MAX_RANK} are supported")
    axes = []
    for axis in shape:
        if not isinstance(axis, int) or isinstance(axis, bool) or axis < 0:
            raise MalformedBodyError(f"the shape {list(shape)} must hold non-negative integers only")
        axes.append(axis)
    return tuple(axes)


def checked_dtype(name: object) -> np.dtype[np.generic]:
    """The dtype of that NumPy name.

    Raises:
        InvalidInputError: the name is not one of `DTYPES`.
    """
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise InvalidInputError(f"the dtype {name!r} is not supported; use one of {', '.join(DTYPES)}")
    return dtype

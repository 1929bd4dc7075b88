"""What a wire format is.

To add one: write one file here with a class that follows `Codec`, and name it in this folder's lookup
(`codecs/__init__.py`). A codec turns a whole body into arrays and arrays into a whole body. It knows nothing
of HTTP beyond its media types, and it refuses hostile bytes before it allocates anything for them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from ndserve.byte_strings import MAX_TEXTS
from ndserve.dtypes import NARROW, PLAIN
from ndserve.errors import BodyTooLargeError, InvalidInputError, MalformedBodyError, NotAcceptableError
from ndserve.types import Tensors, TensorSpec

Buffer: TypeAlias = bytes | bytearray | memoryview

UNNAMED = ""
"""The name of an array that came without one; it goes to the target's only input."""

MAX_TENSORS = 256
MAX_RANK = 32

DTYPES: dict[str, np.dtype[Any]] = {**PLAIN, **NARROW}
"""Every dtype of fixed size that the wire carries, by name. Texts are another matter: not every format has them."""

# NumPy counts an array's bytes in a signed word and leaves axes of length 0 out of the product.
_MAX_ITEMS = sys.maxsize // max(dtype.itemsize for dtype in DTYPES.values())


class Payload(NamedTuple):
    """A body ready to be sent: its Content-Type, its bytes in order without a copy of large arrays, further headers."""

    content_type: bytes
    chunks: tuple[bytes | memoryview, ...]
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Form(Protocol):
    """What answers can look like."""

    @property
    def media_types(self) -> tuple[str, ...]:
        """The first one is what answers carry; the others are synonyms."""
        ...

    @property
    def cheap(self) -> bool:
        """Whether `encode` costs next to nothing however large the arrays are."""
        ...

    def holds(self, outputs: Tensors) -> bool:
        """Whether the format has a place for so many arrays of such kinds. Looks at no value."""
        ...

    def encode(self, outputs: Tensors) -> Payload:
        """The arrays as a body. `decode` gives them back, bit for bit where the format can.

        Raises:
            NotAcceptableError: this format cannot hold these arrays, or no format can.
        """
        ...


class Codec(Form, Protocol):
    """One wire format: a form that is read as well."""

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


class Budget:
    """The bytes that the arrays of one body may take together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit

    def take(self, nbytes: int) -> None:
        """Count an array, best before it is made.

        Raises:
            BodyTooLargeError: that much is not left.
        """
        self.left -= nbytes
        if self.left < 0:
            raise over_limit(self.limit)


def over_limit(limit: int) -> BodyTooLargeError:
    """The refusal of a body whose arrays would take more than `limit` bytes."""
    return BodyTooLargeError(f"the body's arrays take more than {limit} bytes", limit=limit)


def checked_shape(shape: Sequence[object]) -> tuple[int, ...]:
    """`shape` as a tuple of plain ints, for which NumPy can make an array; it came from a client.

    Raises:
        MalformedBodyError: an axis is not a non-negative integer, there are over 32 axes, or no memory is so large.
    """
    if len(shape) > MAX_RANK:
        raise MalformedBodyError(f"the array has {len(shape)} axes; at most {MAX_RANK} are supported")
    axes = []
    for axis in shape:
        if not isinstance(axis, int) or isinstance(axis, bool) or axis < 0:
            raise MalformedBodyError("the shape must hold non-negative integers only")
        axes.append(axis)
    if math.prod(axis or 1 for axis in axes) > _MAX_ITEMS:
        raise MalformedBodyError("the shape is larger than any memory")
    return tuple(axes)


def check_texts(count: int) -> None:
    """Refuse an array of too many texts.

    Raises:
        BodyTooLargeError: there are more than `byte_strings.MAX_TEXTS`.
    """
    if count > MAX_TEXTS:
        raise BodyTooLargeError(f"the array has {count} texts; at most {MAX_TEXTS} are taken", limit=MAX_TEXTS)


def checked_dtype(name: object) -> np.dtype[Any]:
    """The dtype of that NumPy name; it came from a client.

    Raises:
        InvalidInputError: the name is not one of `DTYPES`.
    """
    dtype = DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise InvalidInputError(f"the dtype {excerpt(name)} is not supported; use one of {', '.join(DTYPES)}")
    return dtype


def wire_name(dtype: np.dtype[Any]) -> str:
    """The name in `DTYPES` of an output's dtype, whatever its byte order.

    Raises:
        NotAcceptableError: it has none. The bytes of an object array, say, are addresses in our memory.
    """
    if dtype.name not in DTYPES:
        raise NotAcceptableError(f"the result is of dtype {dtype.name}, which has no form on the wire")
    return dtype.name


def excerpt(value: object) -> str:
    """What a client sent, fit for a message: a text cut to 100 characters, of anything else only the type."""
    if not isinstance(value, str):
        return f"<{type(value).__name__}>"
    return repr(value[:100]) + "…" * (len(value) > 100)


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Put `what` in front of the message of a refusal that arises inside: the part of the body at fault."""
    try:
        yield
    except (MalformedBodyError, InvalidInputError) as error:
        raise type(error)(f"{what}: {error.message}") from None

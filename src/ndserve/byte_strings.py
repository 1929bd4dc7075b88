"""Texts in arrays: every element is a `bytes` of any length, with any bytes in it, as Open Inference's `BYTES` has it.

NumPy's own strings of fixed width would lose trailing zero bytes, and take the longest element's room in every place.
Laid end to end, each element is its length as four bytes, little endian, and its bytes
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from ndserve.types import HostArray

MAX_TEXTS = 2**20
"""Texts that one array of a client may hold: each is an object of Python's, however short it is."""

_LENGTH = struct.Struct("<I")


def pack(array: HostArray) -> bytes:
    """The elements of an array of byte strings, laid end to end in C order."""
    length = _LENGTH.pack
    return b"".join([piece for element in array.flat for piece in (length(len(element)), element)])


def unpack(data: bytes | bytearray | memoryview, count: int, shape: tuple[int, ...]) -> HostArray:
    """The array of `count` byte strings that `data` holds, no more and no less; `count` is the product of `shape`.

    Raises:
        ValueError: the bytes do not hold so many; says how many bytes there are too many or too few.
    """
    view = memoryview(data)
    end, size = 0, len(view)
    if count > size // 4:  # before a list of them is made
        raise ValueError(f"{count} elements take at least {4 * count} bytes, but there are {size}")
    elements: list[bytes] = []
    for index in range(count):
        start = end + 4
        if start > size:
            raise ValueError(f"element {index} of {count} is cut off: the bytes end after {size}")
        end = start + _LENGTH.unpack_from(view, end)[0]
        if end > size:
            raise ValueError(f"element {index} of {count} has {end - start} bytes, of which {size - start} are there")
        elements.append(bytes(view[start:end]))
    if end != size:
        raise ValueError(f"{size - end} bytes are left after the {count} elements")
    return of(elements, shape)


def of(elements: Iterable[bytes], shape: tuple[int, ...]) -> HostArray:
    """The array of those byte strings; there are as many as the shape has places."""
    items = list(elements)
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


def encoded(array: np.ndarray[Any, Any]) -> HostArray:
    """The array with every `str` in UTF-8, as byte strings; it may be of NumPy's own string dtypes.

    Raises:
        TypeError: an element is neither `str` nor `bytes`.
        UnicodeEncodeError: a `str` holds a lone surrogate.
    """
    elements: list[bytes] = []
    for element in array.reshape(-1).tolist():
        if isinstance(element, str):
            elements.append(element.encode())
        elif isinstance(element, bytes):
            elements.append(element)
        else:
            raise TypeError(f"an element is of type {type(element).__name__}, neither str nor bytes")
    return of(elements, array.shape)


def decoded(array: HostArray) -> HostArray:
    """The same as `str`, for code that takes no bytes.

    Raises:
        UnicodeDecodeError: an element is not UTF-8; its `reason` says which.
    """
    texts = np.empty(array.size, object)
    elements = array.reshape(-1).tolist()
    try:
        texts[:] = [element.decode() for element in elements]
    except UnicodeDecodeError as error:
        index = next(index for index, element in enumerate(elements) if element == error.object)
        raise UnicodeDecodeError(
            error.encoding, error.object, error.start, error.end, f"element {index} is not UTF-8"
        ) from None
    return texts.reshape(array.shape)

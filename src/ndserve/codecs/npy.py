""".npy: one array, bit for bit.

The header is parsed here, not by `numpy.load`: it may claim any size, and it may ask for a pickle.
The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

It has no word for the floats of ml_dtypes. `numpy.save` writes that they are void and how wide, and so is written here;
such a file is read for an input that has a float of that width. float8_e5m2 it calls `<f1`, which `numpy.load` does not
read: that is read here, too, but written as void. Texts have no form in it but a pickle; no pickle is read or written.
"""

from __future__ import annotations

import ast
import io
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from ndserve.codecs.base import DTYPES, UNNAMED, Buffer, Payload, checked_shape, excerpt, over_limit, wire_name
from ndserve.dtypes import NARROW, PLAIN, is_narrow
from ndserve.errors import MalformedBodyError, NotAcceptableError
from ndserve.types import HostArray, Tensors, TensorSpec

NPY_MAGIC = b"\x93NUMPY"
MAX_HEADER = 4096
MAX_HEAD = 12 + MAX_HEADER
"""The most bytes that a file we read has in front of its data."""

SMALL = 64 * 1024
"""Up to this size a copy next to the header is cheaper than a second write to the socket."""

# Version 1 and 118 bytes of header: what NumPy writes for nearly every array.
_USUAL = b"\x01\x00\x76\x00"

# By what a header calls it. NumPy writes '|u1' for single bytes, other libraries write '<u1' as well.
_DESCRS = [order + dtype.str[1:] for dtype in PLAIN.values() for order in "<>|"]
_DTYPES = {
    **{descr: np.dtype(descr) for descr in _DESCRS},
    **{order + void: np.dtype(void) for void in ("V1", "V2") for order in "<|"},
    **{order + "f1": NARROW["float8_e5m2"] for order in "<|"},
}


class Layout(NamedTuple):
    """What the bytes in front of the data say of them. `start` and `nbytes` are in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    nbytes: int
    order: Literal["C", "F"]
    usable: bool
    """Whether the data are native, in C order and aligned in their file: no copy is needed."""


def layout(body: Buffer) -> Layout:
    """Where the array of a `.npy` file lies in it, and as what; the length of the data is not checked.

    Raises:
        MalformedBodyError: no `.npy` file, or an array that is not read.
    """
    if body[6:10] == _USUAL:
        return _parse_head(bytes(body[:128]))
    begin = 10 if body[6:7] == b"\x01" else 12
    end = begin + int.from_bytes(body[8:begin], "little")
    return _parse_head(bytes(body[: min(end, MAX_HEAD)]))


@lru_cache(maxsize=1024)
def _parse_head(head: bytes) -> Layout:
    """The layout by all that stands in front of the data. Cached: a client posts many arrays of one kind."""
    if head[:6] != NPY_MAGIC:
        raise MalformedBodyError("the body does not begin as a .npy file does")
    if len(head) < 10:
        raise MalformedBodyError(f"the .npy header is cut off after {len(head)} bytes")
    if head[6] not in (1, 2, 3):
        raise MalformedBodyError(f"the .npy format version {head[6]} is unknown; 1 to 3 are read")
    begin = 10 if head[6] == 1 else 12
    length = int.from_bytes(head[8:begin], "little")
    if length > MAX_HEADER:
        raise MalformedBodyError(f"the .npy header has {length} bytes; at most {MAX_HEADER} are read")
    if len(head) < begin + length:
        raise MalformedBodyError(f"the .npy header has {length} bytes, but the body ends after {len(head)}")
    dtype, fortran, shape = _parse_header(head[begin:].decode("latin1"))
    usable = dtype.isnative and not fortran and len(head) % dtype.alignment == 0
    return Layout(shape, dtype, len(head), math.prod(shape) * dtype.itemsize, "F" if fortran else "C", usable)


def _parse_header(text: str) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    try:
        fields = ast.literal_eval(text.strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise MalformedBodyError("the .npy header is not a dictionary of descr, fortran_order and shape") from None
    if not isinstance(fortran, bool) or not isinstance(shape, tuple):
        raise MalformedBodyError("the .npy header's fortran_order must be a bool and its shape a tuple")
    dtype = _DTYPES.get(descr) if isinstance(descr, str) else None
    if dtype is None:
        raise MalformedBodyError(
            f"the .npy dtype {excerpt(descr)} is not supported; use one of {', '.join(DTYPES)}"
            " (object and structured arrays are never read)"
        )
    return dtype, fortran, checked_shape(shape)


def is_view(body: Buffer) -> bool:
    """Whether `read_npy` copies no data: it gives a view of `body`, or refuses it."""
    try:
        return layout(body).usable
    except MalformedBodyError:
        return True


def read_npy(body: Buffer, expected: np.dtype[Any] | None = None) -> HostArray:
    """The array of one whole `.npy` file: a read-only view where byte order and layout allow it.

    Args:
        expected: the dtype of the input that it is for, where that is known.

    Raises:
        MalformedBodyError: no `.npy` file, an unsupported dtype, or bytes that do not match the shape.
    """
    shape, dtype, start, nbytes, order, usable = layout(body)
    if dtype.kind == "V":
        dtype = _narrow(dtype, expected)
    present = len(body) - start
    if present != nbytes:
        raise MalformedBodyError(
            f"the .npy header announces {dtype.name}{list(shape)}, which is {nbytes} bytes, but {present} follow it"
        )
    array: HostArray = np.ndarray(shape, dtype, body, start, None, order)
    if type(body) is not bytes:  # a view of bytes is read-only as it is
        array.flags.writeable = False
    # A slice of a body may begin anywhere, and device libraries do not take unaligned arrays.
    return array if usable and array.flags.aligned else np.array(array, dtype.newbyteorder("="), order="C")


def _narrow(void: np.dtype[Any], expected: np.dtype[Any] | None) -> np.dtype[Any]:
    """The narrow float that bytes without a meaning are for."""
    if expected is None or not is_narrow(expected) or expected.itemsize != void.itemsize:
        raise MalformedBodyError(
            f"the .npy dtype V{void.itemsize} is not supported: it tells only how wide the elements are, and the"
            f" array goes to no input that takes a float of {void.itemsize} byte(s) ({', '.join(NARROW)})"
        )
    return expected


@lru_cache(maxsize=1024)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    wire_name(dtype)
    buffer = io.BytesIO()
    descr = f"<V{dtype.itemsize}" if is_narrow(dtype) else dtype.str
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def write_npy(array: HostArray) -> tuple[bytes | memoryview, ...]:
    """A `.npy` file as buffers: one for a small array, header and data apart for a large one.

    Raises:
        NotAcceptableError: a dtype that the wire does not carry.
    """
    header = _header(array.dtype, array.shape)
    if array.nbytes <= SMALL:
        return (header + array.tobytes(),)
    return header, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class NpyCodec:
    """One array. The bit-exact and cheapest form."""

    media_types: tuple[str, ...] = ("application/x-npy", "application/npy")
    cheap = True

    def decode(self, body: Buffer, specs: Sequence[TensorSpec], limit: int) -> Tensors:
        array = read_npy(body, specs[0].dtype if len(specs) == 1 else None)
        if array.nbytes > limit:
            raise over_limit(limit)
        return {UNNAMED: array}

    def holds(self, outputs: Tensors) -> bool:
        return len(outputs) == 1 and not next(iter(outputs.values())).dtype.hasobject

    def encode(self, outputs: Tensors) -> Payload:
        if len(outputs) != 1:
            raise NotAcceptableError(f"a .npy file holds one array, not {len(outputs)}; accept application/x-npz")
        (array,) = outputs.values()
        return Payload(b"application/x-npy", write_npy(array))

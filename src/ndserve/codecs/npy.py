""".npy and .npz.

The `.npy` header is parsed here, not by `numpy.load`: it may claim any size, and it may ask for a pickle.
The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ndserve.codecs.base import DTYPES, MAX_TENSORS, UNNAMED, Buffer, Payload, checked_shape
from ndserve.errors import BodyTooLargeError, MalformedBodyError
from ndserve.types import HostArray, Tensors, TensorSpec

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"
MAX_HEADER = 4096
SMALL = 64 * 1024
"""Up to this size a copy next to the header is cheaper than a second write to the socket."""


class _Layout(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    nbytes: int


@lru_cache(maxsize=1024)
def _parse_header(header: bytes) -> _Layout:
    """The dictionary in a `.npy` header. Cached: a client posts many arrays of one kind."""
    try:
        fields = ast.literal_eval(header.decode("latin1").strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise MalformedBodyError("the .npy header is not a dictionary of descr, fortran_order and shape") from None
    if not isinstance(fortran, bool) or not isinstance(shape, tuple):
        raise MalformedBodyError("the .npy header's fortran_order must be a bool and its shape a tuple")
    dtype = _parse_descr(descr)
    axes = checked_shape(shape)
    return _Layout(dtype, axes, fortran, math.prod(axes) * dtype.itemsize)


def _parse_descr(descr: object) -> np.dtype[Any]:
    try:
        dtype = np.dtype(descr) if isinstance(descr, str) else None
    except (TypeError, ValueError):
        dtype = None
    if dtype is None or dtype.name not in DTYPES:
        raise MalformedBodyError(
            f"the .npy dtype {str(descr)[:100]!r} is not supported; use one of {', '.join(DTYPES)}"
            " (object and structured arrays are never read)"
        )
    return dtype


def read_npy(body: Buffer) -> HostArray:
    """The array of one whole `.npy` file: a read-only view where byte order and layout allow it.

    Raises:
        MalformedBodyError: no `.npy` file, an unsupported dtype, or bytes that do not match the shape.
    """
    if bytes(body[:6]) != NPY_MAGIC:
        raise MalformedBodyError("the body does not begin as a .npy file does")
    if len(body) < 12:
        raise MalformedBodyError(f"the .npy header is cut off after {len(body)} bytes")
    major = body[6]
    if major == 1:
        start, length = 10, body[8] | body[9] << 8
    elif major in (2, 3):
        start, length = 12, int.from_bytes(body[8:12], "little")
    else:
        raise MalformedBodyError(f"the .npy format version {major} is unknown; 1 to 3 are read")
    if length > MAX_HEADER:
        raise MalformedBodyError(f"the .npy header has {length} bytes; at most {MAX_HEADER} are read")
    data = start + length
    if len(body) < data:
        raise MalformedBodyError(f"the .npy header has {length} bytes, but the body ends after {len(body)}")
    layout = _parse_header(bytes(body[start:data]))
    present = len(body) - data
    if present != layout.nbytes:
        raise MalformedBodyError(
            f"the .npy header announces {layout.dtype.name}{list(layout.shape)}, which is {layout.nbytes} bytes,"
            f" but {present} follow it"
        )
    array: HostArray = np.ndarray(layout.shape, layout.dtype, body, data, order="F" if layout.fortran else "C")
    array.flags.writeable = False
    if not layout.dtype.isnative:
        array = array.astype(layout.dtype.newbyteorder("="))
    # A view into the middle of a body may be unaligned, which device libraries do not take.
    return np.require(array, requirements=["C", "A"])


@lru_cache(maxsize=1024)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def write_npy(array: HostArray) -> tuple[bytes | memoryview, ...]:
    """A `.npy` file as buffers: one for a small array, header and data apart for a large one."""
    header = _header(array.dtype, array.shape)
    if array.nbytes <= SMALL:
        return (header + array.tobytes(),)
    return header, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


class NpyCodec:
    """One array. The bit-exact and cheapest form."""

    media_types: tuple[str, ...] = ("application/x-npy", "application/npy")
    cheap = True

    def decode(self, body: Buffer, specs: Sequence[TensorSpec], limit: int) -> Tensors:
        return {UNNAMED: read_npy(body)}

    def encode(self, outputs: Tensors) -> Payload:
        (array,) = outputs.values()
        return Payload(b"application/x-npy", write_npy(array))


class NpzCodec:
    """Several arrays by name. Read stored or deflated; written stored."""

    media_types: tuple[str, ...] = ("application/x-npz", "application/npz", "application/zip")
    cheap = False

    def decode(self, body: Buffer, specs: Sequence[TensorSpec], limit: int) -> Tensors:
        _check_directory(body)
        try:
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                arrays = _read_members(archive, limit)
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError) as error:
            raise MalformedBodyError(f"the .npz archive cannot be read: {error}") from None
        except (NotImplementedError, RuntimeError):
            raise MalformedBodyError(
                "the .npz archive is encrypted or compressed in another way than deflate"
            ) from None
        # numpy.savez names a lone positional array so; nobody meant that as an input's name.
        return {UNNAMED: arrays["arr_0"]} if arrays.keys() == {"arr_0"} else arrays

    def encode(self, outputs: Tensors) -> Payload:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, array in outputs.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    for chunk in write_npy(array):
                        member.write(chunk)
        return Payload(b"application/x-npz", (buffer.getvalue(),))


def _check_directory(body: Buffer) -> None:
    """Refuse an archive whose directory alone would cost more than any honest one.

    `zipfile` builds an object for each entry before anyone can count them. The end record says how long the
    directory is (APPNOTE.TXT 4.3.16); a body that fits our limits never needs the 64-bit form.
    """
    tail = bytes(body[-65_557:])
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise MalformedBodyError("the .npz archive has no end record; is it cut off?")
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    if size > MAX_TENSORS * 512 or tail[max(0, end - 20) :].startswith(b"PK\x06\x07"):
        raise MalformedBodyError(f"the .npz archive lists too many members; at most {MAX_TENSORS} are read")


def _read_members(archive: zipfile.ZipFile, limit: int) -> dict[str, HostArray]:
    members = archive.infolist()
    if not 0 < len(members) <= MAX_TENSORS:
        raise MalformedBodyError(f"the .npz archive has {len(members)} members; 1 to {MAX_TENSORS} are read")
    arrays: dict[str, HostArray] = {}
    left = limit
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotImplementedError
        name = member.filename.removesuffix(".npy")
        if name == member.filename or name in arrays:
            raise MalformedBodyError(f"the .npz member {member.filename!r} is not a .npy file or comes twice")
        with archive.open(member) as file:
            data = file.read(left + 1)  # what it inflates to is counted, whatever the directory says
        left -= len(data)
        if left < 0:
            raise BodyTooLargeError(f"the .npz archive inflates to more than {limit} bytes", limit=limit)
        arrays[name] = read_npy(data)
    return arrays

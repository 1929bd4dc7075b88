""".npz: several arrays by name, as a ZIP archive of `.npy` files.

The format of the archive: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ndserve.codecs.base import MAX_TENSORS, UNNAMED, Budget, Buffer, Payload, blaming, excerpt
from ndserve.codecs.npy import MAX_HEAD, layout, read_npy, write_npy
from ndserve.errors import MalformedBodyError, NotAcceptableError
from ndserve.types import HostArray, Tensors, TensorSpec

ZIP_MAGIC = b"PK\x03\x04"

_MAX_DIRECTORY = MAX_TENSORS * 512
_END = 22  # bytes of the record at an archive's end, which a comment may follow
_LOCATOR = 20  # bytes of the record before it that points to the 64-bit directory
_MAX_COMMENT = 65_535


class NpzCodec:
    """Several arrays by name. Read stored or deflated; written stored."""

    media_types: tuple[str, ...] = ("application/x-npz", "application/npz", "application/zip")
    cheap = False

    def decode(self, body: Buffer, specs: Sequence[TensorSpec], limit: int) -> Tensors:
        _check_directory(body)
        budget = Budget(limit)
        arrays: dict[str, HostArray] = {}
        dtypes = {spec.name: spec.dtype for spec in specs}
        if len(specs) == 1:
            dtypes.setdefault("arr_0", specs[0].dtype)
        with _faults_mapped(), zipfile.ZipFile(io.BytesIO(body)) as archive:
            for name, member in _members(archive).items():
                with blaming(f"the .npz member {excerpt(member.filename)}"), _faults_mapped():
                    arrays[name] = _read(archive, member, budget, dtypes.get(name))
        # numpy.savez names a lone positional array so; nobody meant that as an input's name.
        return {UNNAMED: arrays["arr_0"]} if arrays.keys() == {"arr_0"} else arrays

    def holds(self, outputs: Tensors) -> bool:
        return not any(array.dtype.hasobject for array in outputs.values())

    def encode(self, outputs: Tensors) -> Payload:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, array in outputs.items():
                if "\0" in name:  # zipfile would drop the rest of the name
                    raise NotAcceptableError(f"the output's name {excerpt(name)} has no form in a .npz archive")
                chunks = write_npy(array)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    for chunk in chunks:
                        file.write(chunk)
        return Payload(b"application/x-npz", (buffer.getbuffer(),))


_UNREADABLE = "the archive is encrypted or compressed in another way than deflate"


def _check_directory(body: Buffer) -> None:
    """Refuse an archive whose directory alone would cost more than any honest one.

    `zipfile` builds an object for each entry before anyone can count them. The end record says how long the
    directory is (APPNOTE.TXT 4.3.16), unless a 64-bit one takes its place (4.3.15).
    """
    if body[:2] != ZIP_MAGIC[:2]:  # a ZIP may follow other bytes, and `is_cheap` would take it for those
        raise MalformedBodyError("the body does not begin as a .npz archive does")
    tail = bytes(body[-(_LOCATOR + _END + _MAX_COMMENT) :])
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < _END:
        raise MalformedBodyError("the .npz archive has no end record; is it cut off?")
    if tail[max(0, end - _LOCATOR) :].startswith(b"PK\x06\x07"):
        raise MalformedBodyError("the .npz archive has the 64-bit directory of archives over 2 GiB, which is not read")
    if int.from_bytes(tail[end + 12 : end + 16], "little") > _MAX_DIRECTORY:
        raise MalformedBodyError(f"the .npz archive lists too many members; at most {MAX_TENSORS} are read")


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by the names of their arrays."""
    listed = archive.infolist()
    if not 0 < len(listed) <= MAX_TENSORS:
        raise MalformedBodyError(f"the .npz archive has {len(listed)} members; 1 to {MAX_TENSORS} are read")
    members: dict[str, zipfile.ZipInfo] = {}
    for member in listed:
        name = member.filename.removesuffix(".npy")
        if name == member.filename or name in members or "\0" in member.orig_filename:
            raise MalformedBodyError(
                f"the .npz member {excerpt(member.orig_filename)} is not a .npy file or comes twice"
            )
        members[name] = member
    return members


def _read(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, budget: Budget, expected: np.dtype[Any] | None
) -> HostArray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise MalformedBodyError(_UNREADABLE)
    with archive.open(member) as file:
        # One byte too many is enough to tell: what it inflates to counts, whatever the directory says.
        data = file.read(MAX_HEAD + budget.left + 1)
    budget.take(len(data) - layout(data).start)
    return read_npy(data, expected)


@contextmanager
def _faults_mapped() -> Iterator[None]:
    """Turn what `zipfile` raises on damaged archives into a refusal."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, OverflowError) as error:
        raise MalformedBodyError(f"the archive cannot be read: {excerpt(str(error))}") from None
    except RuntimeError:  # NotImplementedError is one too
        raise MalformedBodyError(_UNREADABLE) from None

"""Bodies made by hand, byte by byte, and a meter of the memory that reading one takes."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from ndserve.codecs.base import DTYPES
from ndserve.errors import BodyTooLargeError, InvalidInputError, MalformedBodyError
from ndserve.types import HostArray

LIMIT = 1 << 20

REFUSALS = (MalformedBodyError, InvalidInputError, BodyTooLargeError)
"""All that reading a body may raise."""


def npy_header(descr: str = "'<f4'", shape: str = "(2,)", fortran: str = "False", extra: str = "") -> str:
    """The text of a .npy header; every value is given as it is to stand there."""
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, {extra}}}\n"


def npy_file(header: str, data: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    """A .npy file with this header text; `length` is what it claims of the header's length."""
    text = header.encode("latin1")
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def saved(array: HostArray, version: tuple[int, int] | None = None) -> bytes:
    """The file that NumPy itself writes."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version, allow_pickle=False)
    return buffer.getvalue()


def zip_file(members: Sequence[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP archive of these members, names repeated as given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def refused(read: Callable[[], object], match: str | None = None) -> str:
    """Check that `read` raises MalformedBodyError and takes less than 4 MiB; gives the message."""
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBodyError, match=match) as caught:
            read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
    return caught.value.message


def names_every_dtype(message: str) -> bool:
    return all(name in message for name in DTYPES)

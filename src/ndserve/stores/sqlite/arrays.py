"""Arrays as bytes: small ones in the row, large ones in a file of their own.

A header names each array's dtype and shape, and the raw bytes follow; texts as `byte_strings` lays them end to end,
with the bytes that they take behind the shape's last axis. There is no pickle: other Python objects are refused.

    "NDA1" | length of the JSON (uint32, little endian) | JSON [[name, dtype, shape], ...] | padding | raw bytes, ...

Every array begins at a multiple of 64 bytes, so that it can be used where it lies.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ndserve import byte_strings
from ndserve.dtypes import NARROW, TEXT, TEXT_NAME, is_narrow, name_of
from ndserve.types import HostArray, Tensors

INLINE = 64 * 1024
"""Bytes of arrays up to which they lie in the row; SQLite handles larger blobs much slower than files."""

MAGIC = b"NDA1"
ALIGN = 64
FOLDERS = 256

_NAMED = {TEXT_NAME: TEXT, **NARROW}

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap
Form: TypeAlias = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]


class DamagedError(Exception):
    """Stored bytes are not what was written."""


def pack(tensors: Tensors) -> bytearray:
    """The arrays in one piece of memory, as they lie in a row.

    Raises:
        TypeError: an array holds Python objects.
    """
    form, arrays = _laid_out(tensors)
    pieces = [_header(form)]
    for array in arrays:
        pieces.append(array.tobytes())
        if rest := -array.nbytes % ALIGN:
            pieces.append(bytes(rest))
    return bytearray().join(pieces)


def buffers(tensors: Tensors) -> list[Buffer]:
    """The same as buffers in a row, as a file is written, without a copy of arrays that are contiguous.

    Raises:
        TypeError: an array holds Python objects.
    """
    form, arrays = _laid_out(tensors)
    pieces: list[Buffer] = [_header(form)]
    for array in arrays:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        pieces.append(raw.data)
        if rest := -raw.nbytes % ALIGN:
            pieces.append(bytes(rest))
    return pieces


def _laid_out(tensors: Tensors) -> tuple[Form, list[HostArray]]:
    """What the header says, and the arrays of which the bytes follow."""
    form, arrays = [], []
    for name, array in tensors.items():
        shape = array.shape
        if array.dtype.hasobject:
            array = _packed(name, array)
            form.append((name, TEXT, (*shape, array.nbytes)))
        else:
            form.append((name, array.dtype, shape))
        arrays.append(array)
    return tuple(form), arrays


def _packed(name: str, texts: HostArray) -> HostArray:
    for element in texts.flat:
        if not isinstance(element, bytes):
            raise TypeError(f"the array {name!r} holds a {type(element).__name__}, which cannot be stored")
    return np.frombuffer(byte_strings.pack(texts), np.uint8)


@lru_cache(maxsize=1024)
def _header(form: Form) -> bytes:
    text = json.dumps([(name, _word(dtype), shape) for name, dtype, shape in form]).encode()
    header = MAGIC + struct.pack("<I", len(text)) + text
    return header + bytes(-len(header) % ALIGN)


def unpack(buffer: Buffer) -> dict[str, HostArray]:
    """The arrays as read-only views of `buffer`.

    Raises:
        DamagedError: the bytes are not those of `pack` or `buffers`.
    """
    view = memoryview(buffer).toreadonly()
    try:
        if view[:4] != MAGIC:
            raise ValueError("no header")
        (length,) = struct.unpack_from("<I", view, 4)
        form = _read_form(bytes(view[8 : 8 + length]))
        start = 8 + length + -(8 + length) % ALIGN
        tensors: dict[str, HostArray] = {}
        for name, dtype, shape, nbytes in form:
            tensors[name] = _array(view[start : start + nbytes], dtype, shape)
            start += nbytes + -nbytes % ALIGN
    except Exception as error:  # JSON and NumPy refuse nonsense in many ways: OverflowError, RecursionError, ...
        raise DamagedError(f"the stored arrays are damaged: {error}") from None
    return tensors


def _array(raw: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...]) -> HostArray:
    if dtype == TEXT:
        texts = byte_strings.unpack(raw, math.prod(shape), shape)
        texts.flags.writeable = False
        return texts
    if not math.prod(shape):
        return np.empty(shape, dtype)
    array: HostArray = np.frombuffer(raw, dtype).reshape(shape)
    return array


@lru_cache(maxsize=1024)
def _read_form(text: bytes) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int]]:
    form = []
    for name, word, shape in json.loads(text):
        if not (isinstance(name, str) and isinstance(word, str)):
            raise ValueError("no header")
        dtype = _NAMED[word] if word in _NAMED else np.dtype(word)
        if _word(dtype) != word or not all(type(axis) is int and axis >= 0 for axis in shape):
            raise ValueError("no header")
        if dtype == TEXT:
            form.append((name, dtype, tuple(shape[:-1]), shape[-1]))
        else:
            form.append((name, dtype, tuple(shape), math.prod(shape) * dtype.itemsize))
    return form


def _word(dtype: np.dtype[Any]) -> str:
    """What stands for a dtype in a header: NumPy's own text, or the name of what it has no text for."""
    return name_of(dtype) if dtype == TEXT or is_narrow(dtype) else dtype.str


class Files:
    """The files of large arrays, by the task's number and `in` or `out`."""

    def __init__(self, folder: Path, *, sync: bool) -> None:
        """With `sync` a file and its name are on the disk when `write` returns."""
        self._folder = folder
        self._sync = sync

    def create(self) -> None:
        """Make the folders; those that are there stay."""
        for number in range(FOLDERS):
            (self._folder / f"{number:02x}").mkdir(parents=True, exist_ok=True)

    def path(self, seq: int, kind: str) -> Path:
        return self._folder / f"{seq % FOLDERS:02x}" / f"{seq}.{kind}"

    def write(self, path: Path, buffers: Sequence[Buffer]) -> None:
        """Write a file under a temporary name and give it its own when it is whole.

        Raises:
            OSError: it could not be written; nothing is left of it.
        """
        temporary = f"{path}.tmp"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, buffers)
                if self._sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            Path(temporary).rename(path)
            if self._sync:
                _sync_folder(path.parent)
        except OSError:
            for left in (temporary, str(path)):
                remove(left)
            raise

    def strays(self, wanted: set[Path]) -> list[Path]:
        """The files that no row speaks of: a process died between a file and its row, or between a row and its file."""
        return [file for file in self._folder.glob("*/*") if file not in wanted]


def _write_all(descriptor: int, buffers: Sequence[Buffer]) -> None:
    left = [memoryview(buffer) for buffer in buffers if len(buffer)]
    while left:
        written = os.writev(descriptor, left[:64])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path | str) -> None:
    """Remove a file; it may be gone already."""
    Path(path).unlink(missing_ok=True)

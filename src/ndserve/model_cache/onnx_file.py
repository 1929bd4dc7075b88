"""Read a model file's inputs and outputs without its weights.

Arrays are checked against a model before it is loaded, for every model that lies in the folder, so this must cost
next to nothing: the file is mapped, and the fields that hold weights are stepped over. The fields are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, in protobuf's wire format
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ndserve.dtypes import NARROW, PLAIN, TEXT, TEXT_NAME
from ndserve.errors import ModelLoadError
from ndserve.types import TensorSpec

DTYPES: dict[int, np.dtype[Any]] = {
    number: {**PLAIN, **NARROW, TEXT_NAME: TEXT}[name]
    for number, name in (
        *((1, "float32"), (2, "uint8"), (3, "int8"), (4, "uint16"), (5, "int16"), (6, "int32"), (7, "int64")),
        *((8, TEXT_NAME), (9, "bool"), (10, "float16"), (11, "float64"), (12, "uint32"), (13, "uint64")),
        *((16, "bfloat16"), (17, "float8_e4m3fn"), (18, "float8_e4m3fnuz")),
        *((19, "float8_e5m2"), (20, "float8_e5m2fnuz")),
    )
}
"""TensorProto.DataType -> dtype, for those that onnxruntime gives and takes."""

_UNSERVED = {
    0: "undefined",
    14: "complex64",
    15: "complex128",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
    24: "float8e8m0",
    25: "uint2",
    26: "int2",
    27: "float6e2m3",
    28: "float6e3m2",
}
"""The others by the names that ONNX has for them."""

_OTHER_KINDS = {4: "a sequence", 5: "a map", 7: "opaque", 8: "a sparse tensor", 9: "optional"}
"""The fields of a TypeProto that stand for something else than a tensor."""

_PARTS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
"""The fields of each kind of message that lead to external data, and what they hold."""

_MAX_DEPTH = 100
"""Protobuf's own limit; a file that goes deeper cannot be loaded."""

_SHORT = 4096
"""Bytes that are searched faster than walked. Most nodes are shorter; most weights are longer and stay unread."""


_DIGITS = 20
"""Digits of a length from which on it is more than 64 bits."""

_NOTHING = memoryview(b"")

T = TypeVar("T")
D = TypeVar("D")


class Signature(NamedTuple):
    """What a model file says of itself: its tensors, its weights, and what made it.

    `external` are the locations of weights outside the file. `largest` are the bytes of the largest weight; one outside
    whose length is not told counts nothing, and `untold` says that there is one. `opsets` are versions by domain, of
    which the empty one is ONNX's own.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    external: frozenset[str]
    largest: int = 0
    untold: bool = False
    opsets: tuple[tuple[str, int], ...] = ()
    ir_version: int = 0
    producer: str = ""


class _Value(NamedTuple):
    """One protobuf field: a number for varints, bytes for everything that has a length."""

    number: int
    bytes: memoryview


def read_signature(path: Path) -> Signature:
    """The inputs, outputs and external data of the ONNX file at `path`.

    Raises:
        ModelLoadError: not an ONNX model, one that is cut off, or one with tensors of a kind that is not served.
        OSError: the file cannot be read.
    """
    if not path.stat().st_size:
        raise ModelLoadError("the file is empty")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _read_model(memoryview(mapped))
    except (IndexError, ValueError) as error:
        guess = _guess(mapped[:_SHORT])
        if isinstance(error, _CutOffError) and not guess:
            raise ModelLoadError("the file is cut off, or is not an ONNX model") from None
        raise ModelLoadError(f"the file is not an ONNX model{guess}") from None


class _CutOffError(ValueError):
    """A message is shorter than it says."""


_MAGICS = {
    b"PK\x03\x04": ", but a zip archive (of PyTorch or Keras, perhaps); export it to ONNX",
    b"PK\x05\x06": ", but a zip archive",
    b"\x1f\x8b": ", but a gzip file; unpack it",
    b"\x89HDF": ", but an HDF5 file (of Keras, perhaps); export it to ONNX",
    b"\x93NUMPY": ", but a NumPy array",
    b"\x7fELF": ", but a program or library",
    b"\x80": ", but a Python pickle (of PyTorch, perhaps); export it to ONNX",
    b"version https://git-lfs": ", but a pointer of Git LFS; fetch the file itself (git lfs pull)",
}


def _guess(head: bytes) -> str:
    """What the file seems to be instead, for the message."""
    for magic, what in _MAGICS.items():
        if head.startswith(magic):
            return what
    try:
        text = head.decode()
    except UnicodeDecodeError:
        return ""
    return ", but a text" if all(each.isprintable() or each in "\n\r\t" for each in text) else ""


def _read_model(model: memoryview) -> Signature:
    weights: set[str] = set()
    largest = 0
    inputs: list[memoryview] = []
    outputs: list[memoryview] = []
    for graph in _all(model, 7):
        for number, value in _fields(graph):
            if number in (1, 5):  # a node may hold a constant
                largest = max(largest, len(value.bytes))
            if number == 5:
                weights.add(_text(value.bytes, 8))
            elif number == 11:
                inputs.append(value.bytes)
            elif number == 12:
                outputs.append(value.bytes)
    if not outputs:
        raise ValueError("no graph, or one without outputs")
    external = list(_external_data(model))
    lengths = [int(each.length) for each in external if each.length.isdecimal() and len(each.length) < _DIGITS]
    # Up to IR version 3 every weight is also listed as an input. Later, an input with a weight of its name is one that
    # callers may leave out. Here they cannot give it: then tasks would differ in their inputs, and be batched apart.
    return Signature(
        tuple(_read_tensor(entry) for entry in inputs if _text(entry, 1) not in weights),
        tuple(_read_tensor(entry) for entry in outputs),
        frozenset(location for each in external for location in each.locations),
        max([largest, *lengths]),
        len(lengths) < len(external),
        tuple((_text(each, 1), _integer(each, 2) or 0) for each in _all(model, 8)),
        _integer(model, 1) or 0,
        _text(model, 2),
    )


class _External(NamedTuple):
    """Where a weight lies outside the file: each place that is named, whichever a reader may take, and its length."""

    locations: tuple[str, ...]
    length: str


def _external_data(message: memoryview, kind: str = "model", depth: int = 0) -> Iterator[_External]:
    """Where the weights lie that are not in the file itself, those of subgraphs and constants included.

    https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
    """
    if depth > _MAX_DEPTH:
        raise ValueError("messages are nested too deep")
    if kind == "tensor":
        entries = [(_text(entry, 1), _text(entry, 2)) for entry in _all(message, 13)]
        if entries:
            yield _External(
                tuple(value for key, value in entries if key == "location"), dict(entries).get("length", "")
            )
    elif len(message) > _SHORT or b"location" in bytes(message):
        for number, value in _fields(message):
            if number in _PARTS[kind]:
                yield from _external_data(value.bytes, _PARTS[kind][number], depth + 1)


def _read_tensor(entry: memoryview) -> TensorSpec:
    """A ValueInfoProto as a spec; an output's shape may be missing, which leaves it free."""
    name = _text(entry, 1)
    kinds = {number: value.bytes for kind in _all(entry, 2) for number, value in _fields(kind)}
    tensor = kinds.get(1)
    if tensor is None:
        kind = next((_OTHER_KINDS[number] for number in kinds if number in _OTHER_KINDS), "without a type")
        raise ModelLoadError(f"{name!r} is not a plain tensor, but {kind}")
    elem_type = _integer(tensor, 1) or 0
    if elem_type not in DTYPES:
        known = f" ({_UNSERVED[elem_type]})" if elem_type in _UNSERVED else ""
        raise ModelLoadError(f"{name!r} has the ONNX element type {elem_type}{known}, which is not served")
    shape = None
    for field in _all(tensor, 2):
        shape = tuple(_axis(axis) for axis in _all(field, 1))
    return TensorSpec(name, DTYPES[elem_type], shape)


def _axis(dimension: memoryview) -> int | None:
    """A fixed length, or None for a named or unknown one."""
    size = _integer(dimension, 1)
    return size if size and size < 1 << 63 else None


def _all(message: memoryview, number: int) -> Iterator[memoryview]:
    return (value.bytes for found, value in _fields(message) if found == number)


def _text(message: memoryview, number: int) -> str:
    return bytes(_last(_all(message, number), _NOTHING)).decode()


def _integer(message: memoryview, number: int) -> int | None:
    return _last((value.number for found, value in _fields(message) if found == number), None)


def _last(values: Iterator[T], default: D) -> T | D:
    """The last one counts where a field comes twice, as protobuf has it."""
    last: T | D = default
    for value in values:
        last = value
    return last


def _fields(message: memoryview) -> Iterator[tuple[int, _Value]]:
    """Every field of one message, in order. Raises IndexError or ValueError where the bytes make none."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        wire_type = tag & 7
        value = _Value(0, _NOTHING)
        if wire_type == 0:
            number, position = _varint(message, position)
            value = _Value(number, _NOTHING)
        elif wire_type == 2:
            length, position = _varint(message, position)
            value = _Value(0, message[position : position + length])
            position += length
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position > end:
            raise _CutOffError
        yield tag >> 3, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte: Any = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")

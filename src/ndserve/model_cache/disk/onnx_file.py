"""Read a model file's inputs and outputs without its weights.

Arrays are checked against a model before it is loaded, for every model that lies in the folder, so this must cost
next to nothing: the fields that hold weights are stepped over unread. The fields are those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ndserve.dtypes import NARROW, PLAIN, TEXT, TEXT_NAME
from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk.protobuf import (
    SHORT,
    CutOffError,
    Message,
    Span,
    all_of,
    fields_of,
    integer_of,
    last_of,
    length_of,
    near,
    text_of,
)
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
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
"""The fields of each kind of message that lead to tensors, and what they hold."""

_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
"""Of a ModelProto; 1 is the IR version, which comes first in nearly every file, and 7 the graph."""

_BODIES = {7: frozenset({1, 5, 15}), 25: frozenset({7})}
"""The fields of a graph (7) and of a function (25) that may hold weights: nodes, tensors and sparse tensors."""

_MAX_DEPTH = 100
"""Protobuf's own limit; a file that goes deeper cannot be loaded."""

_OTHER_FILES = (
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file; convert it to ONNX"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself with `git lfs pull`"),
)
"""What is often taken for a model, by its first bytes."""

_NO_TEXT = bytes({*range(32), 127} - set(b"\t\n\f\r"))
"""Characters that no text has."""


class Signature(NamedTuple):
    """What a model file says of itself.

    `external` are the locations of weights outside the file. `largest` is an upper bound, in bytes, of its largest
    weight; it leaves out those at the locations in `unmeasured`, of which the file does not tell the size.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    external: frozenset[str]
    largest: int = 0
    unmeasured: frozenset[str] = frozenset()


class _Outside(NamedTuple):
    """A weight outside the file; `size` in bytes is None where the file does not tell it."""

    location: str
    size: int | None


def read_signature(path: Path) -> Signature:
    """The inputs, outputs and external data of the ONNX file at `path`.

    Raises:
        ModelLoadError: not an ONNX model or only a part of one, or one with tensors of a kind that is not served.
        OSError: the file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        model = Span(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        if not model.end:
            raise ModelLoadError("the file is empty")
        try:
            return _read_model(model)
        except (IndexError, ValueError):
            raise ModelLoadError(_trouble(model)) from None


def _read_model(model: Span) -> Signature:
    weights: set[str] = set()
    inputs: list[Message] = []
    outputs: list[Message] = []
    largest = 0
    operator_sets = False
    for field, part in fields_of(model):
        operator_sets |= field == 8
        if field not in _BODIES:
            continue
        for number, value in fields_of(part.bytes):
            if number in _BODIES[field]:
                # Of a node with weights this is more than the weights: a bound, and no look inside.
                largest = max(largest, length_of(value.bytes))
            if field == 7 and number == 5:
                weights.add(text_of(value.bytes, 8))
            elif field == 7 and number == 11:
                inputs.append(value.bytes)
            elif field == 7 and number == 12:
                outputs.append(value.bytes)
    # A file that ends before them may still hold its whole graph.
    if not outputs or not operator_sets:
        raise ValueError("no graph, one without outputs, or no operator sets")
    outside = list(_outside(model))
    # Up to IR version 3 every weight is also listed as an input. Later, an input with a weight of its name is one that
    # callers may leave out. Here they cannot give it: then tasks would differ in their inputs, and be batched apart.
    return Signature(
        tuple(_read_tensor(entry) for entry in inputs if text_of(entry, 1) not in weights),
        tuple(_read_tensor(entry) for entry in outputs),
        frozenset(weight.location for weight in outside),
        max([largest, *(weight.size or 0 for weight in outside)]),
        frozenset(weight.location for weight in outside if weight.size is None),
    )


def _outside(message: Message, kind: str = "model", depth: int = 0) -> Iterator[_Outside]:
    """The weights that are not in the file itself, those of subgraphs and constants included."""
    if depth > _MAX_DEPTH:
        raise ValueError("messages are nested too deep")
    # Short messages are searched faster than walked.
    if length_of(message) <= SHORT:
        message = near(message)
        if b"location" not in bytes(message):
            return
    if kind == "tensor":
        entries = [(text_of(entry, 1), text_of(entry, 2)) for entry in all_of(message, 13)]
        size = last_of((_count(value) for key, value in entries if key == "length"), None)
        yield from (_Outside(value, size) for key, value in entries if key == "location")
        return
    for number, value in fields_of(message):
        if number in _PARTS[kind]:
            yield from _outside(value.bytes, _PARTS[kind][number], depth + 1)


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _trouble(model: Span) -> str:
    """What is the matter with a file that could not be read as a model."""
    head = bytes(model.read(most=512))
    for beginning, kind in _OTHER_FILES:
        if head.startswith(beginning):
            return f"the file is not an ONNX model, but {kind}"
    if _is_text(head):
        return "the file is not an ONNX model, but text"
    versioned = False
    try:
        for number, _ in fields_of(model):
            if number not in _MODEL_FIELDS:
                return "the file is not an ONNX model"
            versioned |= number == 1
    except CutOffError as cut:
        if cut.number == 7 or (versioned and cut.number in _MODEL_FIELDS):
            return f"the file is cut off: it has {model.end} bytes of at least {cut.end}; copy or send it anew"
    except IndexError:
        if versioned:
            return f"the file is cut off after {model.end} bytes; copy or send it anew"
    except ValueError:
        pass
    else:
        return (
            "the file is not a whole ONNX model: its graph, the outputs of that or its operator sets (opset_import)"
            " are missing, as where a file is cut off"
        )
    return "the file is not an ONNX model"


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else its last character may just be cut
            return False
    return head.translate(None, _NO_TEXT) == head


def _read_tensor(entry: Message) -> TensorSpec:
    """A ValueInfoProto as a spec; an output's shape may be missing, which leaves it free."""
    name = text_of(entry, 1)
    kinds = {number: value.bytes for kind in all_of(entry, 2) for number, value in fields_of(kind)}
    tensor = kinds.get(1)
    if tensor is None:
        kind = next((_OTHER_KINDS[number] for number in kinds if number in _OTHER_KINDS), "without a type")
        raise ModelLoadError(f"{name!r} is not a plain tensor, but {kind}")
    elem_type = integer_of(tensor, 1) or 0
    if elem_type not in DTYPES:
        known = f" ({_UNSERVED[elem_type]})" if elem_type in _UNSERVED else ""
        raise ModelLoadError(f"{name!r} has the ONNX element type {elem_type}{known}, which is not served")
    shape = None
    for field in all_of(tensor, 2):
        shape = tuple(_axis(axis) for axis in all_of(field, 1))
    return TensorSpec(name, DTYPES[elem_type], shape)


def _axis(dimension: Message) -> int | None:
    """A fixed length, or None for a named or unknown one."""
    size = integer_of(dimension, 1)
    return size if size and size < 1 << 63 else None

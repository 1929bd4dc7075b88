"""Inference responses: the outputs that were asked for, in the JSON or as raw bytes behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson

from ndserve import byte_strings
from ndserve.codecs.base import MAX_TENSORS, Payload
from ndserve.codecs.npy import SMALL
from ndserve.codecs.open_inference.classification import classified
from ndserve.codecs.open_inference.datatypes import BINARY_ONLY, datatype_of
from ndserve.codecs.open_inference.request import Asked, Request
from ndserve.errors import InvalidInputError, NotAcceptableError
from ndserve.types import HostArray, Tensors, TensorSpec

JSON = b"application/json"
BINARY = b"application/octet-stream"

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

_Form: TypeAlias = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
"""Name, dtype and shape of each of the outputs."""


class Origin(NamedTuple):
    """Whose outputs they are, as the response names it."""

    model: str
    version: str


NOWHERE = Origin("", "")


def encode(origin: Origin, request: Request, outputs: Tensors, rows: int | None = None) -> Payload:
    """The response with the outputs that `request` asks for; `rows` is None where axis 0 is no batch axis.

    Raises:
        InvalidInputError: the model has no such output, or one that has no classes.
        NotAcceptableError: an output has no form in JSON, or none at all.
    """
    if request.outputs is None:
        if request.binary and len(outputs) <= MAX_TENSORS:
            return _all_binary(origin, request.id, outputs)
        return _mixed(origin, request.id, [(name, array, request.binary) for name, array in outputs.items()])
    chosen: dict[str, HostArray] = {}
    for asked in request.outputs:
        if asked.name not in outputs:
            raise unknown_output(origin.model, asked.name, outputs)
        array = outputs[asked.name]
        chosen[asked.name] = classified(asked.name, array, asked.classes, rows) if asked.classes else array
    if all(asked.binary for asked in request.outputs):
        return _all_binary(origin, request.id, chosen)
    mixed = [(asked.name, chosen[asked.name], asked.binary) for asked in request.outputs]
    return _mixed(origin, request.id, mixed)


def is_binary(request: Request) -> bool:
    """Whether the response is raw bytes that nothing has to be made of."""
    if request.outputs is None:
        return request.binary
    return all(asked.binary and not asked.classes for asked in request.outputs)


def check_outputs(model: str, specs: Sequence[TensorSpec], outputs: Sequence[Asked]) -> None:
    """Refuse to run for an output that the model does not have. Without specs nothing is known.

    Raises:
        InvalidInputError: there is none of that name.
    """
    names = [spec.name for spec in specs]
    for asked in outputs:
        if names and asked.name not in names:
            raise unknown_output(model, asked.name, names)


def unknown_output(model: str, name: str, known: Iterable[str]) -> InvalidInputError:
    """The refusal of a request for an output that is not there."""
    return InvalidInputError(f"{model!r} has no output {name[:100]!r}; it has {', '.join(known)}")


def _all_binary(origin: Origin, request_id: str, outputs: Tensors) -> Payload:
    """The usual case: the JSON depends on names, dtypes and shapes alone, and is written once for each combination."""
    frame = None
    if not request_id:
        frame = _frame(origin.model, origin.version, tuple([(n, a.dtype, a.shape) for n, a in outputs.items()]))
    if frame is None:
        return _mixed(origin, request_id, [(name, array, True) for name, array in outputs.items()])
    head, total, headers = frame
    if total > SMALL:
        return Payload(BINARY, (head, *map(_bytes_of, outputs.values())), headers)
    body = b"".join([head, *[array.tobytes() for array in outputs.values()]])
    return Payload(BINARY if headers else JSON, (body,), headers)


def _mixed(origin: Origin, request_id: str, outputs: list[tuple[str, HostArray, bool]]) -> Payload:
    entries: list[dict[str, Any]] = []
    chunks: list[bytes | memoryview] = []
    for name, array, binary in outputs:
        if binary:
            chunk = byte_strings.pack(array) if array.dtype.hasobject else _bytes_of(array)
            entries.append(_entry(name, array.dtype, array.shape, len(chunk)))
            chunks.append(chunk)
        else:
            entry = _entry(name, array.dtype, array.shape)
            entries.append({**entry, "data": _values(name, entry["datatype"], array)})
    option = orjson.OPT_SERIALIZE_NUMPY
    head = _head(origin, request_id) + orjson.dumps({"outputs": entries}, option=option)[1:]
    return _payload(len(head), sum(map(len, chunks)), (head, *chunks))


def _payload(length: int, binary: int, chunks: tuple[bytes | memoryview, ...]) -> Payload:
    """Without a single binary byte it is plain JSON, as Triton has it."""
    if not binary:
        return Payload(JSON, chunks)
    return Payload(BINARY, chunks, _length_header(length))


@lru_cache(maxsize=1024)
def _frame(model: str, version: str, form: _Form) -> tuple[bytes, int, Headers] | None:
    """The JSON in front of binary outputs, the bytes that follow it, and the headers; None with texts among them."""
    entries, total = [], 0
    for name, dtype, shape in form:
        if dtype.hasobject:
            return None
        nbytes = math.prod(shape) * dtype.itemsize
        total += nbytes
        entries.append(_entry(name, dtype, shape, nbytes))
    head = _names(model, version) + orjson.dumps({"outputs": entries})[1:]
    return head, total, _length_header(len(head)) if total else ()


def _entry(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], nbytes: int | None = None) -> dict[str, Any]:
    """An output in the JSON, without its values; with the number of bytes that follow where it is binary."""
    entry: dict[str, Any] = {"name": name, "datatype": datatype_of(dtype, name), "shape": list(shape)}
    return entry if nbytes is None else {**entry, "parameters": {"binary_data_size": nbytes}}


def _length_header(length: int) -> Headers:
    return ((b"inference-header-content-length", b"%d" % length),)


def _head(origin: Origin, request_id: str) -> bytes:
    """The first members of a response, the comma behind them included."""
    names = _names(origin.model, origin.version)
    return names + b'"id":' + orjson.dumps(request_id) + b"," if request_id else names


@lru_cache(maxsize=1024)
def _names(model: str, version: str) -> bytes:
    return orjson.dumps({"model_name": model, "model_version": version})[:-1] + b","


def _bytes_of(array: HostArray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _values(name: str, datatype: str, array: HostArray) -> Any:
    """The elements in C order, as orjson writes them: NaN and infinity become null, for JSON has neither."""
    if datatype in BINARY_ONLY:
        raise NotAcceptableError(f"sending {datatype} data via JSON is not supported; ask for {name!r} in binary")
    if not array.dtype.hasobject:
        return np.ascontiguousarray(array).reshape(-1)
    try:
        return [text.decode() for text in array.flat]
    except UnicodeDecodeError:
        raise NotAcceptableError(f"output {name!r} holds bytes that are no UTF-8; ask for it in binary") from None

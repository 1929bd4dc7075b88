"""Inference requests: what they say, and the arrays in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ndserve import byte_strings
from ndserve.codecs.base import MAX_TENSORS, Budget, Buffer, blaming, check_texts, checked_shape, excerpt, over_limit
from ndserve.codecs.json import MAX_JSON_BYTES, parse, to_array
from ndserve.codecs.open_inference.datatypes import BINARY_ONLY, DATATYPES, dtype_of
from ndserve.errors import MalformedBodyError, UnsupportedError
from ndserve.types import HostArray, Parameter, Tensors, TensorSpec

CACHED = 2048
"""Up to this size a request's JSON is remembered: a client that sends binary tensors sends the same JSON every time."""


class Given(NamedTuple):
    """An input as the JSON names it: with its values, or with the number of bytes that hold them behind the JSON.

    `size` counts its elements.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int
    nbytes: int
    values: HostArray | None


class Asked(NamedTuple):
    """An output that the client asks for. `classes` above 0 wants so many of its largest values, as texts."""

    name: str
    binary: bool
    classes: int


class Request(NamedTuple):
    """A request without its arrays. `outputs` None asks for all of them, in binary where `binary` says so."""

    id: str
    parameters: Mapping[str, Parameter]
    inputs: tuple[Given, ...]
    outputs: tuple[Asked, ...] | None
    binary: bool


RAW = Request("", MappingProxyType({}), (), None, binary=True)
"""What a request without JSON says: nothing, and that it wants binary outputs."""


def decode(
    body: Buffer, length: int | None, specs: Sequence[TensorSpec], limit: int, *, has_batch: bool
) -> tuple[Request, Tensors]:
    """What a body asks for, and its arrays by name; they may be read-only views of the body.

    Args:
        length: bytes of JSON in front of the binary tensors; None where all of the body is JSON, and 0 where there
            is none, and the body is the model's only input.
        specs: the target's inputs.
        limit: the most bytes that the arrays may hold together.
        has_batch: whether axis 0 of the specs is a batch axis.

    Raises:
        MalformedBodyError, BodyTooLargeError: it is not what the protocol says; names the tensor at fault.
        InvalidInputError: values do not fit their datatype.
        UnsupportedError: it wants shared memory.
    """
    if length is None:
        return decode_document(parse(body), limit)
    if length == 0:
        return RAW, _raw(body, specs, has_batch=has_batch)
    if length > len(body):
        raise MalformedBodyError(f"Inference-Header-Content-Length is {length}, but the body has {len(body)} bytes")
    head = bytes(body[:length])
    request = _known(head) if length <= CACHED else _read(parse(head), Budget(limit))
    return request, arrays_of(request, body, length, limit)


def decode_document(document: Any, limit: int) -> tuple[Request, Tensors]:
    """The same for a body that is all JSON, and parsed already."""
    request = _read(document, Budget(limit))
    for given in request.inputs:
        if given.values is None:
            raise MalformedBodyError(
                f"input {excerpt(given.name)} has binary data, but there is no header Inference-Header-Content-Length"
            )
    return request, {given.name: given.values for given in request.inputs if given.values is not None}


def is_request(document: Any) -> bool:
    """Whether parsed JSON is such a request, and none of ndserve's own forms: its inputs are a list."""
    return isinstance(document, dict) and isinstance(document.get("inputs"), list)


def arrays_of(request: Request, body: Buffer, start: int, limit: int) -> Tensors:
    """The arrays of a request whose JSON is known; the binary ones lie one behind the other from `start` on.

    Raises:
        MalformedBodyError: there are fewer bytes, or more.
        BodyTooLargeError: there are more than `limit`.
    """
    tensors: dict[str, HostArray] = {}
    for given in request.inputs:
        if given.values is not None:
            tensors[given.name] = given.values
            continue
        end = start + given.nbytes
        if end > len(body):
            raise MalformedBodyError(
                f"the body ends too early: expecting {end - len(body)} additional bytes for input {given.name!r}"
            )
        tensors[given.name] = _tensor(given, body, start, end)
        start = end
    if start != len(body):
        raise MalformedBodyError(f"unexpected additional input data: {len(body) - start} bytes follow the last input")
    if start > limit:
        raise over_limit(limit)
    return tensors


def _tensor(given: Given, body: Buffer, start: int, end: int) -> HostArray:
    if given.dtype.hasobject:
        check_texts(given.size)
        try:
            return byte_strings.unpack(memoryview(body)[start:end], given.size, given.shape)
        except ValueError as error:
            raise MalformedBodyError(f"input {given.name!r}: {error}") from None
    # The JSON in front may be of any length, and devices take no unaligned arrays.
    if type(body) is bytes and start % given.dtype.alignment:
        body, start = body[start:end], 0
    array: HostArray = np.ndarray(given.shape, given.dtype, body, start)
    if not array.flags.aligned:
        array = array.copy()
    if type(body) is not bytes:  # a view of bytes is read-only as it is
        array.flags.writeable = False
    return array


def _raw(body: Buffer, specs: Sequence[TensorSpec], *, has_batch: bool) -> Tensors:
    """The whole body as the only input of a model, of which at most one axis besides the batch axis is free."""
    if len(specs) != 1:
        raise MalformedBodyError(f"a request without JSON is for models with one input; this one has {len(specs)}")
    (spec,) = specs
    dtype = np.dtype(np.float32) if spec.dtype is None else spec.dtype
    if dtype.hasobject:
        return {spec.name: byte_strings.of([bytes(body)], (1,))}
    axes: list[int | None] = [None] if spec.shape is None else list(spec.shape)
    if has_batch and axes and axes[0] is None:
        axes[0] = 1
    known = math.prod(axis for axis in axes if axis is not None) * dtype.itemsize
    if axes.count(None) > 1:
        raise MalformedBodyError(f"a request without JSON cannot tell the free axes of {spec} apart")
    if None in axes:
        axes[axes.index(None)] = len(body) // known if known else 0
    shape = checked_shape(axes)
    if math.prod(shape) * dtype.itemsize != len(body):
        raise MalformedBodyError(f"the body has {len(body)} bytes, which is no whole {spec}")
    nbytes = len(body)
    return {spec.name: _tensor(Given(spec.name, dtype, shape, math.prod(shape), nbytes, None), body, 0, nbytes)}


@lru_cache(maxsize=1024)
def _known(head: bytes) -> Request:
    """A request's JSON, read once; its values, which are small then, are read-only."""
    return _read(parse(head), Budget(MAX_JSON_BYTES))


def _read(document: Any, budget: Budget) -> Request:
    if not isinstance(document, dict):
        raise MalformedBodyError("the request is not a JSON object")
    parameters = read_parameters(document.get("parameters"), "the request")
    binary = _flag(parameters, "binary_data_output", "the request")
    request_id = document.get("id", "")
    if not isinstance(request_id, str):
        raise MalformedBodyError("the request's id must be a text")
    inputs = tuple(_read_input(entry, budget) for entry in _entries(document, "inputs"))
    if not inputs:
        raise MalformedBodyError("the request has no inputs")
    outputs = None
    if document.get("outputs"):
        outputs = tuple(_read_output(entry, binary=binary) for entry in _entries(document, "outputs"))
    for kind, names in (("input", [i.name for i in inputs]), ("output", [o.name for o in outputs or ()])):
        if len(set(names)) < len(names):
            raise MalformedBodyError(f"the request names an {kind} twice: {excerpt(', '.join(names))}")
    return Request(request_id, MappingProxyType(parameters), inputs, outputs, binary)


def _entries(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise MalformedBodyError(f"{key!r} must be a list of objects with a name")
    if len(entries) > MAX_TENSORS:
        raise MalformedBodyError(f"{key!r} has {len(entries)} entries; at most {MAX_TENSORS} are read")
    return entries


def _read_input(entry: dict[str, Any], budget: Budget) -> Given:
    name = entry["name"]
    with blaming(f"input {excerpt(name)}"):
        dtype = dtype_of(entry.get("datatype"))
        if not isinstance(entry.get("shape"), list):
            raise MalformedBodyError("the shape must be a list of integers")
        shape = checked_shape(entry["shape"])
        count = math.prod(shape)
        parameters = read_parameters(entry.get("parameters"), "the input")
        _refuse_shared_memory(parameters)
        nbytes = parameters.get("binary_data_size")
        if nbytes is None:
            return Given(name, dtype, shape, count, 0, _values(entry, dtype, shape, count, budget))
        if not isinstance(nbytes, int) or isinstance(nbytes, bool) or nbytes < 0:
            raise MalformedBodyError("binary_data_size must be a whole number of bytes")
        if "data" in entry:
            raise MalformedBodyError("there are values in the JSON and a binary_data_size as well")
        if not dtype.hasobject and nbytes != count * dtype.itemsize:
            raise MalformedBodyError(
                f"unexpected total byte size {nbytes}, expecting {count * dtype.itemsize} for shape {list(shape)}"
            )
        return Given(name, dtype, shape, count, nbytes, None)


def _values(
    entry: dict[str, Any], dtype: np.dtype[Any], shape: tuple[int, ...], count: int, budget: Budget
) -> HostArray:
    """The values of an input that are in the JSON, nested as the shape is or flat."""
    if "data" not in entry:
        raise MalformedBodyError("there are neither values (data) nor a binary_data_size")
    datatype = DATATYPES[dtype]
    if datatype in BINARY_ONLY:
        raise MalformedBodyError(f"receiving {datatype} data via JSON is not supported; send it as a binary tensor")
    array = to_array(entry["data"], dtype, budget)
    if array.size != count or (array.ndim > 1 and array.shape != shape):
        raise MalformedBodyError(
            f"the values have shape {list(array.shape)}, which is not {list(shape)}: {array.size} of {count} elements"
        )
    array = array.reshape(shape)
    array.flags.writeable = False  # the request may be remembered
    return array


def _read_output(entry: dict[str, Any], *, binary: bool) -> Asked:
    where = f"output {excerpt(entry['name'])}"
    parameters = read_parameters(entry.get("parameters"), where)
    _refuse_shared_memory(parameters)
    classes = parameters.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise MalformedBodyError(f"{where}: classification must be a number of classes")
    return Asked(entry["name"], _flag(parameters, "binary_data", where, default=binary), classes)


def read_parameters(given: Any, where: str) -> dict[str, Parameter]:
    """The `parameters` of a request or a tensor: texts, numbers and booleans by name.

    Raises:
        MalformedBodyError: they are something else.
    """
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(value, str | int | float) for value in given.values()):
        raise MalformedBodyError(f"{where}: parameters must be an object of texts, numbers and booleans")
    return given


def _flag(parameters: dict[str, Parameter], name: str, where: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise MalformedBodyError(f"{where}: {name} must be true or false")
    return value


def _refuse_shared_memory(parameters: dict[str, Parameter]) -> None:
    if any(name.startswith("shared_memory_") for name in parameters):
        raise UnsupportedError("shared memory is not supported; send the tensor in the request")

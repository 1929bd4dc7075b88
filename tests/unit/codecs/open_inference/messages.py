"""Open Inference messages made by hand, and what the codec makes of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ndserve import byte_strings
from ndserve.codecs.base import Payload
from ndserve.codecs.open_inference import Request, decode
from ndserve.codecs.open_inference.datatypes import DATATYPES
from ndserve.types import HostArray, Tensors, TensorSpec
from tests.unit.codecs.bodies import LIMIT

FLOATS: HostArray = np.arange(6, dtype=np.float32).reshape(2, 3)


def raw_bytes(array: HostArray) -> bytes:
    """An array as it lies behind the JSON."""
    return byte_strings.pack(array) if array.dtype.hasobject else array.tobytes()


def in_binary(name: str, array: HostArray, **changed: Any) -> dict[str, Any]:
    """The entry of an input whose bytes follow the JSON; keyword arguments replace members of it."""
    size = {"binary_data_size": len(raw_bytes(array))}
    entry = {"name": name, "datatype": DATATYPES[array.dtype], "shape": list(array.shape), "parameters": size}
    return {**entry, **changed}


def in_json(name: str, data: Any, datatype: str = "FP32", shape: Any = (2, 3)) -> dict[str, Any]:
    """The entry of an input with its values."""
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def read(document: Any, *tails: bytes, limit: int = LIMIT) -> tuple[Request, Tensors]:
    """A request with the header that counts its JSON; `tails` follow that."""
    head = json.dumps(document).encode()
    return decode(b"".join([head, *tails]), len(head), (), limit, has_batch=True)


def read_json(document: Any, limit: int = LIMIT) -> tuple[Request, Tensors]:
    """A request that is all JSON, without the header."""
    return decode(json.dumps(document).encode(), None, (), limit, has_batch=True)


def read_raw(body: bytes, *specs: TensorSpec, has_batch: bool = True) -> HostArray:
    """The array of a request without JSON, for a model with these inputs."""
    request, tensors = decode(body, 0, specs, LIMIT, has_batch=has_batch)
    assert (request.id, request.outputs, request.binary) == ("", None, True)
    (array,) = tensors.values()
    return array


def asking(*outputs: dict[str, Any], binary: bool | None = None, request_id: str = "") -> Request:
    """A request that asks for these outputs; for all of them where there are none."""
    document: dict[str, Any] = {"inputs": [in_json("x", [1], shape=(1,))]}
    if outputs:
        document["outputs"] = list(outputs)
    if binary is not None:
        document["parameters"] = {"binary_data_output": binary}
    if request_id:
        document["id"] = request_id
    return read_json(document)[0]


def wanted(name: str, **parameters: Any) -> dict[str, Any]:
    """An output to ask for."""
    return {"name": name, "parameters": parameters} if parameters else {"name": name}


def json_of(payload: Payload) -> dict[str, Any]:
    """The JSON of a response."""
    body, headers = b"".join(payload.chunks), dict(payload.headers)
    length = int(headers.get(b"inference-header-content-length", len(body)))
    document: dict[str, Any] = json.loads(body[:length])
    return document


def arrays_of(payload: Payload) -> dict[str, HostArray]:
    """The outputs of a response, read as the protocol says and not by the code under test."""
    body, document, arrays = b"".join(payload.chunks), json_of(payload), {}
    at = int(dict(payload.headers).get(b"inference-header-content-length", len(body)))
    dtypes = {name: dtype for dtype, name in DATATYPES.items()}
    for entry in document["outputs"]:
        dtype, shape = dtypes[entry["datatype"]], tuple(entry["shape"])
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = [value.encode() for value in entry["data"]] if dtype.hasobject else entry["data"]
            arrays[entry["name"]] = np.array(values, dtype).reshape(shape)
            continue
        part, at = body[at : at + size], at + size
        if dtype.hasobject:
            arrays[entry["name"]] = byte_strings.unpack(part, int(np.prod(shape)), shape)
        else:
            arrays[entry["name"]] = np.frombuffer(part, dtype).reshape(shape)
    assert at == len(body)
    return arrays

"""JSON: for people, browsers and languages without NumPy. Slower and larger than .npy; exact for integers.

Three forms are read::

    [[1, 2], [3, 4]]                                   bare nested lists
    {"array": [[1, 2], [3, 4]], "dtype": "float32"}    one array; dtype is optional
    {"inputs": {"a": [1, 2], "b": {"array": [3], "dtype": "int8"}}}

Without a dtype an array takes the target's, or NumPy's own choice where the target takes any.
JSON has no NaN and no infinity: answers hold null there, and null is read as NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from ndserve.codecs.base import MAX_RANK, MAX_TENSORS, UNNAMED, Buffer, Payload, checked_dtype
from ndserve.errors import BodyTooLargeError, InvalidInputError, MalformedBodyError, NotAcceptableError
from ndserve.types import HostArray, Tensors, TensorSpec

MAX_JSON_BYTES = 16 * 1024**2
"""A Python list of numbers takes up to ten times its JSON text, and parsing holds the interpreter lock."""


class JsonCodec:
    """Nested lists."""

    media_types: tuple[str, ...] = ("application/json",)
    cheap = False

    def decode(self, body: Buffer, specs: Sequence[TensorSpec], limit: int) -> Tensors:
        if len(body) > MAX_JSON_BYTES:
            raise BodyTooLargeError(
                f"the JSON body has {len(body)} bytes; at most {MAX_JSON_BYTES} are read. Send .npy instead",
                limit=MAX_JSON_BYTES,
            )
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise MalformedBodyError(f"the body is not JSON: {error}") from None
        dtypes = {spec.name: spec.dtype for spec in specs}
        if isinstance(document, dict) and "inputs" in document:
            return _read_inputs(document, dtypes)
        sole = specs[0].dtype if len(specs) == 1 else None
        return {UNNAMED: _read_array(document, sole, "array")}

    def encode(self, outputs: Tensors) -> Payload:
        document: dict[str, Any]
        if len(outputs) == 1:
            document = _describe(next(iter(outputs.values())))
        else:
            document = {"outputs": {name: _describe(array) for name, array in outputs.items()}}
        try:
            return Payload(b"application/json", (orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY),))
        except orjson.JSONEncodeError as error:
            raise NotAcceptableError(f"the result has no JSON form ({error}); accept application/x-npy") from None


def _describe(array: HostArray) -> dict[str, Any]:
    if array.dtype.kind == "c":
        raise NotAcceptableError("complex numbers have no JSON form; accept application/x-npy")
    values: Any = np.ascontiguousarray(array) if array.ndim and array.size else array.tolist()
    return {"array": values, "dtype": array.dtype.name, "shape": list(array.shape)}


def _read_inputs(document: dict[str, Any], dtypes: dict[str, np.dtype[Any] | None]) -> Tensors:
    inputs = document["inputs"]
    if len(document) > 1 or not isinstance(inputs, dict) or not 0 < len(inputs) <= MAX_TENSORS:
        raise MalformedBodyError(f'"inputs" must stand alone and hold 1 to {MAX_TENSORS} arrays by name')
    return {name: _read_array(value, dtypes.get(name), name) for name, value in inputs.items()}


def _read_array(value: Any, dtype: np.dtype[Any] | None, name: str) -> HostArray:
    if isinstance(value, dict):
        if "array" not in value or value.keys() - {"array", "dtype", "shape"}:
            raise MalformedBodyError(
                f'{name}: expected nested lists, {{"array": …, "dtype": …}} or {{"inputs": {{…}}}},'
                f" found the keys {', '.join(map(repr, value)) or 'none'}"
            )
        if value.get("dtype") is not None:
            dtype = checked_dtype(value["dtype"])
        array = _to_array(value["array"], dtype, name)
        return _reshape(array, value["shape"], name) if "shape" in value else array
    return _to_array(value, dtype, name)


def _reshape(array: HostArray, shape: Any, name: str) -> HostArray:
    """Nested lists cannot say [0, 64]; an explicit shape can, and must otherwise agree."""
    if list(array.shape) == shape:
        return array
    sizes = isinstance(shape, list) and all(type(axis) is int and axis >= 0 for axis in shape)
    if not sizes or array.size or 0 not in shape or len(shape) > MAX_RANK:
        raise MalformedBodyError(f"{name}: the lists have shape {list(array.shape)}, not {shape}")
    return array.reshape(shape)


def _to_array(value: Any, dtype: np.dtype[Any] | None, name: str) -> HostArray:
    try:
        natural = np.array(value)
        if natural.dtype.kind == "O":  # null among numbers, or integers beyond 64 bits
            natural = np.array(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise MalformedBodyError(f"{name}: the lists are ragged or hold something else than numbers") from None
    if natural.dtype.kind not in "biuf" or natural.ndim > MAX_RANK:
        raise MalformedBodyError(f"{name}: the lists must hold numbers or booleans, at most {MAX_RANK} deep")
    if dtype is None or natural.size == 0:
        return natural if dtype is None else natural.astype(dtype)
    # The kinds that keep their meaning: any number as a float, integers as integers.
    if "biufc".index(dtype.kind.replace("u", "i")) < "biufc".index(natural.dtype.kind.replace("u", "i")):
        raise InvalidInputError(f"{name}: the values are {natural.dtype.name}, which {dtype.name} cannot hold exactly")
    try:
        with np.errstate(over="raise"):
            return np.array(value, dtype=dtype) if dtype.kind in "iu" else natural.astype(dtype)
    except (OverflowError, FloatingPointError):
        raise InvalidInputError(f"{name}: a value is outside the range of {dtype.name}") from None

"""JSON: for people, browsers and languages without NumPy. Slower and larger than .npy; exact for integers.

Three forms are read::

    [[1, 2], [3, 4]]                                   bare nested lists
    {"array": [[1, 2], [3, 4]], "dtype": "float32"}    one array; dtype and shape are optional
    {"inputs": {"a": [1, 2], "b": {"array": [3], "dtype": "int8"}}}

Answers have the second form or, with several arrays, the third as `"outputs"`; that word is read like `"inputs"`.
Without a dtype an array takes the target's, or NumPy's own choice where the target takes any.
JSON has no NaN and no infinity: answers hold null there, and null is read as NaN. Texts are strings, and their dtype is
"bytes"; without it strings are read where the target takes texts. JSON is UTF-8, and so must the texts be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np
import orjson

from ndserve import byte_strings
from ndserve.codecs.base import (
    MAX_RANK,
    MAX_TENSORS,
    UNNAMED,
    Budget,
    Buffer,
    Payload,
    blaming,
    check_texts,
    checked_dtype,
    checked_shape,
    excerpt,
    wire_name,
)
from ndserve.dtypes import TEXT, TEXT_NAME, is_narrow, widened
from ndserve.errors import BodyTooLargeError, InvalidInputError, MalformedBodyError, NotAcceptableError
from ndserve.types import HostArray, Tensors, TensorSpec

MAX_JSON_BYTES = 16 * 1024**2
"""A Python list of numbers takes up to ten times its JSON text, and parsing holds the interpreter lock."""

# A value keeps its meaning in a dtype of its own or of a higher rank: any number as a float, integers as integers.
_BOOL, _INT, _FLOAT, _COMPLEX = range(4)
_RANK_OF_TYPE: dict[type, int] = {bool: _BOOL, int: _INT, float: _FLOAT, NoneType: _FLOAT}
_RANK_OF_KIND = {"b": _BOOL, "i": _INT, "u": _INT, "f": _FLOAT, "c": _COMPLEX, "V": _FLOAT}  # V: narrow floats


class JsonCodec:
    """Nested lists."""

    media_types: tuple[str, ...] = ("application/json",)
    cheap = False

    def decode(self, body: Buffer, specs: Sequence[TensorSpec], limit: int) -> Tensors:
        return self.read(parse(body), specs, limit)

    def read(self, document: Any, specs: Sequence[TensorSpec], limit: int) -> Tensors:
        """The arrays of a body that is parsed already."""
        budget = Budget(limit)
        for key in ("inputs", "outputs"):
            if isinstance(document, dict) and key in document:
                return _read_several(document, key, {spec.name: spec.dtype for spec in specs}, budget)
        return {UNNAMED: _read(document, specs[0].dtype if len(specs) == 1 else None, budget)}

    def holds(self, outputs: Tensors) -> bool:
        return all(array.dtype.kind != "c" for array in outputs.values())

    def encode(self, outputs: Tensors) -> Payload:
        arrays = {name: _describe(name, array) for name, array in outputs.items()}
        document = {"outputs": arrays} if len(arrays) > 1 else next(iter(arrays.values()))
        try:
            return Payload(b"application/json", (orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY),))
        except orjson.JSONEncodeError as error:
            raise NotAcceptableError(f"the result has no JSON form ({error}); accept application/x-npy") from None


def _describe(output: str, array: HostArray) -> dict[str, Any]:
    name = TEXT_NAME if array.dtype == TEXT else wire_name(array.dtype)
    if array.dtype.kind == "c":
        raise NotAcceptableError("complex numbers have no JSON form; accept application/x-npy")
    values: Any
    if array.size == 0:
        values = []  # the shape says the rest; [1000000000, 0] would be as many lists
    elif array.dtype == TEXT:
        values = _strings(output, array)
    elif array.ndim == 0:
        values = widened(array).item()  # orjson writes no scalar arrays
    else:
        values = widened(array) if is_narrow(array.dtype) else np.ascontiguousarray(array, name)
    return {"array": values, "dtype": name, "shape": list(array.shape)}


def _strings(output: str, array: HostArray) -> Any:
    """The texts as nested lists of `str`."""
    try:
        return byte_strings.decoded(array).tolist()
    except UnicodeDecodeError as error:
        raise NotAcceptableError(f"output {output!r} has no JSON form: {error.reason}") from None
    except AttributeError:
        raise NotAcceptableError(f"output {output!r} holds Python objects, which have no form on the wire") from None


def _read_several(
    document: dict[str, Any], key: str, dtypes: Mapping[str, np.dtype[Any] | None], budget: Budget
) -> Tensors:
    arrays = document[key]
    if len(document) > 1 or not isinstance(arrays, dict) or not 0 < len(arrays) <= MAX_TENSORS:
        raise MalformedBodyError(f'"{key}" must stand alone and hold 1 to {MAX_TENSORS} arrays by name')
    tensors = {}
    for name, value in arrays.items():
        with blaming(name[:100]):
            tensors[name] = _read(value, dtypes.get(name), budget)
    return tensors


def _read(value: Any, dtype: np.dtype[Any] | None, budget: Budget) -> HostArray:
    """One array in either form; `dtype` is what it takes where it says none itself."""
    if not isinstance(value, dict):
        return to_array(value, dtype, budget)
    if "array" not in value or value.keys() - {"array", "dtype", "shape"}:
        raise MalformedBodyError(
            'expected nested lists, {"array": …, "dtype": …} or {"inputs": {…}},'
            f" found an object with the keys {excerpt(', '.join(value))}"
        )
    if value.get("dtype") is not None:
        dtype = TEXT if value["dtype"] == TEXT_NAME else checked_dtype(value["dtype"])
    array = to_array(value["array"], dtype, budget)
    return _reshape(array, value["shape"]) if "shape" in value else array


def _reshape(array: HostArray, shape: Any) -> HostArray:
    """Nested lists cannot say [0, 64]; an explicit shape can, and must otherwise agree."""
    if list(array.shape) == shape:
        return array
    if array.size or not isinstance(shape, list) or 0 not in shape:
        raise MalformedBodyError(f"the lists have shape {list(array.shape)}, which is not the shape they come with")
    return array.reshape(checked_shape(shape))


def to_array(value: Any, dtype: np.dtype[Any] | None, budget: Budget) -> HostArray:
    """Nested lists as an array of `dtype`, or of NumPy's own choice without one.

    Raises:
        MalformedBodyError: they are ragged, too deep, or hold something else.
        InvalidInputError: a value cannot be held exactly, or is out of range.
        BodyTooLargeError: the budget does not hold it.
    """
    # Python's own objects first: left to itself NumPy reads texts as numbers, makes room for the longest text
    # in every place, and rounds a large integer that has a small one beside it.
    objects = np.array(value, dtype=object)
    if objects.ndim > MAX_RANK:
        raise MalformedBodyError(f"the lists are more than {MAX_RANK} deep")
    types = set(map(type, objects.flat))
    if dtype == TEXT:
        return _to_texts(objects, types, budget)
    if not types <= _RANK_OF_TYPE.keys():
        raise MalformedBodyError("the lists are ragged or hold something else than numbers, booleans and null")
    rank = max((_RANK_OF_TYPE[each] for each in types), default=_BOOL)
    if dtype is None:
        dtype = _natural_dtype(objects, rank)
    elif _RANK_OF_KIND[dtype.kind] < rank:
        found = "integers" if rank == _INT else "floats or null"
        raise InvalidInputError(f"there are {found} among the values, which {dtype.name} cannot hold exactly")
    budget.take(objects.size * dtype.itemsize)
    try:
        with np.errstate(over="raise"):
            return _to_narrow(objects, dtype) if is_narrow(dtype) else objects.astype(dtype)
    except (OverflowError, FloatingPointError):
        raise InvalidInputError(f"a value is outside the range of {dtype.name}") from None


def _to_narrow(objects: HostArray, dtype: np.dtype[Any]) -> HostArray:
    """Raises OverflowError where a number becomes infinite, or none: not all of these floats have an infinity."""
    wide = objects.astype(np.float32)
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    if not np.array_equal(np.isfinite(array), np.isfinite(wide)):
        raise OverflowError
    return array


def _to_texts(objects: HostArray, types: set[type], budget: Budget) -> HostArray:
    if not types <= {str}:
        raise InvalidInputError("the input takes texts, and the lists are ragged or hold something else than strings")
    check_texts(objects.size)
    texts = byte_strings.encoded(objects)
    budget.take(sum([4 + len(text) for text in texts.flat]))
    return texts


def _natural_dtype(objects: HostArray, rank: int) -> np.dtype[Any]:
    """NumPy's own choice, but never a float for integers."""
    if rank == _FLOAT or objects.size == 0:
        return np.dtype(np.float64)
    if rank == _BOOL:
        return np.dtype(np.bool)
    return np.dtype(np.int64 if max(objects.flat) < 2**63 else np.uint64)


def parse(body: Buffer) -> Any:
    """The JSON document of a body.

    Raises:
        BodyTooLargeError: it is longer than `MAX_JSON_BYTES`.
        MalformedBodyError: it is no JSON.
    """
    if len(body) > MAX_JSON_BYTES:
        raise BodyTooLargeError(
            f"the JSON body has {len(body)} bytes; at most {MAX_JSON_BYTES} are read. Send binary data instead",
            limit=MAX_JSON_BYTES,
        )
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBodyError(f"the body is not JSON: {error}") from None

"""Arrays of every datatype come back bit for bit, and no bytes do harm."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ndserve import byte_strings
from ndserve.codecs.open_inference import Origin, Request, decode, encode
from ndserve.codecs.open_inference.datatypes import BINARY_ONLY, DATATYPES, DTYPES
from ndserve.codecs.open_inference.request import RAW
from ndserve.errors import NdserveError
from ndserve.types import HostArray, Tensors, TensorSpec
from tests.unit.codecs.bodies import LIMIT
from tests.unit.codecs.open_inference.messages import arrays_of, asking, in_binary, in_json, raw_bytes, read, wanted

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NAMES = st.text(st.characters(codec="utf-8"), max_size=12)
IN_JSON = sorted(set(DTYPES) - BINARY_ONLY - {"BYTES"})


@st.composite
def bits_of(draw: st.DrawFn, datatype: str) -> HostArray:
    """An array of any bits; of one-bit values those that NumPy has."""
    shape, dtype = draw(SHAPES), DTYPES[datatype]
    size = int(np.prod(shape))
    if datatype == "BYTES":
        return byte_strings.of(draw(st.lists(st.binary(max_size=9), min_size=size, max_size=size)), shape)
    data = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    bits = np.frombuffer(data, np.uint8)
    return (bits & 1 if datatype == "BOOL" else bits).view(dtype).reshape(shape)


ANY_ARRAY = st.sampled_from(sorted(DTYPES)).flatmap(bits_of)


@st.composite
def finite(draw: st.DrawFn) -> HostArray:
    """An array that JSON can carry bit for bit."""
    dtype = DTYPES[draw(st.sampled_from(IN_JSON))]
    values = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    return draw(hnp.arrays(dtype, SHAPES, elements=values))


def assert_same(got: HostArray, sent: HostArray) -> None:
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert raw_bytes(got) == raw_bytes(sent)


@given(arrays=st.dictionaries(NAMES, ANY_ARRAY, min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_binary_inputs_of_every_datatype_come_through(arrays: dict[str, HostArray]) -> None:
    inputs = [in_binary(name, array) for name, array in arrays.items()]
    _, tensors = read({"inputs": inputs}, *map(raw_bytes, arrays.values()))
    assert list(tensors) == list(arrays)
    for name, array in arrays.items():
        assert_same(tensors[name], array)
        assert tensors[name].flags.aligned


@given(array=finite(), beside=ANY_ARRAY, nested=st.booleans())
@settings(max_examples=150, deadline=None)
def test_values_in_the_json_come_through_beside_binary_ones(array: HostArray, beside: HostArray, nested: bool) -> None:
    whole = nested and array.ndim > 0 and array.size > 0
    data = array.tolist() if whole else array.reshape(-1).tolist()
    inputs = [in_json("x", data, DATATYPES[array.dtype], array.shape), in_binary("b", beside)]
    _, tensors = read({"inputs": inputs}, raw_bytes(beside))
    assert_same(tensors["x"], array)
    assert_same(tensors["b"], beside)


@given(arrays=st.dictionaries(NAMES, ANY_ARRAY, min_size=1, max_size=4), request_id=NAMES)
@settings(max_examples=150, deadline=None)
def test_binary_outputs_of_every_datatype_come_back(arrays: dict[str, HostArray], request_id: str) -> None:
    payload = encode(Origin("m", "1"), asking(binary=True, request_id=request_id), arrays)
    given_back = arrays_of(payload)
    assert list(given_back) == list(arrays)
    for name, array in arrays.items():
        assert_same(given_back[name], array)


@given(array=finite(), beside=ANY_ARRAY)
@settings(max_examples=150, deadline=None)
def test_outputs_in_the_json_come_back_beside_binary_ones(array: HostArray, beside: HostArray) -> None:
    request = asking(wanted("b", binary_data=True), wanted("y"))
    given_back = arrays_of(encode(Origin("m", "1"), request, {"y": array, "b": beside}))
    assert_same(given_back["y"], array)
    assert_same(given_back["b"], beside)


SPECS = st.lists(
    st.builds(
        TensorSpec,
        NAMES,
        st.none() | st.sampled_from(sorted(DATATYPES, key=str)),
        st.none() | st.lists(st.none() | st.integers(0, 5), max_size=3).map(tuple),
    ),
    max_size=2,
)


def read_or_refused(body: bytes, length: int | None, specs: list[TensorSpec]) -> None:
    """Nothing but a refusal, and no more memory than the limit and a reader's own needs."""
    tracemalloc.start()
    try:
        request, tensors = decode(body, length, specs, LIMIT, has_batch=True)
    except NdserveError:
        request, tensors = RAW, {}
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 * LIMIT
    check_sound(request, tensors)


def check_sound(request: Request, tensors: Tensors) -> None:
    assert isinstance(request.id, str)
    assert sum(array.nbytes for array in tensors.values()) <= LIMIT
    for array in tensors.values():
        assert array.flags.aligned
        assert array.flags.c_contiguous
        assert array.dtype.isnative


@given(body=st.binary(max_size=80), length=st.none() | st.integers(0, 90), specs=SPECS)
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_read_or_refused(body: bytes, length: int | None, specs: list[TensorSpec]) -> None:
    read_or_refused(body, length, specs)


LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
PARAMETERS = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "classification", "priority", "x"]),
    LEAVES | ANYTHING,
    max_size=3,
)
# Of texts the values in the JSON have tests of their own.
NUMBERS = st.sampled_from(sorted(set(DTYPES) - {"BYTES"}))
HOSTILE_INPUT = st.fixed_dictionaries(
    {"name": st.sampled_from("ab") | ANYTHING, "datatype": NUMBERS | LEAVES.filter(lambda leaf: leaf != "BYTES")},
    optional={
        "shape": st.lists(st.integers(0, 5) | st.sampled_from([2**31, 2**62, -1]), max_size=4) | ANYTHING,
        "data": st.lists(st.integers(0, 300) | st.floats(), max_size=6) | ANYTHING,
        "parameters": PARAMETERS | ANYTHING,
    },
)
HOSTILE = st.fixed_dictionaries(
    {"inputs": st.lists(HOSTILE_INPUT, max_size=3) | ANYTHING},
    optional={
        "id": st.text(max_size=4) | ANYTHING,
        "parameters": PARAMETERS | ANYTHING,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.text(max_size=3), "parameters": PARAMETERS})) | ANYTHING,
    },
)


@given(document=HOSTILE | ANYTHING, tail=st.binary(max_size=40), has_header=st.booleans())
@settings(max_examples=300, deadline=None)
def test_hostile_json_is_read_or_refused(document: Any, tail: bytes, has_header: bool) -> None:
    head = json.dumps(document).encode()
    read_or_refused(head + tail if has_header else head, len(head) if has_header else None, [])


@given(
    array=ANY_ARRAY,
    at=st.integers(0, 400),
    patch=st.binary(min_size=1, max_size=6) | st.sampled_from([b"-", b"9", b"999999999999", b"null", b'"', b"]"]),
    moved=st.integers(-3, 3),
)
@settings(max_examples=300, deadline=None)
def test_damaged_requests_are_read_or_refused(array: HostArray, at: int, patch: bytes, moved: int) -> None:
    head = json.dumps({"inputs": [in_binary("x", array)]}).encode()
    body = head + raw_bytes(array)
    at %= len(body) + 1
    read_or_refused(body[:at] + patch + body[at + len(patch) :], max(0, len(head) + moved), [])

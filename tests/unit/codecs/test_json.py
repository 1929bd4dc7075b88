"""The JSON codec: its three forms, their shapes and their bounds. Dtypes and values: test_json_values.py."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndserve.codecs.base import MAX_TENSORS, UNNAMED
from ndserve.codecs.json import MAX_JSON_BYTES, JsonCodec
from ndserve.errors import BodyTooLargeError, InvalidInputError, MalformedBodyError, NotAcceptableError
from ndserve.types import HostArray, TensorSpec
from tests.unit.codecs.bodies import LIMIT, REFUSALS
from tests.unit.codecs.json_documents import ANY, BYTE, FLOAT, decode, the_one


def encode(**outputs: HostArray) -> Any:
    return json.loads(b"".join(JsonCodec().encode(outputs).chunks))


def test_bare_lists_are_one_array() -> None:
    array = the_one([[1, 2], [3, 4]])
    assert array.shape == (2, 2)
    assert array.tolist() == [[1, 2], [3, 4]]


def test_a_bare_number_is_a_scalar_array() -> None:
    assert the_one("2.5").shape == ()


def test_an_array_may_say_its_dtype() -> None:
    array = the_one({"array": [[1, 2], [3, 4]], "dtype": "float16"})
    assert array.dtype == np.float16
    assert array.tolist() == [[1, 2], [3, 4]]


def test_inputs_are_arrays_by_name_in_either_form() -> None:
    decoded = decode({"inputs": {"a": [1, 2], "b": {"array": [3], "dtype": "int8"}}})
    assert decoded["a"].tolist() == [1, 2]
    assert decoded["b"].dtype == np.int8
    assert decoded["b"].tolist() == [3]


def test_without_a_dtype_the_targets_own_is_taken() -> None:
    assert the_one([1, 2], FLOAT).dtype == np.float32


def test_each_input_takes_the_dtype_of_its_own_spec() -> None:
    decoded = decode({"inputs": {"n": [1], "x": [1], "any": [1.5]}}, FLOAT, BYTE, ANY)
    assert {name: array.dtype.name for name, array in decoded.items()} == {
        "n": "uint8",
        "x": "float32",
        "any": "float64",
    }


def test_a_dtype_in_the_body_goes_before_the_targets() -> None:
    assert the_one({"array": [1], "dtype": "int16"}, FLOAT).dtype == np.int16


def test_a_dtype_of_null_counts_as_none() -> None:
    assert the_one({"array": [1], "dtype": None}, FLOAT).dtype == np.float32


def test_with_several_inputs_an_unnamed_array_takes_no_ones_dtype() -> None:
    assert the_one([1.5], FLOAT, BYTE).dtype == np.float64


def test_a_body_over_the_bound_is_refused_unread_with_both_figures() -> None:
    with pytest.raises(BodyTooLargeError, match=f"{MAX_JSON_BYTES + 1} bytes; at most {MAX_JSON_BYTES}") as caught:
        JsonCodec().decode(b"?" * (MAX_JSON_BYTES + 1), (), LIMIT)
    assert caught.value.details == {"limit": MAX_JSON_BYTES}


def test_a_body_of_just_the_bound_is_read() -> None:
    body = b"1".rjust(MAX_JSON_BYTES)
    assert JsonCodec().decode(body, (), LIMIT)[UNNAMED].item() == 1


@pytest.mark.parametrize(
    ("document", "shape"),
    [
        ({"array": [1, 2], "shape": [2]}, (2,)),
        ({"array": [], "shape": [0, 64]}, (0, 64)),
        ({"array": [], "shape": [3, 0, 2]}, (3, 0, 2)),
        ({"array": [[], []], "shape": [2, 0]}, (2, 0)),
        ({"array": 1, "shape": []}, ()),
    ],
)
def test_a_shape_says_what_lists_cannot(document: dict[str, object], shape: tuple[int, ...]) -> None:
    assert the_one(document, FLOAT).shape == shape


@pytest.mark.parametrize(
    "shape", [[4], [2, 2], [3], [], None, 4, "4", [-1], [True, 4], [4, 0], [[4]], [2.5], {"0": 4}, [1] * 32 + [4]]
)
def test_a_shape_that_disagrees_with_the_lists_is_refused(shape: object) -> None:
    with pytest.raises(MalformedBodyError, match=r"have shape \[2, 1\]"):
        decode({"array": [[1], [2]], "shape": shape})


@pytest.mark.parametrize("shape", [[2], [], [0, -1], [0, "a"], [0] * 33, [0, 1.5], [0, True], [None]])
def test_an_empty_list_takes_only_an_empty_shape(shape: object) -> None:
    with pytest.raises(MalformedBodyError):
        decode({"array": [], "shape": shape})


@pytest.mark.parametrize("shape", [[0, 2**62], [0, 2**63], [0, 2**64 - 1], [0, 2**40, 2**40], [0, 2**100]])
def test_a_huge_shape_without_values_is_refused(shape: list[int]) -> None:
    with pytest.raises(MalformedBodyError):
        decode({"array": [], "shape": shape})


@pytest.mark.parametrize("document", [{}, {"arrays": [1]}, {"array": [1], "name": "x"}, {"dtype": "int8"}])
def test_an_object_of_another_form_is_refused_with_the_forms(document: object) -> None:
    with pytest.raises(MalformedBodyError, match=r'"array".*"inputs"'):
        decode(document)


@pytest.mark.parametrize(
    "document", [{"inputs": [1]}, {"inputs": {}}, {"inputs": None}, {"inputs": {"a": [1]}, "id": 1}]
)
def test_inputs_of_another_form_are_refused(document: object) -> None:
    with pytest.raises(MalformedBodyError, match='"inputs" must stand alone'):
        decode(document)


@pytest.mark.parametrize("document", [{"inputs": {"a": [1]}, "outputs": {"a": [1]}}, {"outputs": [1]}, {"outputs": {}}])
def test_outputs_must_stand_alone_too(document: object) -> None:
    with pytest.raises(MalformedBodyError, match="must stand alone"):
        decode(document)


def test_the_bound_on_inputs_holds() -> None:
    names = [str(number) for number in range(MAX_TENSORS + 1)]
    assert len(decode({"inputs": dict.fromkeys(names[1:], 0)})) == MAX_TENSORS
    with pytest.raises(MalformedBodyError, match=f"1 to {MAX_TENSORS}"):
        decode({"inputs": dict.fromkeys(names, 0)})


def test_inputs_count_together() -> None:
    document = {"inputs": {"a": {"array": [1, 2], "dtype": "int8"}, "b": {"array": [3], "dtype": "int16"}}}
    body = json.dumps(document).encode()
    assert JsonCodec().decode(body, (), 4).keys() == {"a", "b"}
    with pytest.raises(BodyTooLargeError):
        JsonCodec().decode(body, (), 3)


def test_a_fault_names_its_input() -> None:
    with pytest.raises(InvalidInputError, match=r"^left: "):
        decode({"inputs": {"right": [1], "left": {"array": [300], "dtype": "uint8"}}})


@pytest.mark.parametrize(
    "document",
    [
        {"array": [1], "dtype": "x" * 10_000},
        {"k" * 10_000: 1},
        {"array": [1], "shape": [1] * 10_000},
        {"inputs": {"n" * 10_000: ["a"]}},
    ],
    ids=["dtype", "key", "shape", "name"],
)
def test_what_a_client_sent_is_not_echoed_whole(document: object) -> None:
    with pytest.raises((MalformedBodyError, InvalidInputError)) as caught:
        decode(document)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("body", [b"", b" ", b"[1", b"[1,]", b"{'array': 1}", b"[1] [2]", b"\xff", b"[1]\0", b"nul"])
def test_other_bytes_are_not_json(body: bytes) -> None:
    with pytest.raises(MalformedBodyError, match="not JSON"):
        JsonCodec().decode(body, (), LIMIT)


def test_one_output_is_written_with_its_dtype_and_shape() -> None:
    assert encode(y=np.zeros((0, 2), np.int8)) == {"array": [], "dtype": "int8", "shape": [0, 2]}


@pytest.mark.parametrize("shape", [(0,), (2, 0), (2**58, 0)], ids=str)
def test_an_output_without_values_takes_no_lists_for_its_shape(shape: tuple[int, ...]) -> None:
    written = encode(y=np.empty(shape, np.int8))
    assert written == {"array": [], "dtype": "int8", "shape": list(shape)}
    assert the_one(written).shape == shape


def test_several_outputs_are_written_by_name() -> None:
    written = encode(a=np.array([1], np.int8), b=np.array(True))
    assert written == {
        "outputs": {
            "a": {"array": [1], "dtype": "int8", "shape": [1]},
            "b": {"array": True, "dtype": "bool", "shape": []},
        }
    }


def test_several_outputs_are_read_as_they_were_written() -> None:
    written = encode(a=np.array([1], np.int8), b=np.zeros((0, 2)))
    decoded = decode(written)
    assert {name: (array.dtype.name, array.shape) for name, array in decoded.items()} == {
        "a": ("int8", (1,)),
        "b": ("float64", (0, 2)),
    }


def test_outputs_take_the_dtypes_of_the_inputs_of_their_names() -> None:
    assert decode({"outputs": {"n": [1]}}, BYTE)["n"].dtype == np.uint8


@pytest.mark.parametrize("shape", [(), (2,), (0,)])
def test_complex_numbers_are_refused_with_the_way_out(shape: tuple[int, ...]) -> None:
    with pytest.raises(NotAcceptableError, match="accept application/x-npy"):
        encode(y=np.zeros(shape, np.complex64))


NUMBERS = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text("1e", max_size=2)
DOCUMENTS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["array", "dtype", "shape", "inputs", "a"]), inner, max_size=3)
        | st.fixed_dictionaries({"array": inner, "dtype": st.sampled_from(["int8", "float16", "uint64", "complex64"])})
    ),
    max_leaves=12,
)


@given(DOCUMENTS, st.sampled_from([FLOAT, BYTE, ANY]))
@settings(max_examples=300, deadline=None)
def test_any_document_is_read_or_refused(document: object, spec: TensorSpec) -> None:
    try:
        tensors = decode(document, spec)
    except REFUSALS:
        return
    assert all(array.dtype.kind in "biufc" for array in tensors.values())

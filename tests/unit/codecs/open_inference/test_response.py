"""Inference responses: what stands in the JSON, what follows it, and what has no form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ndserve import byte_strings
from ndserve.codecs.base import MAX_TENSORS
from ndserve.codecs.npy import SMALL
from ndserve.codecs.open_inference import Origin, check_outputs, encode, is_binary
from ndserve.codecs.open_inference.request import RAW
from ndserve.dtypes import NARROW
from ndserve.errors import InvalidInputError, NotAcceptableError
from ndserve.types import HostArray, TensorSpec
from tests.unit.codecs.open_inference.messages import FLOATS, arrays_of, asking, json_of, wanted

ORIGIN = Origin("m", "3")
INTS = np.array([[1], [2]], np.int64)
TEXTS = byte_strings.of([b"one", b"", "drei ä".encode()], (3,))
OUTPUTS = {"y": FLOATS, "n": INTS}


def test_without_a_wish_all_outputs_stand_in_the_json() -> None:
    payload = encode(ORIGIN, asking(), OUTPUTS)
    assert (payload.content_type, payload.headers) == (b"application/json", ())
    assert json_of(payload) == {
        "model_name": "m",
        "model_version": "3",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]},
            {"name": "n", "datatype": "INT64", "shape": [2, 1], "data": [1, 2]},
        ],
    }


def test_all_outputs_in_binary_follow_the_json_in_its_order() -> None:
    payload = encode(ORIGIN, asking(binary=True), OUTPUTS)
    length = len(b"".join(payload.chunks)) - FLOATS.nbytes - INTS.nbytes
    assert payload.content_type == b"application/octet-stream"
    assert payload.headers == ((b"inference-header-content-length", b"%d" % length),)
    assert json_of(payload) == {
        "model_name": "m",
        "model_version": "3",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}},
            {"name": "n", "datatype": "INT64", "shape": [2, 1], "parameters": {"binary_data_size": 16}},
        ],
    }
    assert b"".join(payload.chunks)[length:] == FLOATS.tobytes() + INTS.tobytes()


def test_a_request_without_json_is_answered_in_binary() -> None:
    assert arrays_of(encode(ORIGIN, RAW, OUTPUTS))["y"].tolist() == FLOATS.tolist()


def test_outputs_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    payload = encode(ORIGIN, asking(wanted("n"), wanted("y")), OUTPUTS)
    assert [entry["name"] for entry in json_of(payload)["outputs"]] == ["n", "y"]


@pytest.mark.parametrize("binary", [True, False])
def test_only_what_was_asked_for_is_given(binary: bool) -> None:
    payload = encode(ORIGIN, asking(wanted("n"), binary=binary), OUTPUTS)
    assert list(arrays_of(payload)) == ["n"]


@pytest.mark.parametrize(("default", "own"), [(True, False), (False, True)])
def test_an_outputs_own_wish_counts_before_the_requests(default: bool, own: bool) -> None:
    payload = encode(ORIGIN, asking(wanted("y", binary_data=own), wanted("n"), binary=default), OUTPUTS)
    first, second = json_of(payload)["outputs"]
    assert ("data" in first, "data" in second) == (not own, not default)
    assert (payload.content_type, len(payload.headers)) == (b"application/octet-stream", 1)
    np.testing.assert_array_equal(arrays_of(payload)["y"], FLOATS)


@pytest.mark.parametrize("binary", [True, False])
def test_the_id_comes_back(binary: bool) -> None:
    payload = encode(ORIGIN, asking(binary=binary, request_id='a"b ä'), OUTPUTS)
    assert json_of(payload)["id"] == 'a"b ä'
    np.testing.assert_array_equal(arrays_of(payload)["y"], FLOATS)


def test_a_request_without_an_id_is_answered_without_one() -> None:
    assert "id" not in json_of(encode(ORIGIN, asking(binary=True), OUTPUTS))
    assert "id" not in json_of(encode(ORIGIN, asking(), OUTPUTS))


@pytest.mark.parametrize("request_id", ["", "a"])
def test_outputs_without_a_byte_have_no_header(request_id: str) -> None:
    payload = encode(ORIGIN, asking(binary=True, request_id=request_id), {"y": np.zeros((0, 3), np.float32)})
    assert (payload.content_type, payload.headers) == (b"application/json", ())
    (entry,) = json_of(payload)["outputs"]
    assert entry["parameters"] == {"binary_data_size": 0}
    assert entry["shape"] == [0, 3]


def test_texts_in_binary_carry_their_lengths() -> None:
    payload = encode(ORIGIN, asking(binary=True), {"t": TEXTS})
    (entry,) = json_of(payload)["outputs"]
    assert (entry["datatype"], entry["parameters"]["binary_data_size"]) == ("BYTES", 4 * 3 + 3 + 7)
    assert arrays_of(payload)["t"].tolist() == TEXTS.tolist()


def test_texts_in_the_json_are_texts() -> None:
    assert json_of(encode(ORIGIN, asking(), {"t": TEXTS}))["outputs"][0]["data"] == ["one", "", "drei ä"]


def test_texts_that_are_no_utf_8_have_no_form_in_json() -> None:
    with pytest.raises(NotAcceptableError, match="'t' holds bytes that are no UTF-8"):
        encode(ORIGIN, asking(), {"t": byte_strings.of([b"\xff"], (1,))})


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), *NARROW.values()], ids=lambda dtype: dtype.name)
def test_half_numbers_are_given_in_binary_only(dtype: np.dtype[Any]) -> None:
    array: HostArray = np.ones(2, dtype)
    assert arrays_of(encode(ORIGIN, asking(binary=True), {"y": array}))["y"].tobytes() == array.tobytes()
    with pytest.raises(NotAcceptableError, match="data via JSON is not supported; ask for 'y' in binary"):
        encode(ORIGIN, asking(), {"y": array})


@pytest.mark.parametrize("binary", [True, False])
def test_complex_numbers_have_no_datatype(binary: bool) -> None:
    with pytest.raises(NotAcceptableError, match="'y' is of dtype complex64"):
        encode(ORIGIN, asking(binary=binary), {"y": np.zeros(2, np.complex64)})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_json_has_no_number_for_becomes_null(dtype: type[np.floating[Any]]) -> None:
    array = np.array([math.nan, math.inf, -math.inf, 1.5], dtype)
    assert json_of(encode(ORIGIN, asking(), {"y": array}))["outputs"][0]["data"] == [None, None, None, 1.5]


@pytest.mark.parametrize("array", [np.array(7.0), np.zeros((2, 0)), np.array([True, False])])
def test_scalars_empty_arrays_and_booleans_have_a_form_in_json(array: HostArray) -> None:
    (entry,) = json_of(encode(ORIGIN, asking(), {"y": array}))["outputs"]
    assert (entry["shape"], entry["data"]) == (list(array.shape), array.reshape(-1).tolist())


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed"])
def test_arrays_of_any_layout_are_given_row_by_row(layout: str, binary: bool) -> None:
    array: HostArray = np.arange(24, dtype=np.float32).reshape(4, 6)
    laid_out = {
        "fortran": np.asfortranarray(array),
        "strided": np.repeat(array, 2, axis=1)[:, ::2],
        "reversed": array[::-1].copy()[::-1],
    }[layout]
    np.testing.assert_array_equal(arrays_of(encode(ORIGIN, asking(binary=binary), {"y": laid_out}))["y"], array)


def test_large_outputs_are_not_copied() -> None:
    array = np.zeros(SMALL + 1, np.uint8)
    payload = encode(ORIGIN, asking(binary=True), {"y": array})
    assert np.shares_memory(np.frombuffer(payload.chunks[1], np.uint8), array)


def test_small_outputs_leave_as_one_buffer() -> None:
    assert len(encode(ORIGIN, asking(binary=True), OUTPUTS).chunks) == 1


def test_headers_of_equal_names_and_other_shapes_are_told_apart() -> None:
    shapes = [(2, 3), (3, 2), (2, 3)]
    payloads = [encode(ORIGIN, asking(binary=True), {"y": FLOATS.reshape(shape)}) for shape in shapes]
    assert [arrays_of(payload)["y"].shape for payload in payloads] == shapes


def test_headers_of_two_versions_are_told_apart() -> None:
    versions = [json_of(encode(Origin("m", v), asking(binary=True), OUTPUTS))["model_version"] for v in "121"]
    assert versions == ["1", "2", "1"]


def test_more_outputs_than_headers_are_remembered_for_are_given() -> None:
    outputs = {f"y{number}": INTS for number in range(MAX_TENSORS + 1)}
    assert list(arrays_of(encode(ORIGIN, asking(binary=True), outputs))) == list(outputs)


@pytest.mark.parametrize("asked", [wanted("z"), wanted("z", binary_data=True), wanted("z", classification=1)])
def test_an_unknown_output_is_refused_with_those_that_there_are(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="'m' has no output 'z'; it has y, n"):
        encode(ORIGIN, asking(asked), OUTPUTS)


def test_an_unknown_output_is_refused_before_the_model_runs() -> None:
    specs = [TensorSpec("y"), TensorSpec("n")]
    check_outputs("m", specs, asking(wanted("n")).outputs or ())
    with pytest.raises(InvalidInputError, match="'m' has no output 'z'; it has y, n"):
        check_outputs("m", specs, asking(wanted("n"), wanted("z")).outputs or ())


def test_without_specs_any_output_may_be_asked_for() -> None:
    check_outputs("p", [], asking(wanted("z")).outputs or ())


def test_classes_are_given_as_texts_beside_other_outputs() -> None:
    payload = encode(Origin("m", "3"), asking(wanted("y", classification=1), wanted("n")), OUTPUTS, 2)
    first, second = json_of(payload)["outputs"]
    texts = ["2.000000:2", "5.000000:2"]
    assert first == {"name": "y", "datatype": "BYTES", "shape": [2, 1], "data": texts}
    assert second["data"] == [1, 2]


def test_classes_are_given_in_binary_too() -> None:
    payload = encode(Origin("m", "3"), asking(wanted("y", classification=1, binary_data=True)), OUTPUTS, 2)
    assert arrays_of(payload)["y"].tolist() == [[b"2.000000:2"], [b"5.000000:2"]]


@pytest.mark.parametrize(
    ("outputs", "default", "answer"),
    [
        ([], True, True),
        ([], False, False),
        ([wanted("y")], True, True),
        ([wanted("y"), wanted("n", binary_data=False)], True, False),
        ([wanted("y", classification=1)], True, False),
    ],
)
def test_a_response_that_is_bytes_alone_is_known(outputs: list[dict[str, Any]], default: bool, answer: bool) -> None:
    assert is_binary(asking(*outputs, binary=default)) is answer

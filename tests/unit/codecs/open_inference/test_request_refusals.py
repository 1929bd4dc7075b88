"""Requests that are not what the protocol says: each is refused by name, before anything is allocated for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ndserve import byte_strings
from ndserve.codecs.base import MAX_TENSORS
from ndserve.codecs.json import MAX_JSON_BYTES
from ndserve.codecs.open_inference import decode
from ndserve.errors import BodyTooLargeError, InvalidInputError, MalformedBodyError, UnsupportedError
from tests.unit.codecs.bodies import LIMIT, refused
from tests.unit.codecs.open_inference.messages import FLOATS, in_binary, in_json, read, read_json

GOOD = in_json("x", [1], shape=(1,))


def test_a_header_beyond_the_body_is_refused_with_both_figures() -> None:
    refused(lambda: decode(b"{}", 3, (), LIMIT, has_batch=True), "is 3, but the body has 2 bytes")


def test_a_header_that_cuts_the_json_is_refused() -> None:
    refused(lambda: decode(b'{"inputs": []}', 5, (), LIMIT, has_batch=True), "not JSON")


def test_a_binary_input_without_the_header_is_refused() -> None:
    refused(lambda: read_json({"inputs": [in_binary("x", FLOATS)]}), "'x' has binary data, but there is no header")


@pytest.mark.parametrize("missing", [1, 24])
def test_missing_bytes_are_counted_and_the_input_is_named(missing: int) -> None:
    document = {"inputs": [in_binary("x", FLOATS)]}
    refused(lambda: read(document, FLOATS.tobytes()[:-missing]), f"expecting {missing} additional bytes for input 'x'")


@pytest.mark.parametrize("inputs", [[in_binary("x", FLOATS)], [in_json("x", [0, 1, 2, 3, 4, 5])]])
def test_bytes_that_are_left_over_are_counted(inputs: list[dict[str, Any]]) -> None:
    sent = FLOATS.tobytes() if "data" not in inputs[0] else b""
    refused(lambda: read({"inputs": inputs}, sent, b"12345"), "unexpected additional input data: 5 bytes")


@pytest.mark.parametrize("size", [0, 23, 25, 2**63])
def test_a_binary_data_size_that_is_not_the_shapes_is_refused_with_both_figures(size: int) -> None:
    document = {"inputs": [in_binary("x", FLOATS, parameters={"binary_data_size": size})]}
    refused(lambda: read(document, FLOATS.tobytes()), f"byte size {size}, expecting 24")


@pytest.mark.parametrize("size", ["24", -24, 24.0, True])
def test_a_binary_data_size_that_is_no_number_of_bytes_is_refused(size: Any) -> None:
    document = {"inputs": [in_binary("x", FLOATS, parameters={"binary_data_size": size})]}
    refused(lambda: read(document, FLOATS.tobytes()), "input 'x': binary_data_size must be a whole number")


def test_an_input_with_values_and_a_binary_data_size_is_refused() -> None:
    document = {"inputs": [in_binary("x", FLOATS, data=[1])]}
    refused(lambda: read(document, FLOATS.tobytes()), "values in the JSON and a binary_data_size")


def test_an_input_with_neither_values_nor_a_binary_data_size_is_refused() -> None:
    refused(lambda: read({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}), "neither values")


@pytest.mark.parametrize("shape", [[-1, 3], [True], [2.0], ["2"], [None], [[2]]])
def test_an_axis_that_is_no_length_is_refused(shape: list[Any]) -> None:
    refused(lambda: read({"inputs": [in_binary("x", FLOATS, shape=shape)]}), "input 'x': the shape must hold")


@pytest.mark.parametrize("shape", [None, 6, "6", {"0": 6}])
def test_a_shape_that_is_no_list_is_refused(shape: Any) -> None:
    refused(lambda: read({"inputs": [in_binary("x", FLOATS, shape=shape)]}), "must be a list of integers")


@pytest.mark.parametrize("shape", [[2**62, 4], [2**62, 0, 4], [2**33, 2**33], [2**63 - 1]])
def test_a_shape_whose_product_overflows_is_refused(shape: list[int]) -> None:
    document = {"inputs": [in_binary("x", FLOATS, shape=shape)]}
    refused(lambda: read(document, FLOATS.tobytes()), "larger than any memory")


def test_more_than_thirty_two_axes_are_refused() -> None:
    refused(lambda: read({"inputs": [in_binary("x", FLOATS, shape=[1] * 33)]}), "33 axes; at most 32")


def test_a_large_tensor_that_is_not_there_is_refused_before_it_is_made() -> None:
    size = {"binary_data_size": 4 << 40}
    refused(lambda: read({"inputs": [in_binary("x", FLOATS, shape=[1 << 40], parameters=size)]}), "additional bytes")


@pytest.mark.parametrize("datatype", ["FP31", "fp32", "float32", "", None, 32, ["FP32"], "X" * 3000])
def test_an_unknown_datatype_is_refused_with_those_that_there_are(datatype: Any) -> None:
    message = refused(lambda: read({"inputs": [in_binary("x", FLOATS, datatype=datatype)]}), "use one of BOOL, INT8")
    assert len(message) < 500


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP8_E4M3FN", "FP8_E5M2FNUZ"])
def test_half_numbers_in_the_json_are_refused(datatype: str) -> None:
    document = {"inputs": [in_json("x", [1.0], datatype, (1,))]}
    refused(lambda: read_json(document), f"receiving {datatype} data via JSON is not supported")


@pytest.mark.parametrize("data", [[1, 2, 3], [[1, 2], [3, 4], [5, 6]], [1, 2, 3, 4, 5, 6, 7], []])
def test_values_that_do_not_fill_the_shape_are_refused(data: list[Any]) -> None:
    refused(lambda: read_json({"inputs": [in_json("x", data)]}), r"which is not \[2, 3\]: \d of 6 elements")


@pytest.mark.parametrize("data", ["123456", [[1, 2, 3], [4, 5]], [1, 2, 3, 4, 5, "6"], {"0": 1}, [[1, 2, 3], 4, 5, 6]])
def test_values_that_are_no_lists_of_numbers_are_refused(data: Any) -> None:
    refused(lambda: read_json({"inputs": [in_json("x", data)]}), "input 'x': ")


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT8", -1), ("INT32", 0.5), ("FP32", 1e39)])
def test_a_value_that_its_datatype_cannot_hold_is_refused(datatype: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match="input 'x': "):
        read_json({"inputs": [in_json("x", [value], datatype, (1,))]})


@pytest.mark.parametrize("kind", ["input", "output"])
def test_a_name_that_comes_twice_is_refused(kind: str) -> None:
    document = {"inputs": [GOOD], "outputs": [{"name": "y"}]}
    document[f"{kind}s"] *= 2
    refused(lambda: read_json(document), f"names an {kind} twice")


@pytest.mark.parametrize("document", [[], "text", 1, None])
def test_a_request_that_is_no_object_is_refused(document: Any) -> None:
    refused(lambda: read_json(document), "not a JSON object")


@pytest.mark.parametrize("inputs", [None, {}, "x", ["x"], [{}], [{"name": 1}], [GOOD, None]])
def test_inputs_that_are_no_list_of_named_objects_are_refused(inputs: Any) -> None:
    refused(lambda: read_json({"inputs": inputs}), "'inputs' must be a list of objects with a name")


@pytest.mark.parametrize("outputs", ["y", {"y": {}}, ["y"], [{}], [{"name": None}]])
def test_outputs_that_are_no_list_of_named_objects_are_refused(outputs: Any) -> None:
    refused(lambda: read_json({"inputs": [GOOD], "outputs": outputs}), "'outputs' must be a list of objects")


def test_a_request_without_inputs_is_refused() -> None:
    refused(lambda: read_json({"inputs": []}), "has no inputs")


@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_more_tensors_than_are_read_are_refused_with_the_bound(kind: str) -> None:
    document = {"inputs": [GOOD], kind: [{**GOOD, "name": f"x{number}"} for number in range(MAX_TENSORS + 1)]}
    refused(lambda: read_json(document), f"257 entries; at most {MAX_TENSORS}")


@pytest.mark.parametrize("request_id", [1, None, ["a"], True])
def test_an_id_that_is_no_text_is_refused(request_id: Any) -> None:
    refused(lambda: read_json({"id": request_id, "inputs": [GOOD]}), "id must be a text")


@pytest.mark.parametrize("parameters", [[], "fast", 1, {"a": None}, {"a": [1]}, {"a": {}}])
@pytest.mark.parametrize("where", ["request", "input", "output"])
def test_parameters_of_another_type_are_refused(where: str, parameters: Any) -> None:
    document: dict[str, Any] = {"inputs": [dict(GOOD)], "outputs": [{"name": "y"}]}
    place = {"request": document, "input": document["inputs"][0], "output": document["outputs"][0]}[where]
    place["parameters"] = parameters
    refused(lambda: read_json(document), "parameters must be an object of texts, numbers and booleans")


@pytest.mark.parametrize("value", [1, "true", 0.0])
def test_a_flag_that_is_neither_true_nor_false_is_refused(value: Any) -> None:
    refused(lambda: read_json({"inputs": [GOOD], "parameters": {"binary_data_output": value}}), "binary_data_output")
    outputs = [{"name": "y", "parameters": {"binary_data": value}}]
    refused(lambda: read_json({"inputs": [GOOD], "outputs": outputs}), "output 'y': binary_data must be true or false")


@pytest.mark.parametrize("classes", [-1, 1.0, "3", True])
def test_classes_that_are_no_number_are_refused(classes: Any) -> None:
    outputs = [{"name": "y", "parameters": {"classification": classes}}]
    refused(lambda: read_json({"inputs": [GOOD], "outputs": outputs}), "output 'y': classification must be a number")


@pytest.mark.parametrize("parameter", ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"])
@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_shared_memory_is_not_supported(kind: str, parameter: str) -> None:
    document = {"inputs": [GOOD], "outputs": [{"name": "y"}]}
    document[kind] = [{**document[kind][0], "parameters": {parameter: "r" if parameter.endswith("n") else 1}}]
    with pytest.raises(UnsupportedError, match="shared memory"):
        read_json(document)


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        (b"\x05\0\0\0abcd", "element 0 of 1 has 5 bytes, of which 4 are there"),
        (b"\x01\0\0\0abc", "2 bytes are left after the 1 elements"),
        (b"\0\0", "take at least 4 bytes, but there are 2"),
        (b"\xff\xff\xff\xff", "has 4294967295 bytes, of which 0 are there"),
    ],
)
def test_byte_strings_of_wrong_lengths_are_refused(tail: bytes, told: str) -> None:
    entry = in_binary("t", byte_strings.of([b""], (1,)), parameters={"binary_data_size": len(tail)})
    refused(lambda: read({"inputs": [entry]}, tail), f"input 't': .*{told}")


def test_more_byte_strings_than_there_are_bytes_for_are_refused_before_a_list_is_made() -> None:
    entry = in_binary("t", byte_strings.of([b""], (1,)), shape=[1 << 20])
    refused(lambda: read({"inputs": [entry]}, bytes(4)), "take at least")


def test_more_byte_strings_than_are_taken_are_refused_by_their_number() -> None:
    entry = in_binary("t", byte_strings.of([b""], (1,)), shape=[1 << 40])
    with pytest.raises(BodyTooLargeError, match="1099511627776 texts; at most 1048576"):
        read({"inputs": [entry]}, bytes(4))


def test_values_in_the_json_over_the_limit_are_refused() -> None:
    with pytest.raises(BodyTooLargeError) as caught:
        read_json({"inputs": [in_json("x", [1, 2], "FP64", (2,))]}, limit=15)
    assert caught.value.details == {"limit": 15}


def test_inputs_that_are_over_the_limit_together_are_refused() -> None:
    inputs = [in_json(name, [1, 2], "FP64", (2,)) for name in "ab"]
    assert len(read_json({"inputs": inputs}, limit=32)[1]) == 2
    with pytest.raises(BodyTooLargeError):
        read_json({"inputs": inputs}, limit=31)


def test_binary_tensors_over_the_limit_are_refused() -> None:
    array = np.zeros(100)
    with pytest.raises(BodyTooLargeError):
        read({"inputs": [in_binary("x", array)]}, array.tobytes(), limit=800)


def test_json_that_is_longer_than_any_is_read_is_refused() -> None:
    body = b" " * (MAX_JSON_BYTES + 1)
    with pytest.raises(BodyTooLargeError, match="Send binary data"):
        decode(body, None, (), len(body), has_batch=True)


def test_a_name_is_cut_in_messages() -> None:
    message = refused(lambda: read({"inputs": [in_binary("n" * 5000, FLOATS, datatype="FP31")]}))
    assert len(message) < 500


def test_a_refused_json_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(MalformedBodyError, match="has no inputs"):
            read({"inputs": []})

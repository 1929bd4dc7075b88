"""Inference requests: values in the JSON, behind it, both, and without any JSON."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from ndserve import byte_strings
from ndserve.codecs.open_inference import Asked, decode, decode_document, is_request
from ndserve.dtypes import TEXT
from ndserve.errors import MalformedBodyError
from ndserve.types import HostArray, TensorSpec
from tests.unit.codecs.bodies import LIMIT
from tests.unit.codecs.open_inference.messages import FLOATS, in_binary, in_json, read, read_json, read_raw

F4 = np.dtype(np.float32)


@pytest.mark.parametrize("data", [[0, 1, 2, 3, 4, 5], [[0, 1, 2], [3, 4, 5]]], ids=["flat", "nested"])
def test_values_in_the_json_are_read_in_row_major_order(data: Any) -> None:
    _, tensors = read_json({"inputs": [in_json("x", data)]})
    assert tensors["x"].dtype == F4
    np.testing.assert_array_equal(tensors["x"], FLOATS)


def test_a_scalar_in_the_json_has_no_axes() -> None:
    _, tensors = read_json({"inputs": [in_json("x", [7], "INT64", ())]})
    assert (tensors["x"].shape, tensors["x"].item()) == ((), 7)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0,)])
def test_an_empty_array_in_the_json_keeps_its_shape(shape: tuple[int, ...]) -> None:
    _, tensors = read_json({"inputs": [in_json("x", [], shape=shape)]})
    assert tensors["x"].shape == shape


def test_integers_in_the_json_stay_exact() -> None:
    _, tensors = read_json({"inputs": [in_json("x", [2**64 - 1, 0], "UINT64", (2,))]})
    assert tensors["x"].tolist() == [2**64 - 1, 0]


def test_a_binary_tensor_is_read_from_behind_the_json() -> None:
    _, tensors = read({"inputs": [in_binary("x", FLOATS)]}, FLOATS.tobytes())
    np.testing.assert_array_equal(tensors["x"], FLOATS)


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_binary_tensors_lie_in_the_order_of_the_json_and_skip_those_with_values(order: tuple[str, ...]) -> None:
    arrays = {"a": np.arange(3, dtype=np.int16), "b": np.array([0.5, 1.5]), "c": np.array([True])}
    inputs = [
        in_json("b", [0.5, 1.5], "FP64", (2,)) if name == "b" else in_binary(name, arrays[name]) for name in order
    ]
    _, tensors = read({"inputs": inputs}, *(arrays[name].tobytes() for name in order if name != "b"))
    assert list(tensors) == list(order)
    for name, array in arrays.items():
        assert tensors[name].tolist() == array.tolist()


def test_byte_strings_keep_zero_bytes_and_empty_elements() -> None:
    texts = byte_strings.of([b"", b"a\0", b"\xff"], (3, 1))
    _, tensors = read({"inputs": [in_binary("t", texts)]}, byte_strings.pack(texts))
    assert tensors["t"].tolist() == [[b""], [b"a\0"], [b"\xff"]]


def test_a_binary_tensor_without_elements_takes_no_bytes() -> None:
    empty: HostArray = np.zeros((0, 4), np.float32)
    _, tensors = read({"inputs": [in_binary("e", empty), in_binary("x", FLOATS)]}, FLOATS.tobytes())
    assert tensors["e"].shape == (0, 4)
    np.testing.assert_array_equal(tensors["x"], FLOATS)


@pytest.mark.parametrize("padding", range(8))
def test_an_unaligned_tensor_is_copied_and_correct(padding: int) -> None:
    array = np.array([1.5, -2.5])
    head = json.dumps({"inputs": [in_binary("x", array)]}).encode() + b" " * padding
    _, tensors = decode(head + array.tobytes(), len(head), (), LIMIT, has_batch=True)
    assert tensors["x"].flags.aligned
    assert tensors["x"].tolist() == [1.5, -2.5]


def aligned_message() -> tuple[bytes, int]:
    """FLOATS behind JSON of a length that divides by eight."""
    head = json.dumps({"inputs": [in_binary("x", FLOATS)]}).encode()
    head += b" " * (-len(head) % 8)
    return head + FLOATS.tobytes(), len(head)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_an_aligned_tensor_is_a_read_only_view_of_the_body(kind: type[bytes] | type[bytearray]) -> None:
    body, length = aligned_message()
    held = kind(body)
    _, tensors = decode(held, length, (), LIMIT, has_batch=True)
    assert np.shares_memory(tensors["x"], np.frombuffer(held, np.uint8))
    assert not tensors["x"].flags.writeable


def test_values_of_a_remembered_request_cannot_be_written() -> None:
    _, tensors = read({"inputs": [in_json("x", [1], shape=(1,))]})
    with pytest.raises(ValueError, match="read-only"):
        tensors["x"][...] = 0


def test_one_json_with_two_bodies_gives_the_values_of_each() -> None:
    document = {"inputs": [in_binary("x", FLOATS)]}
    first, second = (read(document, (FLOATS + offset).tobytes())[1]["x"] for offset in (0, 10))
    np.testing.assert_array_equal(first, FLOATS)
    np.testing.assert_array_equal(second, FLOATS + 10)


def test_json_of_one_length_and_other_text_is_told_apart() -> None:
    ids = [read({"id": name, "inputs": [in_binary("x", FLOATS)]}, FLOATS.tobytes())[0].id for name in "abab"]
    assert ids == ["a", "b", "a", "b"]


def test_remembered_values_are_those_of_their_own_request() -> None:
    values = [read({"inputs": [in_json("x", [n], shape=(1,))]})[1]["x"].item() for n in (1, 2, 1)]
    assert values == [1, 2, 1]


def test_json_that_is_too_long_to_be_remembered_is_read_as_well() -> None:
    document = {"id": "i" * 3000, "inputs": [in_binary("x", FLOATS)]}
    request, tensors = read(document, FLOATS.tobytes())
    assert len(request.id) == 3000
    np.testing.assert_array_equal(tensors["x"], FLOATS)


def test_what_a_request_says_is_kept() -> None:
    document = {
        "id": "one",
        "parameters": {"priority": 2, "scale": 0.5, "mode": "fast", "binary_data_output": True},
        "inputs": [in_json("x", [1], shape=(1,))],
        "outputs": [
            {"name": "y"},
            {"name": "z", "parameters": {"binary_data": False}},
            {"name": "c", "parameters": {"classification": 3}},
        ],
    }
    request, _ = read_json(document)
    assert (request.id, request.parameters) == ("one", document["parameters"])
    assert request.outputs == (Asked("y", True, 0), Asked("z", False, 0), Asked("c", True, 3))


@pytest.mark.parametrize("outputs", [{}, {"outputs": []}, {"outputs": None}])
def test_a_request_that_names_no_outputs_asks_for_all_of_them(outputs: dict[str, Any]) -> None:
    request, _ = read_json({"inputs": [in_json("x", [1], shape=(1,))], **outputs})
    assert request.outputs is None
    assert not request.binary


@pytest.mark.parametrize(
    ("document", "answer"),
    [({"inputs": []}, True), ({"inputs": {}}, False), ({"array": []}, False), ([1], False), (None, False)],
)
def test_a_list_of_inputs_tells_the_protocol_from_other_json(document: Any, answer: bool) -> None:
    assert is_request(document) is answer


def test_a_document_that_is_parsed_already_is_read_the_same() -> None:
    _, tensors = decode_document({"inputs": [in_json("x", [0, 1, 2, 3, 4, 5])]}, LIMIT)
    np.testing.assert_array_equal(tensors["x"], FLOATS)


def test_a_body_without_json_is_the_only_input() -> None:
    array = read_raw(FLOATS.tobytes(), TensorSpec("x", F4, (2, 3)))
    np.testing.assert_array_equal(array, FLOATS)


def test_a_body_without_json_is_one_row_of_a_batch() -> None:
    assert read_raw(FLOATS.tobytes(), TensorSpec("x", F4, (None, 6))).shape == (1, 6)


def test_a_body_without_json_tells_one_free_axis() -> None:
    assert read_raw(FLOATS.tobytes(), TensorSpec("x", F4, (None, 3)), has_batch=False).shape == (2, 3)
    assert read_raw(FLOATS.tobytes(), TensorSpec("x", F4, (None, 3, None))).shape == (1, 3, 2)


def test_a_body_without_json_cannot_tell_two_free_axes() -> None:
    with pytest.raises(MalformedBodyError, match="cannot tell the free axes"):
        read_raw(FLOATS.tobytes(), TensorSpec("x", F4, (None, 3, None)), has_batch=False)


def test_a_body_without_json_for_any_rank_is_one_axis_of_floats() -> None:
    assert read_raw(FLOATS.tobytes(), TensorSpec("x"), has_batch=False).shape == (6,)


@pytest.mark.parametrize("shape", [(2, 4), (None, 4), (None, 0), (None, None, 5)])
def test_a_body_without_json_that_is_no_whole_input_is_refused(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(MalformedBodyError, match="24 bytes, which is no whole"):
        read_raw(FLOATS.tobytes(), TensorSpec("x", F4, shape))


def test_a_body_without_json_for_texts_is_one_text() -> None:
    array = read_raw(b"\x04\0\0\0any\0", TensorSpec("t", TEXT, (None, 1)))
    assert array.tolist() == [b"\x04\0\0\0any\0"]


@pytest.mark.parametrize("count", [0, 2])
def test_a_body_without_json_is_for_models_with_one_input(count: int) -> None:
    with pytest.raises(MalformedBodyError, match=f"one input; this one has {count}"):
        read_raw(FLOATS.tobytes(), *(TensorSpec(name, F4, (6,)) for name in "ab"[:count]))

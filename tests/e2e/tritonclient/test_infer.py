"""`tritonclient.http` infers: every datatype both ways, any mixture of them, and shapes of all kinds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from tests.e2e.tritonclient.asking import asked, given, outcome, refused
from tests.e2e.tritonclient.models import KINDS, PAIRS

ONES = np.ones((1, 4), np.float32)
IN_JSON = [datatype for datatype in KINDS if datatype != "FP16"]


@pytest.mark.parametrize("datatype", KINDS)
def test_binary_tensors_come_back_bit_by_bit(client: InferenceServerClient, datatype: str) -> None:
    sent = np.array([KINDS[datatype].row] * 2, KINDS[datatype].dtype)
    got = outcome(client, f"same_{datatype.lower()}", sent)
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert got.tobytes() == sent.tobytes()


@pytest.mark.parametrize("datatype", IN_JSON)
def test_values_in_json_come_back_bit_by_bit(client: InferenceServerClient, datatype: str) -> None:
    sent = np.array([KINDS[datatype].row] * 2, KINDS[datatype].dtype)
    result = client.infer(
        f"same_{datatype.lower()}", [given("x", sent, binary=False)], outputs=[asked("y", binary=False)]
    )
    assert "data" in result.get_output("y")
    got = result.as_numpy("y")
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert got.tobytes() == sent.tobytes()


def test_half_precision_is_taken_in_binary_only(client: InferenceServerClient) -> None:
    halves = np.ones((1, 3), np.float16)
    with refused(400, "'x'", "FP16", "JSON"):
        client.infer("same_fp16", [given("x", halves, binary=False)])
    with refused(400, "'y'", "FP16", "JSON"):
        client.infer("same_fp16", [given("x", halves)], outputs=[asked("y", binary=False)])


@pytest.mark.parametrize(("a", "b", "doubled", "following"), [*product([True, False], repeat=4)])
def test_binary_and_json_mix_in_any_way(
    client: InferenceServerClient, a: bool, b: bool, doubled: bool, following: bool
) -> None:
    inputs = [
        given("a", np.full((2, 3), 0.1, np.float32), binary=a),
        given("b", np.array([[1, 2**62], [3, 4]]), binary=b),
    ]
    outputs = [asked("doubled", binary=doubled), asked("next", binary=following)]
    result = client.infer("two_kinds", inputs, outputs=outputs)
    assert result.as_numpy("doubled").tolist() == np.full((2, 3), 0.2, np.float32).tolist()
    assert result.as_numpy("next").tolist() == [[2, 2**62 + 1], [4, 5]]
    assert ("data" in result.get_output("doubled"), "data" in result.get_output("next")) == (not doubled, not following)


def test_inputs_may_come_in_any_order(client: InferenceServerClient) -> None:
    inputs = [given("b", np.array([[1, 2]])), given("a", np.ones((1, 3), np.float32))]
    assert client.infer("two_kinds", inputs).as_numpy("next").tolist() == [[2, 3]]


def test_ten_inputs_become_five_outputs(client: InferenceServerClient) -> None:
    inputs = [given(f"in{i}", np.full((3, 2), i, np.float32), binary=i % 3 > 0) for i in range(2 * PAIRS)]
    result = client.infer("ten_to_five", inputs)
    outputs = [result.as_numpy(f"out{i}").tolist() for i in range(PAIRS)]
    assert outputs == [[[4 * i + 1] * 2] * 3 for i in range(PAIRS)]


def test_only_the_outputs_that_were_asked_for_come_back_in_their_order(client: InferenceServerClient) -> None:
    inputs = [given(f"in{i}", np.full((1, 2), i, np.float32)) for i in range(2 * PAIRS)]
    result = client.infer("ten_to_five", inputs, outputs=[asked("out3"), asked("out0")])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["out3", "out0"]
    assert (result.as_numpy("out3").tolist(), result.as_numpy("out0").tolist()) == ([[13, 13]], [[1, 1]])
    assert result.as_numpy("out1") is None


@pytest.mark.parametrize("binary", [True, False])
def test_a_scalar_goes_in_and_comes_out_without_axes(client: InferenceServerClient, binary: bool) -> None:
    result = client.infer("scalar", [given("x", np.float32(1.5), binary=binary)], outputs=[asked("y", binary=binary)])
    assert result.get_output("y")["shape"] == []
    assert result.as_numpy("y") == np.float32(3)


def test_a_model_without_a_batch_axis_takes_its_own_shape(client: InferenceServerClient) -> None:
    assert outcome(client, "fixed", np.arange(5, dtype=np.float32)).tolist() == [0, 2, 4, 6, 8]


def test_a_model_that_cannot_be_batched_takes_rows_nevertheless(client: InferenceServerClient) -> None:
    assert outcome(client, "unbatched", np.array([[1] * 4, [3] * 4], np.float32)).tolist() == [[-1] * 4, [1] * 4]


@pytest.mark.parametrize("rows", [1, 8, 100])
def test_a_request_may_have_more_rows_than_a_batch(client: InferenceServerClient, rows: int) -> None:
    sent = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
    assert np.array_equal(outcome(client, "double", sent), 2 * sent)


@pytest.mark.parametrize("binary", [True, False])
def test_no_rows_in_are_no_rows_out(client: InferenceServerClient, binary: bool) -> None:
    empty = np.empty((0, 4), np.float32)
    result = client.infer("double", [given("x", empty, binary=binary)], outputs=[asked("y", binary=binary)])
    assert result.as_numpy("y").shape == (0, 4)


def test_large_arrays_go_through_unchanged(client: InferenceServerClient) -> None:
    sent = np.random.default_rng(0).random((1, 600, 1000))
    assert np.array_equal(outcome(client, "identity", sent), sent)


def test_not_a_number_and_infinity_pass_in_binary(client: InferenceServerClient) -> None:
    sent = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    assert outcome(client, "double", sent).tobytes() == sent.tobytes()


@pytest.mark.parametrize(("version", "factor"), [("1", 2), ("2", 3), ("", 3)])
def test_a_version_answers_for_itself_and_the_newest_without_one(
    client: InferenceServerClient, version: str, factor: float
) -> None:
    result = client.infer("versioned", [given("x", ONES)], model_version=version)
    assert result.get_response()["model_version"] == (version or "2")
    assert result.as_numpy("y").tolist() == [[factor] * 4]


def test_a_process_answers_as_version_1(client: InferenceServerClient) -> None:
    response = client.infer("softmax", [given("x", ONES)], model_version="1").get_response()
    assert (response["model_name"], response["model_version"]) == ("softmax", "1")

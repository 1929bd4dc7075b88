"""What `tritonclient.http` is told when a request is wrong: the status, and what is wrong by name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from tests.e2e.tritonclient.asking import asked, given, outcome, refused

ONES = np.ones((1, 4), np.float32)


@pytest.fixture(autouse=True)
def goes_on(client: InferenceServerClient) -> Iterator[None]:
    """After each refusal the same connection still infers."""
    yield
    assert outcome(client, "double", ONES).tolist() == [[2] * 4]


@pytest.mark.parametrize("shape", [(1, 5), (2, 1, 4), (0, 3), (1, 0)])
def test_a_wrong_shape_is_named(client: InferenceServerClient, shape: tuple[int, ...]) -> None:
    with refused(400, "'x'", str(list(shape)), "4"):
        client.infer("double", [given("x", np.ones(shape, np.float32))])


def test_a_missing_batch_axis_is_named(client: InferenceServerClient) -> None:
    with refused(400, "batch axis"):
        client.infer("double", [given("x", ONES[0])])


def test_a_wrong_shape_of_a_model_without_a_batch_axis_is_named(client: InferenceServerClient) -> None:
    with refused(400, "'x'", "[1, 5]"):
        client.infer("fixed", [given("x", np.ones((1, 5), np.float32))])


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("dtype", "name"), [(np.float64, "float64"), (np.int32, "int32"), (np.bool_, "bool")])
def test_a_wrong_datatype_is_named(client: InferenceServerClient, dtype: type, name: str, binary: bool) -> None:
    with refused(400, "'x'", name, "float32"):
        client.infer("double", [given("x", ONES.astype(dtype), binary=binary)])


def test_texts_are_refused_where_numbers_are_due(client: InferenceServerClient) -> None:
    with refused(400, "'x'", "float32"):
        client.infer("double", [given("x", np.array([[b"1", b"2", b"3", b"4"]], object))])


def test_a_wrong_name_is_named_with_the_right_one(client: InferenceServerClient) -> None:
    with refused(400, "missing inputs: x", "surplus inputs: z"):
        client.infer("double", [given("z", ONES)])


def test_a_missing_input_is_named(client: InferenceServerClient) -> None:
    with refused(400, "missing inputs: b"):
        client.infer("two_kinds", [given("a", np.ones((1, 3), np.float32))])


def test_a_surplus_input_is_named(client: InferenceServerClient) -> None:
    with refused(400, "surplus inputs: more"):
        client.infer("double", [given("x", ONES), given("more", ONES)])


def test_an_input_that_comes_twice_is_named(client: InferenceServerClient) -> None:
    with refused(400, "twice", "x"):
        client.infer("double", [given("x", ONES), given("x", ONES)])


def test_inputs_of_different_batch_sizes_are_refused(client: InferenceServerClient) -> None:
    with refused(400, "'a': 2", "'b': 1"):
        client.infer("two_kinds", [given("a", np.ones((2, 3), np.float32)), given("b", np.ones((1, 2), np.int64))])


def test_no_inputs_at_all_are_refused(client: InferenceServerClient) -> None:
    with refused(400, "inputs"):
        client.infer("double", [])


def test_an_unknown_output_is_named_with_those_that_there_are(client: InferenceServerClient) -> None:
    with refused(400, "'double'", "'z'", "y"):
        client.infer("double", [given("x", ONES)], outputs=[asked("z")])


def test_an_unknown_output_of_a_process_is_named(client: InferenceServerClient) -> None:
    with refused(400, "'softmax'", "'z'"):
        client.infer("softmax", [given("x", ONES)], outputs=[asked("z")])


def test_an_unknown_model_is_named(client: InferenceServerClient) -> None:
    with refused(404, "'nobody'"):
        client.infer("nobody", [given("x", ONES)])


def test_a_name_like_that_of_a_model_is_answered_with_the_model(client: InferenceServerClient) -> None:
    with refused(404, "doubel", "double"):
        client.infer("doubel", [given("x", ONES)])


def test_a_models_name_with_a_slash_finds_nothing(client: InferenceServerClient) -> None:
    with refused(404, "a/b"):
        client.infer("a/b", [given("x", ONES)])


@pytest.mark.parametrize("name", ["double", "softmax"])
def test_an_unknown_version_is_named(client: InferenceServerClient, name: str) -> None:
    with refused(404, name, "'7'"):
        client.infer(name, [given("x", ONES)], model_version="7")


def test_a_broken_model_says_why(client: InferenceServerClient) -> None:
    with refused(503, "'broken'", "cannot be served"):
        client.infer("broken", [given("x", ONES)])


def test_what_a_process_raises_is_told(client: InferenceServerClient) -> None:
    with refused(500, "picky", "ValueError", "no negative numbers"):
        client.infer("picky", [given("x", -ONES)])


def test_a_sequence_is_refused(client: InferenceServerClient) -> None:
    with refused(501, "sequence"):
        client.infer("double", [given("x", ONES)], sequence_id=5, sequence_start=True)

"""`tritonclient.http` asks for the largest values of an output as texts (`class_count`)."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from ndserve.types import HostArray
from tests.e2e.tritonclient.asking import asked, given, refused

SCORES = np.array([[0.5, -1, 3.25, 0.5, 0, 2]], np.float32)


def classes(
    client: InferenceServerClient, target: str, array: HostArray, count: int, *, binary: bool = True
) -> HostArray:
    (name,) = (output["name"] for output in client.get_model_metadata(target)["outputs"])
    result = client.infer(target, [given("x", array)], outputs=[asked(name, classes=count, binary=binary)])
    assert result.get_output(name)["datatype"] == "BYTES"
    texts = result.as_numpy(name)
    assert isinstance(texts, np.ndarray)
    return texts


@pytest.mark.parametrize("binary", [True, False])
def test_the_largest_come_first_as_value_and_index(client: InferenceServerClient, binary: bool) -> None:
    texts = classes(client, "scores", SCORES, 3, binary=binary)
    assert texts.shape == (1, 3)
    told = [(text if binary else text.encode()).split(b":") for text in texts[0]]
    assert [(float(value), int(index)) for value, index in told] == [(3.25, 2), (2, 5), (0.5, 0)]


def test_every_row_of_a_batch_has_its_own_classes(client: InferenceServerClient) -> None:
    texts = classes(client, "scores", np.concatenate([SCORES, -SCORES]), 1)
    assert texts.tolist() == [[b"3.250000:2"], [b"1.000000:1"]]


def test_there_are_no_more_classes_than_values(client: InferenceServerClient) -> None:
    texts = classes(client, "scores", SCORES, 100)
    assert [text.split(b":")[1] for text in texts[0]] == [b"2", b"5", b"0", b"3", b"4", b"1"]


def test_integers_are_told_as_integers(client: InferenceServerClient) -> None:
    texts = classes(client, "counts", np.array([[-1, 2**31 - 1, 16777217, 16777216]], np.int32), 3)
    assert texts.tolist() == [[b"2147483647:1", b"16777217:2", b"16777216:3"]]


def test_a_model_without_a_batch_axis_has_one_list_of_classes(client: InferenceServerClient) -> None:
    texts = classes(client, "fixed", np.array([0, 1, 5, 2, 3], np.float32), 2)
    assert texts.tolist() == [b"10.000000:2", b"6.000000:4"]


def test_classes_of_one_output_stand_beside_another_whole(client: InferenceServerClient) -> None:
    inputs = [given("a", np.array([[1, 3, 2]], np.float32)), given("b", np.array([[7, 8]]))]
    result = client.infer("two_kinds", inputs, outputs=[asked("doubled", classes=1), asked("next")])
    assert result.as_numpy("doubled").tolist() == [[b"6.000000:1"]]
    assert result.as_numpy("next").tolist() == [[8, 9]]


def test_booleans_have_no_classes(client: InferenceServerClient) -> None:
    with refused(400, "'y'", "classes"):
        classes(client, "same_bool", np.ones((1, 3), np.bool_), 1)


def test_a_negative_number_of_classes_is_refused(client: InferenceServerClient) -> None:
    with refused(400, "'y'", "classification"):
        classes(client, "scores", SCORES, -1)

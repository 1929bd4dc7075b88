"""`tritonclient.http` sends what NumPy alone cannot say: texts of any bytes, and bfloat16."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput

from ndserve.types import HostArray
from tests.e2e.tritonclient.asking import asked, given, outcome, refused

WORDS = np.array([["", "a", "déjà vu"], ["\0", "two\nlines", "x" * 5000]], object)
BYTES = np.array([[text.encode() for text in row] for row in WORDS], object)
FLOATS = np.array([[1.0, -2.5, 3e38], [0.0, -0.0, np.inf]], ml_dtypes.bfloat16)


def halves(values: HostArray) -> InferInput:
    """Its bytes as they are: clients up to 26.05 take float32 for it, and later ones bfloat16."""
    tensor = InferInput("x", list(values.shape), "BF16")
    tensor._raw_data = values.tobytes()
    tensor._parameters["binary_data_size"] = values.nbytes
    return tensor


@pytest.mark.parametrize("target", ["same_texts", "identity"])
def test_texts_come_back_byte_for_byte_from_a_model_and_a_process(client: InferenceServerClient, target: str) -> None:
    assert outcome(client, target, BYTES).tolist() == BYTES.tolist()


def test_texts_in_json_come_back_as_they_were(client: InferenceServerClient) -> None:
    result = client.infer("same_texts", [given("x", WORDS, binary=False)], outputs=[asked("y", binary=False)])
    texts = result.as_numpy("y")
    assert texts is not None
    assert texts.tolist() == WORDS.tolist()


def test_texts_that_are_no_utf8_pass_a_process_and_are_refused_by_a_model(client: InferenceServerClient) -> None:
    raw = np.array([[b"\xff\x00", b"\xfe", b""]], object)
    assert outcome(client, "identity", raw).tolist() == raw.tolist()
    with refused(500, "'x'", "UTF-8"):
        outcome(client, "same_texts", raw)


def test_bytes_that_are_no_utf8_have_no_form_in_json(client: InferenceServerClient) -> None:
    raw = np.array([[b"\xff", b"", b""]], object)
    with refused(400, "UTF-8"):
        client.infer("identity", [given("x", raw)], outputs=[asked("output", binary=False)])


def test_bfloat16_comes_back_bit_by_bit(client: InferenceServerClient) -> None:
    got = client.infer("same_bf16", [halves(FLOATS)]).as_numpy("y")
    assert got is not None
    assert got.astype(np.float32).tobytes() == FLOATS.astype(np.float32).tobytes()


def test_the_metadata_name_texts_and_bfloat16(client: InferenceServerClient) -> None:
    assert client.get_model_metadata("same_texts")["inputs"][0]["datatype"] == "BYTES"
    assert client.get_model_metadata("same_bf16")["outputs"][0]["datatype"] == "BF16"
    assert client.get_model_config("same_texts")["input"][0]["data_type"] == "TYPE_STRING"


def test_bfloat16_for_a_process_is_refused_with_what_to_do(client: InferenceServerClient) -> None:
    with refused(400, "bfloat16", "float32"):
        client.infer("identity", [halves(FLOATS)])

"""The configuration that a client sends with a load: what is taken, what is passed over, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ndserve.errors import InvalidInputError
from ndserve.model_cache.disk.model_toml import MAX_BATCH
from ndserve.model_info import ModelOptions
from ndserve.routes.open_inference.config import MAX_WAIT_US, read_config
from tests.unit.engine.rig import model_info

OWN = ModelOptions(max_batch_size=7, max_wait_ms=3.0, batching="auto", pinned=True)


def options(config: Any, own: ModelOptions = OWN) -> ModelOptions:
    """What a configuration makes of the options of a float32 model with the input x and the output y."""
    text = config if isinstance(config, str) else json.dumps(config)
    return read_config(text, "m")(model_info(options=own))


@pytest.mark.parametrize("config", [{}, {"name": "m"}, {"name": ""}, {"input": [], "output": None}])
def test_what_says_nothing_leaves_the_models_own_options(config: Any) -> None:
    assert options(config) == OWN


@pytest.mark.parametrize("size", [4, "4"])
def test_a_batch_size_is_taken(size: Any) -> None:
    assert options({"max_batch_size": size}) == ModelOptions(4, 3.0, "auto", pinned=True)


def test_a_batch_size_of_0_turns_batching_off() -> None:
    assert options({"max_batch_size": 0}).batching == "off"


def test_a_batch_size_does_not_turn_batching_on_again() -> None:
    assert options({"max_batch_size": 4}, ModelOptions(batching="off")).batching == "off"


@pytest.mark.parametrize(("delay", "wait"), [(0, 0.0), (2500, 2.5), ("1000", 1.0)])
def test_a_queue_delay_is_taken(delay: Any, wait: float) -> None:
    assert options({"dynamic_batching": {"max_queue_delay_microseconds": delay}}).max_wait_ms == wait


def test_dynamic_batching_without_a_delay_changes_nothing() -> None:
    assert options({"dynamic_batching": {"preferred_batch_size": [4, 8]}}) == OWN


@pytest.mark.parametrize(
    "config",
    [
        {"platform": "onnxruntime_onnx", "backend": "onnxruntime", "default_model_filename": "model.onnx"},
        {"platform": "", "backend": "", "default_model_filename": ""},
        {"model_transaction_policy": {"decoupled": False}, "response_cache": {"enable": False}},
        {"model_transaction_policy": {}, "response_cache": {}},
        {"version_policy": {"latest": {"num_versions": 1}}, "instance_group": [{"kind": "KIND_GPU"}]},
        {"optimization": {"graph": {"level": 1}}, "parameters": {"a": {"string_value": "b"}}, "model_warmup": []},
    ],
)
def test_what_is_so_anyway_or_only_tunes_is_passed_over(config: Any) -> None:
    assert options(config) == OWN


@pytest.mark.parametrize(
    "config",
    [
        {"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]},
        {"input": [{"name": "x"}], "output": [{"name": "y", "data_type": ""}]},
    ],
)
def test_tensors_that_are_the_models_own_are_accepted(config: Any) -> None:
    assert options(config) == OWN


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 5000, "is not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ({"name": "other"}, "is for 'other', not for 'm'"),
        ({"name": None}, "is for <NoneType>"),
        ({"nmae": "m"}, "'nmae' is not supported"),
        ({"sequence_batching": {}}, "'sequence_batching' is not supported"),
        ({"ensemble_scheduling": {}}, "'ensemble_scheduling' is not supported"),
        ({"k" * 5000: 1}, "is not supported"),
        ({"platform": "tensorrt_plan"}, "platform must be 'onnxruntime_onnx' here"),
        ({"backend": "python"}, "backend must be 'onnxruntime' here"),
        ({"backend": []}, "backend must be"),
        ({"default_model_filename": "../../etc/passwd"}, "default_model_filename must be 'model.onnx'"),
        ({"model_transaction_policy": {"decoupled": True}}, "model_transaction_policy must be"),
        ({"response_cache": {"enable": True}}, "response_cache must be"),
        ({"max_batch_size": -1}, "max_batch_size must be a whole number from 0"),
        ({"max_batch_size": MAX_BATCH + 1}, str(MAX_BATCH)),
        ({"max_batch_size": 1.5}, "max_batch_size"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"max_batch_size": "four"}, "max_batch_size"),
        ({"max_batch_size": "9" * 5000}, "max_batch_size"),
        ({"dynamic_batching": []}, "dynamic_batching must be an object"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": MAX_WAIT_US + 1}}, str(MAX_WAIT_US)),
        ({"dynamic_batching": {"max_queue_delay_microseconds": -1}}, "max_queue_delay_microseconds"),
        ({"input": {"name": "x"}}, "input must be a list of objects"),
        ({"output": ["y"]}, "output must be a list of objects"),
        ({"input": [{"name": "z"}]}, "names the input 'z'; the model has x"),
        ({"output": [{"data_type": "TYPE_FP32"}]}, "names the output <NoneType>"),
        ({"input": [{"name": ["x"]}]}, "names the input <list>"),
        ({"input": [{"name": "x", "data_type": "TYPE_FP16"}]}, "'TYPE_FP16' for the input 'x', which is TYPE_FP32"),
        ({"output": [{"name": "y", "data_type": ["TYPE_FP32"]}]}, "<list> for the output 'y'"),
        ({"input": [{"name": "x", "dims": [7]}]}, "other dims for the input 'x'"),
        ({"input": [{"name": "x", "reshape": {"shape": [2, 2]}}]}, "reshape of the input 'x'"),
        ({"input": [{"name": "x", "allow_ragged_batch": True}]}, "allow_ragged_batch of the input 'x'"),
        ({"version_policy": {"specific": {"versions": [1]}}}, "version_policy must be"),
        ({"batch_input": [{"kind": "BATCH_ELEMENT_COUNT"}]}, "batch_input must be"),
        ({"model_operations": {"op_library_filename": ["custom.so"]}}, "model_operations must be"),
    ],
)
def test_what_cannot_be_done_here_is_refused(config: Any, told: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        options(config)
    assert told in caught.value.message
    assert len(caught.value.message) < 500

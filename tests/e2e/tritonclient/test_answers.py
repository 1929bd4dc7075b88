"""`tritonclient.http` asks what there is: health, metadata, configuration, and what is not there."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.http._utils import _raise_if_error

import ndserve
from tests.e2e.tritonclient.asking import asked, given, refused


def test_the_server_is_live_and_ready(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


@pytest.mark.parametrize(
    ("name", "version"), [("double", ""), ("double", "1"), ("versioned", "2"), ("softmax", ""), ("softmax", "1")]
)
def test_a_model_is_ready_without_a_version_and_with_one_that_it_has(
    client: InferenceServerClient, name: str, version: str
) -> None:
    assert client.is_model_ready(name, version)


@pytest.mark.parametrize(
    ("name", "version"), [("nobody", ""), ("double", "2"), ("softmax", "2"), ("broken", ""), ("versioned", "3")]
)
def test_what_is_not_there_is_not_ready(client: InferenceServerClient, name: str, version: str) -> None:
    assert not client.is_model_ready(name, version)


def test_the_server_names_itself_and_the_extensions_that_work(client: InferenceServerClient) -> None:
    metadata = client.get_server_metadata()
    assert (metadata["name"], metadata["version"]) == ("ndserve", ndserve.__version__)
    assert {"binary_tensor_data", "classification", "statistics", "model_repository"} <= set(metadata["extensions"])
    assert not [name for name in metadata["extensions"] if "shared_memory" in name or name in ("trace", "logging")]


def test_a_models_metadata_tells_its_tensors_with_the_batch_axis(client: InferenceServerClient) -> None:
    assert client.get_model_metadata("two_kinds") == {
        "name": "two_kinds",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "b", "datatype": "INT64", "shape": [-1, 2]},
        ],
        "outputs": [
            {"name": "doubled", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "next", "datatype": "INT64", "shape": [-1, 2]},
        ],
    }


@pytest.mark.parametrize("version", ["", "1", "2"])
def test_metadata_lists_all_versions_of_a_model(client: InferenceServerClient, version: str) -> None:
    assert client.get_model_metadata("versioned", version)["versions"] == ["1", "2"]


def test_a_scalar_has_metadata_without_axes(client: InferenceServerClient) -> None:
    assert client.get_model_metadata("scalar")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": []}]


def test_a_process_has_metadata_of_its_inputs_alone(client: InferenceServerClient) -> None:
    metadata = client.get_model_metadata("softmax")
    assert (metadata["versions"], metadata["platform"], metadata["outputs"]) == (["1"], "python", [])
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["x"]


def test_a_batching_model_is_configured_without_the_batch_axis(client: InferenceServerClient) -> None:
    config = client.get_model_config("double")
    assert config["max_batch_size"] == 8
    assert (config["input"][0]["data_type"], config["input"][0]["dims"]) == ("TYPE_FP32", [4])
    assert config["output"][0]["dims"] == [4]
    assert "dynamic_batching" in config


def test_a_model_without_a_batch_axis_is_configured_with_all_its_axes(client: InferenceServerClient) -> None:
    config = client.get_model_config("fixed")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [5])
    assert "dynamic_batching" not in config


def test_a_process_is_configured_with_its_parameters(client: InferenceServerClient) -> None:
    config = client.get_model_config("resize", "1")
    assert config["backend"] == "python"
    assert config["parameters"] == {"height": {"string_value": "224"}, "width": {"string_value": "224"}}


@pytest.mark.parametrize("ask", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
def test_who_asks_for_an_unknown_model_is_told_its_name(client: InferenceServerClient, ask: str) -> None:
    with refused(404, "nobody"):
        getattr(client, ask)("nobody")


@pytest.mark.parametrize("ask", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
def test_who_asks_for_an_unknown_version_is_told_which_there_are(client: InferenceServerClient, ask: str) -> None:
    with refused(404, "versioned", "'3'", "1, 2"):
        getattr(client, ask)("versioned", "3")


def test_a_broken_model_says_what_is_wrong_and_not_where_it_lies(client: InferenceServerClient) -> None:
    with refused(503, "broken", "version 1") as raised:
        client.get_model_metadata("broken")
    assert "/" not in raised.value.message()


@pytest.mark.parametrize("path", ["v2/nothing", "v2/models", "v2/models/double/nothing", "v2/models/double/versions/x"])
def test_an_unknown_path_is_an_error_that_the_client_can_read(client: InferenceServerClient, path: str) -> None:
    with refused(404, path):
        _raise_if_error(client._get(path, None, None))


def test_a_wrong_method_is_an_error_that_the_client_can_read(client: InferenceServerClient) -> None:
    with refused(405, "POST"):
        _raise_if_error(client._get("v2/models/double/infer", None, None))


@pytest.mark.parametrize("ask", ["get_trace_settings", "get_log_settings"])
def test_what_triton_has_and_ndserve_has_not_is_an_error_that_the_client_can_read(
    client: InferenceServerClient, ask: str
) -> None:
    with refused(404, "path"):
        getattr(client, ask)()


@pytest.mark.parametrize("ask", ["get_system_shared_memory_status", "get_cuda_shared_memory_status"])
def test_who_asks_for_shared_memory_gets_an_error(client: InferenceServerClient, ask: str) -> None:
    with refused(404, "sharedmemory"):
        getattr(client, ask)()


def test_shared_memory_cannot_be_registered(client: InferenceServerClient) -> None:
    with refused(404, "sharedmemory"):
        client.register_system_shared_memory("region", "/key", 64)
    with refused(404, "sharedmemory"):
        client.register_cuda_shared_memory("region", b"handle", 0, 64)
    with refused(404, "sharedmemory"):
        client.unregister_system_shared_memory()
    with refused(404, "sharedmemory"):
        client.unregister_cuda_shared_memory("region")


def test_tensors_in_shared_memory_are_refused(client: InferenceServerClient) -> None:
    tensor = InferInput("x", [1, 4], "FP32")
    tensor.set_shared_memory("region", 16)
    with refused(501, "shared memory"):
        client.infer("double", [tensor])
    output = asked("y")
    output.set_shared_memory("region", 16)
    with refused(501, "shared memory"):
        client.infer("double", [given("x", np.ones((1, 4), np.float32))], outputs=[output])
    assert client.is_server_live()

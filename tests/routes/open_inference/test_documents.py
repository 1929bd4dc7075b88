"""What the protocol tells of the server and its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ndserve import __version__
from ndserve.testing import InProcessServer, serving
from tests import onnx_models
from tests.routes.bodies import JSON, MODELS, digit
from tests.routes.open_inference.asking import document, post, post_binary


def got(server: InProcessServer, path: str, status: int = 200) -> Any:
    answer = server.http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, JSON)
    return answer.json()


def test_the_server_names_itself_and_claims_only_what_works(server: InProcessServer) -> None:
    told = got(server, "/v2")
    assert (told["name"], told["version"]) == ("ndserve", __version__)
    assert {"binary_tensor_data", "classification", "model_repository", "statistics"} <= set(told["extensions"])
    assert not {"sequence", "system_shared_memory", "cuda_shared_memory", "trace"} & set(told["extensions"])


def test_a_server_that_runs_is_live_and_ready(server: InProcessServer) -> None:
    assert got(server, "/v2/health/live") == {"live": True}
    assert got(server, "/v2/health/ready") == {"ready": True}


@pytest.mark.parametrize("state", ["closing", "dead"])
def test_a_server_that_takes_no_tasks_is_live_and_not_ready(state: str) -> None:
    with serving(models=MODELS) as server:
        setattr(server.service, state, "broken" if state == "dead" else True)
        assert got(server, "/v2/health/live") == {"live": True}
        assert got(server, "/v2/health/ready", 400) == {"ready": False}
        told = got(server, "/v2/models/digits/ready", 400)
        assert (told["name"], told["ready"]) == ("digits", False)
        assert ("broken" if state == "dead" else "shutting down") in told["error"]
        server.service.dead = ""


def test_the_metadata_of_a_model_includes_the_batch_axis(server: InProcessServer) -> None:
    assert got(server, "/v2/models/digits") == got(server, "/v2/models/digits/versions/1")
    assert got(server, "/v2/models/digits") == {
        "name": "digits",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
    }


def test_a_process_has_one_version_and_no_outputs_that_are_known(server: InProcessServer) -> None:
    told = got(server, "/v2/models/identity/versions/1")
    assert (told["versions"], told["platform"], told["outputs"]) == (["1"], "python", [])


def test_the_configuration_of_a_model_leaves_the_batch_axis_out(server: InProcessServer) -> None:
    config = got(server, "/v2/models/digits/config")
    assert config["max_batch_size"] == 32
    assert [(each["name"], each["data_type"], each["dims"]) for each in config["input"] + config["output"]] == [
        ("image", "TYPE_FP32", [8, 8]),
        ("probabilities", "TYPE_FP32", [10]),
    ]
    assert config["instance_group"] == [{"name": "digits_0", "count": 1, "kind": "KIND_CPU", "gpus": []}]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0


def test_the_keys_that_perf_analyzer_reads_are_there(server: InProcessServer) -> None:
    for model in ("digits", "identity"):
        config = got(server, f"/v2/models/{model}/config")
        assert config["model_transaction_policy"]["decoupled"] is False
        assert config["response_cache"]["enable"] is False
        assert "sequence_batching" not in config
        assert "ensemble_scheduling" not in config
        names = {each["name"] for each in got(server, f"/v2/models/{model}")["inputs"]}
        for each in config["input"]:
            assert each["name"] in names
            assert (each["optional"], each["is_shape_tensor"]) == (False, False)


def test_the_configuration_of_a_process_has_its_parameters(server: InProcessServer) -> None:
    config = got(server, "/v2/models/resize/config")
    assert config["backend"] == "python"
    assert config["parameters"] == {"height": {"string_value": "224"}, "width": {"string_value": "224"}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    folder = tmp_path_factory.mktemp("models")
    for version in (9, 10):
        onnx_models.save(onnx_models.double(), folder, "m", version)
    (folder / "m" / "model.toml").write_text("max_batch_size = 5\nmax_wait_ms = 2.5")
    onnx_models.save(onnx_models.double((2, 4)), folder, "fixed")
    onnx_models.save(onnx_models.double(), folder, "off", options='batching = "off"')
    (folder / "torn.onnx").write_bytes(b"no model")
    with serving(models=folder) as started:
        yield started


def test_the_newest_version_answers_and_all_are_listed(models: InProcessServer) -> None:
    assert got(models, "/v2/models/m")["versions"] == ["9", "10"]
    four = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    assert post(models, "m", document(four)).json()["model_version"] == "10"
    assert post(models, "m/versions/9", document(four)).json()["model_version"] == "9"


def test_version_1_of_a_model_that_has_none_is_not_found(models: InProcessServer) -> None:
    got(models, "/v2/models/m/versions/1", 404)


def test_a_models_own_options_are_in_its_configuration(models: InProcessServer) -> None:
    config = got(models, "/v2/models/m/config")
    assert config["max_batch_size"] == 5
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 2500


@pytest.mark.parametrize(("name", "dims"), [("fixed", [2, 4]), ("off", [-1, 4])])
def test_a_model_that_is_not_batched_has_all_its_axes(models: InProcessServer, name: str, dims: list[int]) -> None:
    config = got(models, f"/v2/models/{name}/config")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, dims)
    assert "dynamic_batching" not in config


def test_a_torn_model_is_not_ready_and_says_why(models: InProcessServer) -> None:
    told = got(models, "/v2/models/torn/ready", 400)
    assert (told["name"], told["ready"]) == ("torn", False)
    assert "cannot be served" in told["error"]


def test_an_unknown_model_is_not_found_rather_than_not_ready(models: InProcessServer) -> None:
    assert got(models, "/v2/models/nothing/ready", 404).keys() == {"error"}
    assert got(models, "/v2/models/m/versions/3/ready", 404).keys() == {"error"}


def test_the_statistics_of_a_model_without_a_version_are_those_of_all(models: InProcessServer) -> None:
    told = got(models, "/v2/models/m/stats")["model_stats"]
    assert [each["version"] for each in told] == ["9", "10"]
    (one,) = got(models, "/v2/models/m/versions/9/stats")["model_stats"]
    assert one["version"] == "9"


def test_the_statistics_of_everything_name_each_target_once(models: InProcessServer) -> None:
    told = got(models, "/v2/models/stats")["model_stats"]
    names = [(each["name"], each["version"]) for each in told]
    assert len(set(names)) == len(names)
    assert {("m", "9"), ("m", "10"), ("off", "1"), ("identity", "1")} <= set(names)


def durations(figures: dict[str, Any]) -> dict[str, int]:
    """The counts of the durations that clients index without a check."""
    assert all(set(each) == {"count", "ns"} and each["ns"] >= 0 for each in figures.values())
    return {name: each["count"] for name, each in figures.items()}


def test_inferences_are_counted() -> None:
    with serving(models=MODELS) as server:
        empty = got(server, "/v2/models/digits/stats")["model_stats"][0]
        assert set(durations(empty["inference_stats"]).values()) == {0}
        images = np.stack([digit(number) for number in (1, 2, 3)]).astype(np.float32)
        post_binary(server, "digits", "image", images)
        post_binary(server, "digits", "image", images[:1])
        post(server, "digits", b"{")
        (told,) = got(server, "/v2/models/digits/stats")["model_stats"]
        assert (told["name"], told["version"]) == ("digits", "1")
        assert (told["inference_count"], told["execution_count"]) == (4, 2)
        assert [each["batch_size"] for each in told["batch_stats"]] == [1, 3]
        assert all(each["compute_infer"]["count"] == 1 for each in told["batch_stats"])
        assert told["last_inference"] > 1_600_000_000_000
        assert durations(told["inference_stats"]) == {
            **dict.fromkeys(("success", "queue", "compute_input", "compute_infer", "compute_output"), 2),
            **dict.fromkeys(("fail", "cache_hit", "cache_miss"), 0),
        }
        (model,) = server.http.get("/models/digits").json()
        assert told["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": model["bytes"]["measured"]}]


def test_failures_are_counted() -> None:
    with serving() as server:
        assert post(server, "resize", document()).status_code == 500
        (told,) = got(server, "/v2/models/resize/stats")["model_stats"]
        assert durations(told["inference_stats"])["fail"] == 1
        assert (told["inference_count"], told["memory_usage"]) == (0, [])

"""What NVIDIA's perf_analyzer asks a server over HTTP, replayed: it reads most answers without a check.

The order of its requests, and the members that it reads: `src/model_parser.cc` and
`src/client_backend/triton/triton_client_backend.cc` of https://github.com/triton-inference-server/perf_analyzer; the
form of its requests: `src/c++/library/http_client.cc` of https://github.com/triton-inference-server/client.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.e2e.running import RunningServer, serving
from tests.onnx_models import double, save

AGENT = "libcurl-agent/1.0"
DURATIONS = ("success", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
COMPUTE = ("compute_input", "compute_infer", "compute_output")


class Target(NamedTuple):
    """What is measured: its name, the shapes that `--shape` gives, its batch limit, and its outputs."""

    name: str
    shapes: dict[str, list[int]]
    max_batch_size: int
    outputs: Sequence[str] = ()


BATCHING = Target("double", {"x": [4]}, 8, ["y"])
WITHOUT_BATCH_AXIS = Target("fixed", {"x": [5]}, 0, ["y"])
PROCESS = Target("difference", {"a": [3], "b": [3]}, 32)
PROCESS_OF_ANY_SHAPE = Target("softmax", {"x": [7]}, 0)
TARGETS = [BATCHING, WITHOUT_BATCH_AXIS, PROCESS, PROCESS_OF_ANY_SHAPE]
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Analyzer:
    """One connection. As libcurl does it, the head and a small body leave together."""

    def __init__(self, server: RunningServer) -> None:
        self._socket = socket.create_connection((server.host, server.port), timeout=40)

    def close(self) -> None:
        self._socket.close()

    def get(self, path: str) -> Any:
        answer = self.send("GET", path)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def send(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        fields = {"Host": "localhost:8000", "User-Agent": AGENT, "Accept": "*/*", **(headers or {})}
        if method == "POST":
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        self._socket.sendall("\r\n".join([*lines, "\r\n"]).encode() + body)
        with http.client.HTTPResponse(self._socket, method=method) as answer:
            answer.begin()
            return Answer(answer.status, answer.headers, answer.read())

    def infer(self, target: Target, number: int, batch: int = 1, *, binary: bool = True) -> dict[str, Any]:
        """One request of the load; gives the JSON of its answer."""
        document, tensors = request(target, number, batch, binary=binary)
        head = json.dumps(document).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        answer = self.send("POST", f"/v2/models/{target.name}/infer", head + tensors, headers)
        assert answer.status == 200, answer.body
        length = answer.headers["Inference-Header-Content-Length"]
        read: dict[str, Any] = json.loads(answer.body[: int(length)] if length else answer.body)
        sizes = [output["parameters"]["binary_data_size"] for output in read["outputs"] if "parameters" in output]
        assert sum(sizes) == (len(answer.body) - int(length) if length else 0)
        return read


def request(target: Target, number: int, batch: int, *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """The JSON of a request, and what follows it."""
    inputs: list[dict[str, Any]] = []
    tensors = b""
    for name, dims in target.shapes.items():
        shape = [batch, *dims] if target.max_batch_size else dims
        array = np.random.default_rng(number).random(shape, np.float32)
        entry: dict[str, Any] = {"name": name, "shape": shape, "datatype": "FP32"}
        if binary:
            entry["parameters"] = {"binary_data_size": array.nbytes}
            tensors += array.tobytes()
        else:
            entry["data"] = array.ravel().tolist()
        inputs.append(entry)
    document: dict[str, Any] = {"id": str(number), "inputs": inputs}
    if target.outputs:
        document["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name in target.outputs]
    else:
        document["parameters"] = {"binary_data_output": True}
    return document, tensors


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    models = tmp_path_factory.mktemp("models")
    save(double(), models, "double", options="max_batch_size = 8\n")
    save(double([5]), models, "fixed")
    with serving(models=models) as running:
        yield running


@pytest.fixture
def analyzer(server: RunningServer) -> Iterator[Analyzer]:
    opened = Analyzer(server)
    yield opened
    opened.close()


@each_target
def test_the_configuration_has_what_is_read_of_it(analyzer: Analyzer, target: Target) -> None:
    config = analyzer.get(f"/v2/models/{target.name}/config")
    assert config["name"] == target.name
    assert config["max_batch_size"] == target.max_batch_size
    assert config["model_transaction_policy"]["decoupled"] is False
    assert config["response_cache"]["enable"] is False
    for tensor in config["input"]:
        assert (tensor["optional"], tensor["is_shape_tensor"]) == (False, False)
    assert [tensor["name"] for tensor in config["output"]] == list(target.outputs)


@each_target
def test_the_scheduler_is_dynamic_for_what_is_batched_and_none_otherwise(analyzer: Analyzer, target: Target) -> None:
    config = analyzer.get(f"/v2/models/{target.name}/config")
    assert ("dynamic_batching" in config) == (target.max_batch_size > 0)
    assert not {"sequence_batching", "ensemble_scheduling"} & config.keys()
    assert config["platform"] != "ensemble"


@each_target
def test_every_tensor_of_the_configuration_is_in_the_metadata(analyzer: Analyzer, target: Target) -> None:
    """Where there is a batch axis the tool drops the first axis of the metadata."""
    metadata = analyzer.get(f"/v2/models/{target.name}")
    config = analyzer.get(f"/v2/models/{target.name}/config")
    assert metadata["name"] == target.name
    batch_axis = [-1] if config["max_batch_size"] else []
    for kind in ("input", "output"):
        told = {tensor["name"]: tensor for tensor in metadata[f"{kind}s"]}
        assert list(told) == [tensor["name"] for tensor in config[kind]]
        for tensor in config[kind]:
            assert told[tensor["name"]]["shape"] == batch_axis + tensor["dims"]
            assert tensor["data_type"] == f"TYPE_{told[tensor['name']]['datatype']}"


@each_target
def test_shapes_are_known_without_an_option_unless_they_are_free(analyzer: Analyzer, target: Target) -> None:
    metadata = analyzer.get(f"/v2/models/{target.name}")
    dims = {tensor["name"]: tensor["shape"][target.max_batch_size > 0 :] for tensor in metadata["inputs"]}
    assert dims == ({"x": [-1]} if target is PROCESS_OF_ANY_SHAPE else target.shapes)


def test_the_server_says_that_it_has_statistics(analyzer: Analyzer) -> None:
    metadata = analyzer.get("/v2")
    assert "statistics" in metadata["extensions"]
    assert isinstance(metadata["name"], str)
    assert isinstance(metadata["version"], str)


def test_a_version_may_be_named_in_every_path(analyzer: Analyzer) -> None:
    for path in ("", "/config", "/stats"):
        named = analyzer.get(f"/v2/models/double/versions/1{path}")
        assert named == analyzer.get(f"/v2/models/double{path}")


@each_target
def test_statistics_have_every_member_as_a_whole_number(analyzer: Analyzer, target: Target) -> None:
    """Also before the first request. The tool calls `GetUint64` on each, which ends it if it is none."""
    (entry,) = analyzer.get(f"/v2/models/{target.name}/stats")["model_stats"]
    numbers = [entry["inference_count"], entry["execution_count"]]
    numbers += [entry["inference_stats"][name][key] for name in DURATIONS for key in ("count", "ns")]
    assert all(type(number) is int and number >= 0 for number in numbers)
    assert (entry["name"], entry["version"]) == (target.name, "1")


def test_statistics_of_all_models_are_those_of_each(analyzer: Analyzer) -> None:
    everything = {entry["name"]: entry for entry in analyzer.get("/v2/models/stats")["model_stats"]}
    for target in TARGETS:
        assert analyzer.get(f"/v2/models/{target.name}/stats")["model_stats"] == [everything[target.name]]


@each_target
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_statistics_of_a_window_are_the_load_in_it(
    server: RunningServer, analyzer: Analyzer, target: Target, batch: int, concurrency: int
) -> None:
    each = 10

    def load(worker: int) -> None:
        own = Analyzer(server)
        try:
            for number in range(each):
                own.infer(target, number + each * worker, batch)
        finally:
            own.close()

    (before,) = analyzer.get(f"/v2/models/{target.name}/stats")["model_stats"]
    with ThreadPoolExecutor(concurrency) as workers:
        list(workers.map(load, range(concurrency)))
    (after,) = analyzer.get(f"/v2/models/{target.name}/stats")["model_stats"]
    requests = each * concurrency
    counts = {name: spent(before, after, name, "count") for name in DURATIONS}
    assert counts == {**dict.fromkeys(DURATIONS, requests), "cache_hit": 0, "cache_miss": 0}
    rows = requests * (batch if target.max_batch_size else 1)
    assert after["inference_count"] - before["inference_count"] == rows
    executions = after["execution_count"] - before["execution_count"]
    assert requests / concurrency <= executions <= requests
    parts = [spent(before, after, name, "ns") for name in ("queue", *COMPUTE)]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= spent(before, after, "success", "ns")


def spent(before: dict[str, Any], after: dict[str, Any], name: str, key: str) -> int:
    """What came to a duration between two reads."""
    difference: int = after["inference_stats"][name][key] - before["inference_stats"][name][key]
    return difference


@each_target
def test_an_answer_names_its_model_version_and_request(analyzer: Analyzer, target: Target) -> None:
    answer = analyzer.infer(target, 123)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (target.name, "1", "123")
    assert all(output["parameters"]["binary_data_size"] > 0 for output in answer["outputs"])


@pytest.mark.parametrize("target", [BATCHING, WITHOUT_BATCH_AXIS], ids=lambda target: target.name)
def test_tensors_may_be_json_while_the_header_counts_the_whole_body(analyzer: Analyzer, target: Target) -> None:
    """`--input-tensor-format json`. An output in JSON has no parameters: the client would look for a size in them."""
    (output,) = analyzer.infer(target, 5, binary=False)["outputs"]
    assert "parameters" not in output
    assert len(output["data"]) == np.prod(output["shape"])


def test_a_refusal_is_json_with_an_error(analyzer: Analyzer) -> None:
    for path in ("/v2/systemsharedmemory/unregister", "/v2/cudasharedmemory/unregister", "/v2/trace/setting"):
        answer = analyzer.send("POST", path)
        assert answer.status == 404
        assert path in json.loads(answer.body)["error"]
    assert analyzer.get("/v2")["name"] == "ndserve"


def test_models_load_and_unload_as_the_client_in_c_asks(analyzer: Analyzer) -> None:
    """It sends an object without members to load, and nothing at all to unload and to list."""
    assert analyzer.send("POST", "/v2/repository/models/fixed/unload").status == 200
    assert analyzer.send("GET", "/v2/models/fixed/ready").status == 400
    assert analyzer.send("POST", "/v2/repository/models/fixed/load", b"{}").status == 200
    assert analyzer.send("GET", "/v2/models/fixed/ready").status == 200
    index = json.loads(analyzer.send("POST", "/v2/repository/index").body)
    assert {"name": "fixed", "version": "1", "state": "READY"} in index

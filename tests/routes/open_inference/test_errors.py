"""Refusals under /v2: Triton's statuses, and always the protocol's own form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import JSON, MODELS, PROCESSES
from tests.routes.gates import serving_held, submit_held
from tests.routes.open_inference.asking import LENGTH, X, document, post, post_binary, refused

PATHS = {
    "/v2": "GET",
    "/v2/health/live": "GET, HEAD",
    "/v2/health/ready": "GET, HEAD",
    "/v2/models/stats": "GET",
    **{
        f"/v2/models/{name}{rest}": "POST" if rest == "/infer" else "GET"
        for name in ("digits", "digits/versions/1", "identity", "unknown", "digits/versions/9")
        for rest in ("", "/ready", "/config", "/stats", "/infer")
    },
    "/v2/repository/index": "POST",
    "/v2/repository/models/unknown/load": "POST",
    "/v2/repository/models/unknown/unload": "POST",
    "/v2/repository/other/index": "POST",
    "/v2/repository/other/models/digits/load": "POST",
    "/v2/repository/other/models/digits/unload": "POST",
}
METHODS = ("HEAD", "OPTIONS", "GET", "POST", "PUT", "PATCH", "DELETE")
REFUSED = [
    (method, path) for path, answered in PATHS.items() for method in METHODS if method not in answered.split(", ")
]


UNKNOWN = [
    *("/v2/", "/v2/health", "/v2/health/", "/v2/health/alive", "/v2/models", "/v2/models/", "/v2/models//infer"),
    *("/v2/models/digits/", "/v2/models/digits/infer/", "/v2/models/digits/versions", "/v2/models/digits/versions/"),
    *("/v2/models/digits/versions/x/infer", "/v2/models/digits/versions/-1", "/v2/models/digits/versions/1/x"),
    *("/v2/models/digits/generate", "/v2/models/digits/generate_stream", "/v2/models/digits/trace/setting"),
    *("/v2/repository", "/v2/repository/models/digits", "/v2/repository/models/digits/reload", "/v2/logging"),
    *("/v2/systemsharedmemory/status", "/v2/cudasharedmemory/region/a/register", "/v2/trace/setting"),
    *("/v2/models/" + "m" * 600, "/v2/models/a/b/infer", "/v2/docs", "/v2/openapi.json"),
]

BODIES = [b"", b"{", b"[]", b"null", b"1", b'"text"', b"\xff\xfe", b"{}", b"[" * 100_000, b'{"parameters": []}']
HEADERS: list[dict[str, str]] = [
    {},
    {"content-type": JSON},
    {"content-type": "multipart/form-data; boundary=x"},
    {LENGTH: "2"},
    {LENGTH: "-1"},
    {LENGTH: "9" * 40},
    {LENGTH: "two"},
    {"content-encoding": "gzip"},
]


@pytest.mark.parametrize(("method", "path"), REFUSED)
def test_a_wrong_method_is_refused_with_the_right_one(server: InProcessServer, method: str, path: str) -> None:
    answer = server.http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == PATHS[path]
    if method != "HEAD":
        refused(answer, 405, PATHS[path])


@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_the_protocol_does_not_have_is_not_found(server: InProcessServer, method: str, path: str) -> None:
    refused(server.http.request(method, path), 404, "path")


@pytest.mark.parametrize("path", ["/v2x", "/v20/models", "/v1/models"])
def test_what_only_looks_like_the_protocol_is_not_its_own(server: InProcessServer, path: str) -> None:
    assert server.http.get(path).json()["code"] == "not_found"


@pytest.mark.parametrize("path", [path for path, method in PATHS.items() if method == "POST"])
@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_a_bad_body_is_refused_in_the_protocols_form(
    server: InProcessServer, path: str, headers: dict[str, str]
) -> None:
    for body in BODIES:
        answer = server.http.post(path, content=body, headers=headers)
        if "/index" in path and answer.status_code == 200:
            assert isinstance(answer.json(), list)
        else:
            assert 400 <= answer.status_code != 500
            refused(answer, answer.status_code)


@pytest.mark.parametrize("path", [path for path, method in PATHS.items() if method == "GET"])
def test_what_is_got_has_the_protocols_form_whatever_comes_with_it(server: InProcessServer, path: str) -> None:
    answer = server.http.request("GET", path + "?a=1&a=2", content=b"{")
    assert answer.headers["content-type"] == JSON
    assert "detail" not in answer.json()
    assert answer.status_code == (404 if "unknown" in path or "9" in path else 200)


@pytest.mark.parametrize("path", ["unknown", "digits/versions/2", "digits/versions/01", "identity/versions/2"])
def test_an_unknown_model_or_version_is_not_found(server: InProcessServer, path: str) -> None:
    refused(post(server, path, document()), 404)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": "y"}, "surplus inputs: y"),
        ({"datatype": "FP64"}, "is float64, not float32"),
        ({"shape": [8, 8], "data": [0] * 64}, "the batch axis is missing"),
        ({"shape": [1, 8, 7], "data": [0] * 56}, "shape [1, 8, 7]"),
    ],
)
def test_arrays_that_do_not_fit_the_model_are_400(server: InProcessServer, changed: dict[str, Any], told: str) -> None:
    image = {"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": [0] * 64}
    refused(post(server, "digits", document({**image, **changed})), 400, told)


def test_an_output_that_a_model_does_not_have_is_400_before_it_runs(server: InProcessServer) -> None:
    image = {"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": [0] * 64}
    before = server.service.stats()["batches"]["count"]
    answer = post(server, "digits", document(image, outputs=[{"name": "logits"}]))
    refused(answer, 400, "no output 'logits'; it has probabilities")
    assert server.service.stats()["batches"]["count"] == before


def test_an_output_that_a_process_does_not_give_is_400(server: InProcessServer) -> None:
    refused(post(server, "identity", document(outputs=[{"name": "z"}])), 400, "no output 'z'; it has output")


def test_an_output_without_a_form_in_json_is_400(server: InProcessServer) -> None:
    half = np.ones(2, np.float16)
    entry = {"name": "x", "datatype": "FP16", "shape": [2], "parameters": {"binary_data_size": half.nbytes}}
    head = document(entry)
    headers = {LENGTH: str(len(head))}
    answer = server.http.post("/v2/models/identity/infer", content=head + half.tobytes(), headers=headers)
    refused(answer, 400, "sending FP16 data via JSON is not supported")


def test_a_process_that_raises_is_500(server: InProcessServer) -> None:
    refused(post(server, "picky", document({**X, "data": [-1, 2]})), 500, "negative")


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_shared_memory_is_501(server: InProcessServer, where: str) -> None:
    region = {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}}
    body = document({**X, **region}) if where == "inputs" else document(outputs=[{"name": "output", **region}])
    refused(post(server, "identity", body), 501, "shared memory is not supported")


@pytest.mark.parametrize("name", ["sequence_id", "sequence_start", "sequence_end"])
def test_a_sequence_is_501(server: InProcessServer, name: str) -> None:
    refused(post(server, "identity", document(parameters={name: 7})), 501, f"sequences are not supported ({name})")


@pytest.mark.parametrize("path", ["other/index", "other/models/digits/load", "other/models/digits/unload"])
def test_a_repository_with_a_name_is_501(server: InProcessServer, path: str) -> None:
    refused(server.http.post(f"/v2/repository/{path}"), 501, "'other' is not supported")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessServer]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "torn.onnx").write_bytes(b"no model")
    with serving(models=folder, max_body_bytes=5000) as started:
        yield started


def test_a_body_over_the_bound_is_400(small: InProcessServer) -> None:
    refused(post_binary(small, "identity", "x", np.zeros(2000, np.float32)), 400, "at most 5000")


def test_a_body_of_unknown_length_over_the_bound_is_400(small: InProcessServer) -> None:
    chunks = (b" " * 1000 for _ in range(10))
    refused(small.http.post("/v2/models/identity/infer", content=chunks), 400, "at most 5000")


@pytest.mark.parametrize("rest", ["", "/config", "/stats"])
def test_a_model_whose_file_is_torn_is_503_with_the_reason(small: InProcessServer, rest: str) -> None:
    refused(small.http.get(f"/v2/models/torn{rest}"), 503, "cannot be served")


def test_an_inference_of_a_torn_model_is_503(small: InProcessServer) -> None:
    refused(post(small, "torn", document()), 503, "cannot be served")


def test_a_full_queue_is_503_and_says_when_to_come_back() -> None:
    with serving_held(max_queue_tasks=1) as (server, gate):
        submit_held(server, gate)
        answer = post(server, "identity", document())
        refused(answer, 503, "leaves no room")
        assert int(answer.headers["retry-after"]) >= 1


def test_a_server_that_shuts_down_is_503() -> None:
    with serving(models=MODELS, processes=PROCESSES) as server:
        server.service.closing = True
        refused(post(server, "identity", document()), 503, "shutting down")


def test_a_failure_that_nobody_has_foreseen_is_500_and_tells_nothing(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(server.service, "start_inference", fail)
    assert "secret" not in refused(post(server, "identity", document()), 500, "its log says why")

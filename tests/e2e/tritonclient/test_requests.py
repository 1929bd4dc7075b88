"""What `tritonclient.http` says beside the arrays: id, priority, timeout, parameters, headers and compression."""

from __future__ import annotations

import gzip
import http.client
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient

from ndserve.types import HostArray
from tests.e2e.running import RunningServer
from tests.e2e.tritonclient.asking import (
    asked,
    connected,
    given,
    lane_held,
    outcome,
    refused,
    wait_until_queued,
)

ONES = np.ones((1, 4), np.float32)
IMAGE = np.arange(48, dtype=np.float32).reshape(1, 6, 8)
CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
UNPACKED = 2_000
"""Bytes; a body of zeros has far fewer once it is compressed."""


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """Where a process can be held; `lane_held` makes it."""
    return tmp_path / "pipe"


def test_the_id_of_a_request_comes_back(client: InferenceServerClient) -> None:
    for request_id in ("7", 'ü "quoted"', "x" * 1000):
        response = client.infer("double", [given("x", ONES)], request_id=request_id).get_response()
        assert response["id"] == request_id


def test_a_request_without_an_id_is_answered_without_one(client: InferenceServerClient) -> None:
    assert "id" not in client.infer("double", [given("x", ONES)]).get_response()


def test_many_requests_at_once_are_answered_each_by_its_own_result(server: RunningServer, pipe: Path) -> None:
    """They wait together while the lane is held, so that they share batches."""
    number = 32
    with connected(server, concurrency=number) as client:
        before = client.get_inference_statistics("double")["model_stats"][0]
        with lane_held(server, pipe):
            handles = [
                client.async_infer("double", [given("x", np.full((1, 4), i, np.float32))], request_id=f"request {i}")
                for i in range(number)
            ]
            wait_until_queued(server, number + 1)
        results = [handle.get_result() for handle in reversed(handles)][::-1]
        after = client.get_inference_statistics("double")["model_stats"][0]
    assert [result.get_response()["id"] for result in results] == [f"request {i}" for i in range(number)]
    assert [result.as_numpy("y").tolist() for result in results] == [[[2 * i] * 4] for i in range(number)]
    assert after["inference_count"] - before["inference_count"] == number
    assert after["execution_count"] - before["execution_count"] == number // 8


def test_a_refused_request_does_not_harm_those_that_are_under_way_with_it(server: RunningServer) -> None:
    with connected(server, concurrency=4) as client:
        shapes = [(1, 4), (1, 5), (1, 4), (1, 3)]
        handles = [client.async_infer("double", [given("x", np.ones(shape, np.float32))]) for shape in shapes]
        for shape, handle in zip(shapes, handles, strict=True):
            if shape == (1, 4):
                assert handle.get_result().as_numpy("y").tolist() == [[2] * 4]
            else:
                with refused(400, str(list(shape))):
                    handle.get_result()


def test_a_timeout_that_is_too_short_is_503_and_the_server_goes_on(
    server: RunningServer, client: InferenceServerClient, pipe: Path
) -> None:
    with lane_held(server, pipe):
        with refused(503, "timeout of 1000 microseconds"):
            client.infer("double", [given("x", ONES)], timeout=1000)
        wait_until_queued(server, 1)
    assert outcome(client, "double", ONES).tolist() == [[2] * 4]


def test_a_timeout_that_is_long_enough_changes_nothing(client: InferenceServerClient) -> None:
    assert outcome(client, "double", ONES, timeout=30_000_000).tolist() == [[2] * 4]


def test_the_more_urgent_request_goes_first(server: RunningServer, pipe: Path, tmp_path: Path) -> None:
    """The less urgent one comes first, and would hold the lane if it went first: nobody opens its pipe before."""
    second = tmp_path / "second"
    os.mkfifo(second)

    def infer(target: str, **options: Any) -> HostArray:
        with connected(server, network_timeout=20) as client:
            return outcome(client, target, ONES, **options)

    with ThreadPoolExecutor(2) as threads:
        with lane_held(server, pipe):
            slow = threads.submit(infer, "fifo", priority=3, parameters={"path": str(second)})
            wait_until_queued(server, 2)
            urgent = threads.submit(infer, "double", priority=2)
            wait_until_queued(server, 3)
        try:
            assert urgent.result().tolist() == [[2] * 4]
            assert not slow.done()
        finally:
            os.close(os.open(second, os.O_WRONLY))
        assert slow.result().tolist() == ONES.tolist()


def test_parameters_are_those_of_the_process(client: InferenceServerClient) -> None:
    assert outcome(client, "resize", IMAGE, parameters={"height": 3, "width": 2}).shape == (1, 3, 2)
    result = client.infer("top_k", [given("x", IMAGE)], parameters={"k": 2})
    assert result.as_numpy("values").tolist() == [[[row * 8 + 7, row * 8 + 6] for row in range(6)]]
    assert result.as_numpy("indices").tolist() == [[[7, 6]] * 6]


def test_a_process_without_parameters_takes_its_own(client: InferenceServerClient) -> None:
    assert outcome(client, "resize", IMAGE).shape == (1, 224, 224)


@pytest.mark.parametrize(("name", "value"), [("depth", 3), ("height", "tall"), ("height", 0.5), ("height", 2.5)])
def test_a_parameter_that_a_process_cannot_take_is_named(
    client: InferenceServerClient, name: str, value: str | float
) -> None:
    with refused(400, f"'{name}'"):
        client.infer("resize", [given("x", IMAGE)], parameters={name: value})


def test_a_value_that_a_process_refuses_is_named(client: InferenceServerClient) -> None:
    with refused(500, "k is 100"):
        client.infer("top_k", [given("x", IMAGE)], parameters={"k": 100})


def test_parameters_that_a_model_does_not_have_change_nothing(client: InferenceServerClient) -> None:
    assert outcome(client, "double", ONES, parameters={"anything": "at all", "more": 1.5}).tolist() == [[2] * 4]


def test_headers_and_query_of_ones_own_change_nothing(client: InferenceServerClient) -> None:
    headers = {"X-Request-Source": "a test", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    assert outcome(client, "double", ONES, headers=headers, query_params={"a": ["b", 1]}).tolist() == [[2] * 4]
    assert client.is_server_ready(headers=headers, query_params={"a": "b"})


@pytest.mark.parametrize("request_coding", [None, *CODINGS])
@pytest.mark.parametrize("response_coding", [None, *CODINGS])
@pytest.mark.parametrize("binary", [True, False])
def test_requests_and_responses_may_be_compressed(
    client: InferenceServerClient, request_coding: str | None, response_coding: str | None, binary: bool
) -> None:
    sent = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    result = client.infer(
        "double",
        [given("x", sent, binary=binary)],
        outputs=[asked("y", binary=binary)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )
    assert np.array_equal(result.as_numpy("y"), 2 * sent)


def test_compressed_requests_may_be_many_at_once(server: RunningServer) -> None:
    with connected(server, concurrency=4) as client:
        handles = [
            client.async_infer(
                "double",
                [given("x", np.full((1, 4), i, np.float32))],
                request_compression_algorithm="gzip",
                response_compression_algorithm="deflate",
            )
            for i in range(8)
        ]
        assert [handle.get_result().as_numpy("y")[0, 0] for handle in handles] == [2 * i for i in range(8)]


@pytest.mark.parametrize("coding", CODINGS)
def test_a_response_is_indeed_compressed(server: RunningServer, coding: str) -> None:
    zeros = np.zeros((UNPACKED // 16, 4), np.float32)
    body, length = InferenceServerClient.generate_request_body([given("x", zeros)])
    answer, packed = post(server, body, length, {"Accept-Encoding": coding})
    assert answer.getheader("Content-Encoding") == coding
    assert len(packed) < UNPACKED < len(CODINGS[coding](packed))
    header_length = int(answer.getheader("Inference-Header-Content-Length", ""))
    result = InferenceServerClient.parse_response_body(packed, header_length=header_length, content_encoding=coding)
    assert np.array_equal(result.as_numpy("y"), zeros)


@pytest.mark.parametrize("binary", [True, False])
def test_bodies_made_by_the_client_go_through_any_http_library(server: RunningServer, binary: bool) -> None:
    inputs = [given("x", ONES, binary=binary)]
    body, length = InferenceServerClient.generate_request_body(
        inputs, outputs=[asked("y", binary=binary)], request_id="7"
    )
    answer, packed = post(server, body, length)
    told = answer.getheader("Inference-Header-Content-Length")
    assert (told is not None) == binary
    result = InferenceServerClient.parse_response_body(packed, header_length=int(told) if told else None)
    assert result.get_response()["id"] == "7"
    assert result.as_numpy("y").tolist() == [[2] * 4]


def post(
    server: RunningServer, body: bytes, length: int | None, headers: dict[str, str] | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer of `double` to a body, without Triton's client."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=40)
    try:
        lengths = {} if length is None else {"Inference-Header-Content-Length": str(length)}
        connection.request("POST", "/v2/models/double/infer", body, {**lengths, **(headers or {})})
        answer = connection.getresponse()
        packed = answer.read()
        assert answer.status == 200, packed
        return answer, packed
    finally:
        connection.close()

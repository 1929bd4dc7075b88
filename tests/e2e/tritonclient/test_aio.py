"""The asyncio client of Triton, `tritonclient.http.aio`. Its library asks for compression in every request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.http.aio import InferenceServerClient, InferResult

from tests.e2e.client import run
from tests.e2e.running import RunningServer
from tests.e2e.tritonclient.asking import address, asked, given, refused

ONES = np.ones((1, 4), np.float32)


def on(server: RunningServer, test: Callable[[InferenceServerClient], Awaitable[Any]]) -> Any:
    """What a test gives that has a client of its own."""

    async def connected() -> Any:
        async with InferenceServerClient(address(server)) as client:
            return await test(client)

    return run(connected())


def infer(
    server: RunningServer, target: str, inputs: list[InferInput], outputs: list[InferRequestedOutput], **options: Any
) -> InferResult:
    return on(server, lambda client: client.infer(target, inputs, outputs=outputs, **options))


def test_the_server_and_its_models_are_ready(server: RunningServer) -> None:
    async def test(client: InferenceServerClient) -> list[bool]:
        health = client.is_server_live(), client.is_server_ready()
        ready: list[bool] = await asyncio.gather(
            *health, client.is_model_ready("double"), client.is_model_ready("nobody")
        )
        return ready

    assert on(server, test) == [True, True, True, False]


def test_metadata_configuration_and_statistics_are_read(server: RunningServer) -> None:
    async def test(client: InferenceServerClient) -> None:
        assert (await client.get_server_metadata())["name"] == "ndserve"
        assert (await client.get_model_metadata("versioned"))["versions"] == ["1", "2"]
        assert (await client.get_model_config("double"))["max_batch_size"] == 8
        assert (await client.get_inference_statistics("double"))["model_stats"][0]["name"] == "double"
        assert "double" in [entry["name"] for entry in await client.get_model_repository_index()]

    on(server, test)


@pytest.mark.parametrize("binary", [True, False])
def test_small_and_large_arrays_come_back(server: RunningServer, binary: bool) -> None:
    for rows in (1, 2000):
        sent = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
        result = infer(server, "double", [given("x", sent, binary=binary)], [asked("y", binary=binary)])
        assert np.array_equal(result.as_numpy("y"), 2 * sent)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compression_is_understood_both_ways(server: RunningServer, coding: str) -> None:
    sent = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    codings = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
    result = infer(server, "double", [given("x", sent)], [asked("y")], **codings)
    assert np.array_equal(result.as_numpy("y"), 2 * sent)


def test_many_requests_at_once_are_answered_each_by_its_own_result(server: RunningServer) -> None:
    async def test(client: InferenceServerClient) -> list[InferResult]:
        requests = [
            client.infer("double", [given("x", np.full((1, 4), i, np.float32))], request_id=str(i)) for i in range(200)
        ]
        return await asyncio.gather(*requests)

    results = on(server, test)
    assert [result.get_response()["id"] for result in results] == [str(i) for i in range(200)]
    assert [result.as_numpy("y").tolist() for result in results] == [[[2 * i] * 4] for i in range(200)]


def test_a_refusal_is_told_with_its_status_and_reason(server: RunningServer) -> None:
    with refused(400, "'x'", "[1, 5]"):
        infer(server, "double", [given("x", np.ones((1, 5), np.float32))], [])
    with refused(404, "'nobody'"):
        infer(server, "nobody", [given("x", ONES)], [])


def test_a_model_is_unloaded_and_loaded(server: RunningServer) -> None:
    async def test(client: InferenceServerClient) -> list[bool]:
        await client.unload_model("fixed")
        unloaded = await client.is_model_ready("fixed")
        await client.load_model("fixed")
        return [unloaded, await client.is_model_ready("fixed")]

    assert on(server, test) == [False, True]

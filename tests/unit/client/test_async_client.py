"""The client for asyncio does what the other one does, by the same flows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from ndserve.client import AsyncClient, Client, ConnectionFailedError, TaskFailedError
from tests.unit.client.fakes import Script, accepted, npy, problem, refused
from tests.unit.client.test_client import _pages
from tests.unit.client.test_map import doubled, failing_on_three


def value(result: object) -> Any:
    return result.item() if isinstance(result, np.ndarray) else type(result)


def test_it_has_the_methods_of_the_client_that_blocks() -> None:
    names = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    assert names == {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose"}


def test_a_run_survives_a_restart_with_one_key() -> None:
    script = Script(httpx.ReadError("reset"), refused(), problem(503, "shutting_down"), doubled)

    async def main() -> Any:
        async with script.async_client() as client:
            return value(await client.run("double", 4))

    assert asyncio.run(main()) == 8
    assert len(set(script.keys)) == 1
    assert script.clock.waits == pytest.approx([0.1, 0.2, 0.4])


def test_every_call_gives_what_the_server_says() -> None:
    script = Script(accepted(), accepted(), accepted(), accepted(), npy(3), accepted(status=200))

    async def main() -> list[Any]:
        async with script.async_client() as client:
            found: list[Any] = [await client.submit_task("digits", 1, priority=3)]
            found += [await client.status("t1"), await client.cancel("t1"), await client.retry("t1")]
            return [*found, value(await client.get_result("t1")), await client.health_check()]

    document = {"task_id": "t1", "status": "queued"}
    assert asyncio.run(main()) == ["t1", document, document, document, 3, document]


def test_the_patience_has_an_end() -> None:
    async def main() -> None:
        async with Script(refused()).async_client(patience=5) as client:
            await client.submit_task("digits", 1)

    with pytest.raises(ConnectionFailedError):
        asyncio.run(main())


def test_tasks_are_listed_over_all_pages() -> None:
    async def main() -> int:
        async with Script(_pages).async_client() as client:
            return len([task async for task in client.tasks()])

    assert asyncio.run(main()) == 250


def test_a_map_gives_results_in_order_and_draws_from_async_iterators() -> None:
    async def items() -> AsyncIterator[int]:
        for item in range(20):
            yield item

    async def main() -> list[Any]:
        async with Script(doubled).async_client() as client:
            return [value(result) async for result in client.map("double", items(), concurrency=3)]

    assert asyncio.run(main()) == [2 * item for item in range(20)]


def test_a_map_raises_the_first_failure_in_its_place() -> None:
    taken: list[Any] = []

    async def main() -> None:
        async with Script(failing_on_three).async_client() as client:
            async for result in client.map("double", range(10), concurrency=4):
                taken.append(result)  # noqa: PERF401 - what came before the failure counts

    with pytest.raises(TaskFailedError, match="three"):
        asyncio.run(main())
    assert len(taken) == 3


def test_a_map_may_give_failures_in_their_places() -> None:
    async def main() -> list[Any]:
        async with Script(failing_on_three).async_client() as client:
            return [value(each) async for each in client.map("double", range(5), return_errors=True)]

    assert asyncio.run(main()) == [0, 2, 4, TaskFailedError, 8]


def test_a_map_that_is_left_early_ends_what_is_under_way() -> None:
    async def main() -> tuple[int, int]:
        ended = 0

        async def reply(request: httpx.Request) -> httpx.Response:
            nonlocal ended
            if "first" in str(request.url) and ended == 0 and not under_way.is_set():
                under_way.set()
                return npy(1)
            try:
                await asyncio.Event().wait()
            finally:
                ended += 1
            raise AssertionError

        under_way = asyncio.Event()
        async with AsyncClient("http://server", transport=httpx.MockTransport(reply)) as client:
            async with aclosing(client.map("first", range(100), concurrency=4)) as results:
                await anext(results)
            return ended, len(asyncio.all_tasks())

    ended, tasks = asyncio.run(main())
    assert ended >= 3
    assert tasks == 1

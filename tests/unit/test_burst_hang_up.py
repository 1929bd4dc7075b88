"""Clients that hang up on a real socket: their tasks go with them, wherever the request stands."""

from __future__ import annotations

import asyncio

import pytest

from ndserve.types import TaskState
from tests.routes.test_hang_up import run
from tests.unit.listening import held, inference, listening

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.mark.parametrize("headers", ["", "Accept-Encoding: gzip\r\n"], ids=["past ASGI", "by ASGI"])
def test_a_client_that_hangs_up_takes_its_task_along(headers: str) -> None:
    async def main() -> None:
        async with listening() as (server, gate):
            async with server.connected() as client:
                task = await held(server, client, inference(1, "held", headers=headers))
                await asyncio.to_thread(gate.reached)
                ended = server.service.waiters.add(task.id)
            assert await ended
            assert task.state is TaskState.CANCELLED
            assert server.service.ledger.live == {}

    run(main())


def test_a_hang_up_is_seen_behind_a_large_body_and_behind_a_pipelined_request() -> None:
    async def main() -> None:
        async with listening() as (server, gate):
            for data in (inference(1, "held", headers="X-Pad: " + "x" * 60_000 + "\r\n"), inference(1, "held") + GET):
                async with server.connected() as client:
                    task = await held(server, client, data)
                    ended = server.service.waiters.add(task.id)
                assert await ended
                assert task.state is TaskState.CANCELLED
            gate.open()

    run(main())


def test_a_client_that_hangs_up_after_its_answer_cancels_nothing() -> None:
    async def main() -> None:
        async with listening() as (server, _):
            async with server.connected() as client:
                assert (await client.ask(inference(1))).value == 1
                gone = server.protocol.when_gone
            assert gone is None
            assert server.service.stats()["ended"]["cancelled"] == 0

    run(main())

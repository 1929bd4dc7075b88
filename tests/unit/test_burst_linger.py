"""Connections that end with an answer while the rest of a body is still coming: the answer is not lost."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from ndserve.burst import LINGER_SECONDS, Exchange
from ndserve.routes.asgi import Scope
from tests.routes.test_hang_up import run
from tests.unit.listening import Begin, Connection, Listening, begun, listening

LARGE = 20_000_000
"""Bytes of a body that no socket holds, so that the client can only send it all if somebody reads it."""

REFUSED = b"POST /v2/nothing HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % LARGE


def sent_whole(port: int) -> bytes:
    """What a client reads that sends all of its request first."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(10)
        client.sendall(REFUSED + bytes(LARGE))
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


async def refused(client: Connection, request: bytes = REFUSED) -> None:
    """Have a request answered of whose body nothing has come."""
    assert (await client.ask(request)).status == 404
    assert await client.rest() == b""


def handle(server: Listening) -> asyncio.TimerHandle:
    handle = server.protocol._lingering
    assert handle is not None
    return handle


def wire(server: Listening) -> asyncio.Transport:
    """The transport below the one that writes in bursts."""
    transport: asyncio.Transport = cast(Any, server.protocol.transport)._transport
    return transport


def gone(server: Listening) -> asyncio.Event:
    """Set once the connection is closed for good."""
    event = asyncio.Event()
    server.protocol.when_gone = event.set
    return event


def test_a_client_that_sends_all_of_its_body_before_it_reads_gets_the_answer() -> None:
    async def main() -> None:
        async with listening() as (server, _):
            answer = await asyncio.to_thread(sent_whole, server.port)
        assert answer.startswith(b"HTTP/1.1 404 ")

    run(main())


def test_what_comes_after_the_answer_is_no_request(caplog: pytest.LogCaptureFixture) -> None:
    log: list[bool] = []

    def ending(begin: Begin) -> Begin:
        """As a server that shuts down ends the connections whose clients would go on."""

        def last(scope: Scope, exchange: Exchange) -> bool:
            exchange._cycle.keep_alive = False
            return begun(log)(begin)(scope, exchange)

        return last

    async def main() -> None:
        async with listening(ending) as (server, _):
            async with server.connected() as client:
                await refused(client, REFUSED.replace(b"Connection: close\r\n", b""))
                lost = gone(server)
                client.send(bytes(LARGE) + b"GET /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n")
            await lost.wait()

    run(main())
    assert len(log) == 1
    assert caplog.messages == []


def test_a_client_that_never_ends_is_cut_off() -> None:
    async def main() -> None:
        async with listening() as (server, _), server.connected() as client:
            await refused(client)
            timer = handle(server)
            assert timer.when() - asyncio.get_running_loop().time() <= LINGER_SECONDS
            transport = wire(server)
            server.protocol.transport.close()  # as the timer does
            assert transport.is_closing()

    run(main())


def test_the_timer_goes_with_the_connection() -> None:
    async def main() -> None:
        async with listening() as (server, _):
            async with server.connected() as client:
                await refused(client)
                timer, lost = handle(server), gone(server)
            await lost.wait()
            assert timer.cancelled()

    run(main())


def test_a_connection_whose_body_has_arrived_is_closed_at_once() -> None:
    async def main() -> None:
        async with listening() as (server, _), server.connected() as client:
            transport = wire(server)
            assert (await client.ask(REFUSED.replace(b"%d" % LARGE, b"2") + b"ab")).status == 404
            assert transport.is_closing()

    run(main())

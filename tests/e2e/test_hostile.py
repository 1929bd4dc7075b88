"""Requests that no honest client sends leave the server serving."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.client import Connection, Pipe, connections, npy, run
from tests.e2e.running import RunningServer, serving

POST = b"POST /tasks/identity HTTP/1.1\r\nhost: test\r\n"


@pytest.fixture(scope="module")
def attacked() -> Iterator[RunningServer]:
    with serving() as running:
        yield running


async def check_serves(connection: Connection) -> None:
    """It runs a task and has none left over."""
    assert (await connection.call("POST", "/tasks/identity?wait=20", npy([1]))).array.tolist() == [1]
    health = (await connection.call("GET", "/health")).document
    assert (health["queue"]["live"], health["queue"]["bytes"]) == (0, 0)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\xff\x00\xff\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        POST + b"content-length: -5\r\n\r\n",
        POST + b"content-length: many\r\n\r\n",
        POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\nabc",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /tasks/%ff%fe HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ],
    ids=lambda request: repr(bytes(request[:12])),
)
def test_bad_http_is_refused_and_others_are_served(attacked: RunningServer, request_bytes: bytes) -> None:
    async def test() -> None:
        async with connections(attacked, 2) as (bad, good):
            bad.writer.write(request_bytes)
            bad.writer.write_eof()
            await bad.is_closed()
            await check_serves(good)

    run(test())


def test_a_body_that_is_cut_off_queues_nothing(attacked: RunningServer) -> None:
    async def test() -> None:
        async with connections(attacked, 2) as (bad, good):
            bad.writer.write(POST + b"content-length: 1000\r\n\r\n" + npy([1])[:50])
            await bad.writer.drain()
            bad.writer.close()
            await bad.writer.wait_closed()
            await check_serves(good)

    run(test())


def test_a_huge_declared_length_is_refused_before_the_body_comes(attacked: RunningServer) -> None:
    async def test() -> None:
        async with connections(attacked, 2) as (bad, good):
            bad.writer.write(POST + b"content-length: 999999999999999\r\n\r\n")
            answer = await bad.receive()
            assert (answer.status, answer.document["code"]) == (413, "body_too_large")
            await check_serves(good)

    run(test())


def test_bodies_that_trickle_hold_nobody_up(attacked: RunningServer) -> None:
    async def test() -> None:
        async with connections(attacked, 51) as (good, *slow):
            for connection in slow:
                connection.writer.write(POST + b"content-length: 1000\r\n\r\nx")
            await check_serves(good)

    run(test())


def test_requests_in_a_row_without_waiting_are_answered_in_order(attacked: RunningServer) -> None:
    async def test() -> None:
        async with connections(attacked, 1) as (connection,):
            for number in range(20):
                connection.send("POST", "/tasks/identity?wait=20", npy([number]))
            results = [(await connection.receive()).array.tolist() for _ in range(20)]
            assert results == [[number] for number in range(20)]

    run(test())


def test_clients_that_hang_up_while_they_wait_take_their_tasks_along(attacked: RunningServer, pipe: Pipe) -> None:
    async def test() -> None:
        async with connections(attacked, 2) as (holder, good):
            holder.send("POST", f"/tasks/fifo?wait=40&path={pipe.path}", npy([0]))
            await pipe.reached()
            async with connections(attacked, 100) as leaving:
                for connection in leaving:
                    connection.send("POST", "/tasks/identity?wait=40", npy([1]))
                await live_tasks(good, 101)
            await live_tasks(good, 1)
            pipe.release()
            assert (await holder.receive()).status == 200
            await check_serves(good)

    run(test())


async def live_tasks(connection: Connection, number: int) -> None:
    """Ask until that many tasks wait or run."""
    while (await connection.call("GET", "/health")).document["queue"]["live"] != number:
        pass

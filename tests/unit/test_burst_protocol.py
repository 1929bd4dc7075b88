"""Requests over a real socket: those that begin without a coroutine, those that do not, and both in one pipeline."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import Callable, Coroutine
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from ndserve.burst import Exchange
from ndserve.routes.asgi import Scope
from tests.routes.test_hang_up import run
from tests.unit.listening import Begin, Connection, begun, held, inference, listening

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n"
UNKNOWN = b"GET /v2/nothing HTTP/1.1\r\nHost: test\r\n\r\n"


def over_a_socket(test: Callable[[Connection], Coroutine[Any, Any, None]], *, direct: list[bool] | None = None) -> None:
    """Run a test with one connection; `direct` is what must have begun without a coroutine."""

    async def main() -> None:
        log: list[bool] = []
        async with listening(begun(log)) as (server, _), server.connected() as client:
            await test(client)
        if direct is not None:
            assert log == direct

    run(main())


def test_an_answer_past_asgi_is_http_to_the_byte() -> None:
    async def test(client: Connection) -> None:
        client.send(inference(2.5).replace(b"\r\nHost", b"\r\nConnection: keep-alive\r\nHost"))
        first = await client.answer()
        assert first.value == 2.5
        assert list(first.headers) == ["date", "content-type", "content-length", "inference-header-content-length"]
        assert first.headers["content-type"] == "application/octet-stream"
        assert parsedate_to_datetime(first.headers["date"]).tzinfo is not None
        assert (await client.ask(inference(3.5))).value == 3.5

    over_a_socket(test, direct=[True, True])


def test_a_refusal_past_asgi_is_http_too() -> None:
    async def test(client: Connection) -> None:
        answer = await client.ask(inference(1, "nothing"))
        assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
        assert answer.body.startswith(b'{"error":')
        assert (await client.ask(inference(3.5))).value == 3.5

    over_a_socket(test, direct=[True, True])


@pytest.mark.parametrize("request_bytes", [inference(7, headers="Connection: close\r\n"), inference(7, version="1.0")])
def test_a_connection_that_is_to_end_ends_behind_the_answer(request_bytes: bytes) -> None:
    async def test(client: Connection) -> None:
        answer = await client.ask(request_bytes)
        assert answer.value == 7
        assert answer.headers["connection"] == "close"
        assert await client.rest() == b""

    over_a_socket(test)


def test_an_answer_to_head_has_no_body() -> None:
    async def test(client: Connection) -> None:
        for path, status in ((b"/v2/models/identity/infer", 405), (b"/v2/health/live", 200), (b"/health", 200)):
            client.send(b"HEAD %b HTTP/1.1\r\nHost: test\r\n\r\n" % path + GET)
            assert (await client.answer(has_body=False)).status == status
            assert (await client.answer()).body == b'{"live":true}'

    over_a_socket(test)


def test_a_client_that_waits_for_100_is_told_to_go_on() -> None:
    async def test(client: Connection) -> None:
        head, end, body = inference(4, headers="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
        assert (await client.ask(head + end)).status == 100
        assert (await client.ask(body)).value == 4

    over_a_socket(test, direct=[False])


def test_a_body_that_arrives_in_pieces_is_put_together() -> None:
    async def test(client: Connection) -> None:
        data = inference(5)
        for start in range(0, len(data), 11):
            client.send(data[start : start + 11])
            await asyncio.sleep(0)
        assert (await client.answer()).value == 5

    over_a_socket(test)


def test_a_head_that_comes_before_its_body_begins_with_a_coroutine() -> None:
    """Without a turn between the two the server might see both at once; the refusal of another request tells."""

    async def test(client: Connection) -> None:
        head, end, body = inference(6).partition(b"\r\n\r\n")
        client.send(UNKNOWN + head + end)
        assert (await client.answer()).status == 404
        assert (await client.ask(body)).value == 6

    over_a_socket(test, direct=[True, False])  # the gate refuses on the spot


def test_a_thousand_requests_in_one_piece_are_answered_in_order() -> None:
    async def test(client: Connection) -> None:
        client.send(b"".join(inference(number) for number in range(1000)))
        assert [(await client.answer()).value for _ in range(1000)] == list(range(1000))

    over_a_socket(test, direct=[True] * 1000)


def test_a_thousand_refusals_in_one_piece_need_no_deep_stack() -> None:
    async def test(client: Connection) -> None:
        client.send(inference(1, "nothing") * 1000)
        assert {(await client.answer()).status for _ in range(1000)} == {404}

    over_a_socket(test, direct=[True] * 1000)


def test_a_pipeline_of_inferences_and_other_paths_is_answered_in_order() -> None:
    async def test(client: Connection) -> None:
        pieces = [(inference(n), GET, inference(n, "nothing"), UNKNOWN) for n in range(50)]
        client.send(b"".join(b"".join(piece) for piece in pieces))
        for number in range(50):
            assert (await client.answer()).value == number
            assert (await client.answer()).body == b'{"live":true}'
            assert [(await client.answer()).status for _ in range(2)] == [404, 404]

    over_a_socket(test, direct=[True, False, True, True] * 50)


def test_an_inference_that_asks_for_compression_goes_by_asgi() -> None:
    async def test(client: Connection) -> None:
        answer = await client.ask(inference(8, headers="Accept-Encoding: gzip, deflate\r\n"))
        assert answer.value == 8

    over_a_socket(test, direct=[False])


def test_an_answer_that_is_too_large_to_be_joined_is_sent_whole() -> None:
    async def main() -> None:
        def large(scope: Scope, exchange: Exchange) -> bool:
            exchange.reply((200, b"text/plain", (b"a", bytes(200_000), b"z"), ((b"x-mark", b"1"),), None))
            return True

        async with listening(lambda begin: large) as (server, _), server.connected() as client:
            for _ in range(2):
                answer = await client.ask(GET)
                assert answer.body == b"a" + bytes(200_000) + b"z"
                assert answer.headers["x-mark"] == "1"

    run(main())


def test_an_answer_that_cannot_be_sent_closes_the_connection() -> None:
    async def main() -> None:
        def broken(scope: Scope, exchange: Exchange) -> bool:
            exchange.reply((200, b"text/plain", (b"x",), ((b"a", b"1\n"),), None))
            return True

        async with listening(lambda begin: broken) as (server, _), server.connected() as client:
            client.send(GET)
            assert await client.rest() == b""

    run(main())


@pytest.mark.parametrize("value", [b"1\r\nset-cookie: a=b", b"1\n", b"\r1"])
def test_a_header_with_a_line_break_is_never_written(value: bytes) -> None:
    async def main() -> None:
        written: list[bool] = []

        def around(begin: Begin) -> Begin:
            def broken(scope: Scope, exchange: Exchange) -> bool:
                written.append(exchange.answer(200, b"text/plain", (b"x",), ((b"a", value),)))
                return False

            return broken

        async with listening(around) as (server, _), server.connected() as client:
            answer = await client.ask(GET)
            assert written == [False]
            assert (answer.body, "a" in answer.headers) == (b'{"live":true}', False)

    run(main())


def test_an_answer_is_written_once() -> None:
    async def main() -> None:
        written: list[bool] = []

        def twice(scope: Scope, exchange: Exchange) -> bool:
            written.extend(exchange.answer(200, b"text/plain", (b"x",), ()) for _ in range(2))
            return True

        async with listening(lambda begin: twice) as (server, _), server.connected() as client:
            assert (await client.ask(GET)).body == b"x"
            assert (await client.ask(GET)).body == b"x"
            assert written == [True, False] * 2

    run(main())


def test_a_length_that_no_number_has_costs_nobody_else_an_answer() -> None:
    async def test(client: Connection) -> None:
        good = inference(3)
        length = re.search(rb"Content-Length: (\d+)", good)
        assert length is not None
        evil = good.replace(length[0], b"Content-Length: " + b"0" * 5000 + length[1])
        client.send(good + evil + good)
        assert (await client.answer()).value == 3
        assert (await client.answer()).status == 400
        assert (await client.answer()).value == 3

    over_a_socket(test)


def test_a_request_that_asks_for_another_protocol_with_a_body_is_refused_and_nothing_is_read_behind_it() -> None:
    async def test(client: Connection) -> None:
        client.send(inference(1, headers="Connection: Upgrade\r\nUpgrade: h2c\r\n") + GET)
        answer = await client.answer()
        assert answer.status == 400
        assert b"Upgrade" in answer.body
        assert await client.rest() == b""

    over_a_socket(test)


def test_a_server_that_ends_answers_an_inference_that_has_begun() -> None:
    async def main() -> None:
        async with listening() as (server, gate), server.connected() as client:
            await held(server, client, inference(1, "held"))
            await asyncio.to_thread(gate.reached)
            await server.service.drain(0)
            answer = await client.answer()
            assert answer.status == 503
            assert re.search(rb"shut", answer.body)

    run(main())


def test_an_idle_connection_is_closed_once_its_time_is_over_and_not_before() -> None:
    async def main() -> None:
        async with listening() as (server, _), server.connected() as client:
            await client.ask(inference(1))
            protocol, timer = server.protocol, server.protocol.timeout_keep_alive_task
            assert timer is not None
            protocol.timeout_keep_alive_handler()
            assert not protocol.transport.is_closing()
            assert protocol.timeout_keep_alive_task is not None
            assert protocol._idle_since is not None
            protocol._idle_since -= 76
            protocol.timeout_keep_alive_handler()
            assert await client.rest() == b""
            timer.cancel()

    run(main())


def test_a_connection_whose_inference_runs_is_not_closed_however_old_it_is() -> None:
    async def main() -> None:
        async with listening() as (server, gate), server.connected() as client:
            await client.ask(inference(1))
            await held(server, client, inference(2, "held"))
            protocol = server.protocol
            assert protocol._idle_since is None
            protocol.timeout_keep_alive_handler()
            assert not protocol.transport.is_closing()
            gate.open()
            assert (await client.answer()).value == 2

    run(main())


@pytest.mark.parametrize("request_bytes", [inference(1), inference(1, "nothing"), GET])
def test_nothing_of_an_answered_request_waits_for_the_garbage_collector(request_bytes: bytes) -> None:
    async def main() -> None:
        seen: list[weakref.ref[Any]] = []

        def around(begin: Begin) -> Begin:
            def noting(scope: Scope, exchange: Exchange) -> bool:
                seen.append(weakref.ref(exchange._cycle))
                return begin(scope, exchange)

            return noting

        async with listening(around) as (server, _), server.connected() as client:
            gc.disable()
            try:
                for _ in range(3):
                    await client.ask(request_bytes)
                # The connection itself keeps the last one.
                assert [ref() is None for ref in seen] == [True, True, False]
            finally:
                gc.enable()

    run(main())

"""Connections that really break: a server of a few lines, behind a socket of 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest

from ndserve.client import AsyncClient, Client, ConnectionFailedError
from ndserve.client.retry import Timing
from tests.unit.client.fakes import npy

HANG = 30
Manner = Callable[[socket.socket], None]


def answering(connection: socket.socket) -> None:
    body = npy(7).content
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/x-npy\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def silent(connection: socket.socket) -> None:
    """The connection is closed without an answer."""


def reset(connection: socket.socket) -> None:
    """The server's machine has forgotten the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def cut_off(connection: socket.socket) -> None:
    """The server ends in the middle of its answer."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-npy\r\ncontent-length: 136\r\n\r\n\x93NUM")


class Server:
    """Treats each request in the next manner; the last one stays. `keys` are those of the requests."""

    def __init__(self, *manners: Manner) -> None:
        self.keys: list[str] = []
        self._manners = list(manners)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Begin, or begin again on the same port."""
        if self._listening.fileno() < 0:
            self._listening = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._listening)

    def stop(self) -> None:
        if self._listening.fileno() >= 0:
            # A thread in accept() does not notice a close.
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        for thread in self._threads:
            thread.join(HANG)

    def _start(self, work: Callable[[socket.socket], None], connection: socket.socket) -> None:
        thread = threading.Thread(target=work, args=(connection,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self._start(self._treat, connection)

    def _treat(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as received:
            headers: dict[str, str] = {}
            for line in iter(received.readline, b"\r\n"):
                if not line:
                    return
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            received.read(int(headers.get("content-length", 0)))
            self.keys.append(headers.get("idempotency-key", ""))
            manner = self._manners.pop(0) if len(self._manners) > 1 else self._manners[0]
            manner(connection)


@contextmanager
def serving(*manners: Manner) -> Iterator[Server]:
    server = Server(*manners)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def timing(on_wait: Callable[[], Any] = lambda: None) -> Timing:
    """Waits without waiting, and does something else meanwhile."""

    async def sleep(seconds: float) -> None:
        on_wait()

    return Timing(wait=lambda stop, seconds: on_wait(), sleep=sleep)


@pytest.mark.parametrize("manner", [silent, reset, cut_off])
def test_a_request_whose_answer_is_lost_is_sent_again_with_its_key(manner: Manner) -> None:
    with serving(manner, manner, answering) as server, Client(server.url, timing=timing()) as client:
        assert isinstance(result := client.run("digits", [1]), np.ndarray)
        assert result.item() == 7
    assert len(server.keys) == 3
    assert len(set(server.keys)) == 1


@pytest.mark.parametrize("manner", [silent, reset, cut_off])
def test_the_async_client_sends_it_again_as_well(manner: Manner) -> None:
    async def main(url: str) -> Any:
        async with AsyncClient(url, timing=timing()) as client:
            return await client.run("digits", [1])

    with serving(manner, answering) as server:
        assert asyncio.run(main(server.url)).item() == 7
    assert len(set(server.keys)) == 1


def test_a_server_that_is_killed_and_started_again_gets_the_same_task() -> None:
    waits = 0

    def restart() -> None:
        nonlocal waits
        waits += 1
        if waits == 1:
            server.stop()
        if waits == 5:
            server.start()

    with serving(silent, answering) as server, Client(server.url, timing=timing(restart)) as client:
        client.run("digits", [1])
    assert waits == 5
    assert len(server.keys) == 2
    assert len(set(server.keys)) == 1


def test_a_port_where_nobody_listens_is_named_in_the_error() -> None:
    with serving(silent) as server:
        pass
    with Client(server.url, patience=0) as client, pytest.raises(ConnectionFailedError, match=server.url):
        client.health_check()


def test_a_connection_that_the_server_has_closed_meanwhile_does_no_harm() -> None:
    with serving(answering) as server, Client(server.url, timing=timing()) as client:
        for _ in range(3):
            client.run("digits", [1])
    assert len(set(server.keys)) == 3


def test_a_map_that_is_left_early_does_not_wait_for_answers() -> None:
    asked = threading.Semaphore(0)
    answered, left = threading.Event(), threading.Event()

    def first(connection: socket.socket) -> None:
        answering(connection)
        answered.set()

    def items() -> Iterator[int]:
        yield 0
        assert answered.wait(HANG)
        yield from range(1, 9)

    def holding(connection: socket.socket) -> None:
        asked.release()
        assert left.wait(HANG)

    with serving(first, holding) as server, Client(server.url) as client:
        with closing(client.map("digits", items(), concurrency=3)) as results:
            next(results)
            assert asked.acquire(timeout=HANG)
        # Had the map waited for its threads' answers, it would wait still.
        assert not [each for each in threading.enumerate() if each.name.startswith("ndserve-map")]
        left.set()


def test_no_proxy_is_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with serving(answering) as server, Client(server.url, patience=0) as client:
        assert client.run("digits", [1]) is not None

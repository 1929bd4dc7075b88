"""Receivers on this machine, names that lead where a test says, and a network that only notes."""

from __future__ import annotations

import asyncio
import gc
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpcore2
import pytest

from ndserve.webhooks import Guard, Secret, Sender

HANG = 10.0
NAME = "hook.example"
PUBLIC = "93.184.216.34"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

T = TypeVar("T")
Receive = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine, and fail where it leaves a connection or a task behind."""

    async def guarded() -> T:
        async with asyncio.timeout(HANG):
            result = await main
        this = asyncio.current_task()
        for _ in range(5):  # a transport that was closed lets its socket go in a later turn
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {this}
        return result

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        result = asyncio.run(guarded())
        gc.collect()
    assert [str(entry.message) for entry in caught] == []
    return result


class Receiver:
    """A server on 127.0.0.1 that notes what it is sent, and gives each request the same answer."""

    def __init__(self, answer: bytes = OK, then: Receive | None = None) -> None:
        """`then` is what it does after the answer, where that is not to close."""
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._answer = answer
        self._then = then
        self._busy: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)

    @property
    def headers(self) -> dict[str, str]:
        """Those of the only request, by their names in lower case."""
        (request,) = self.requests
        lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        pairs = [line.split(": ", 1) for line in lines]
        assert len({name.lower() for name, _ in pairs}) == len(pairs)
        return {name.lower(): value for name, value in pairs}

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self.requests.append(head + await reader.readexactly(length))
            writer.write(self._answer)
            await writer.drain()
            if self._then is not None:
                await self._then(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Names:
    """A resolver that gives its answers in turn, the last one again and again, and counts."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


HERE = Names(["127.0.0.1"])


class Line(httpcore2.AsyncMockStream):
    """A connection of `Network`: gives one answer, and notes for which name TLS was begun."""

    def __init__(self, network: Network) -> None:
        super().__init__([OK])
        self._network = network

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore calls it so
    ) -> httpcore2.AsyncNetworkStream:
        self._network.tls.append((server_hostname, ssl_context))
        return self


class Network(httpcore2.AsyncNetworkBackend):
    """Notes the addresses that are connected to; those in `dead` refuse, and the rest answer 200."""

    def __init__(self, *dead: str) -> None:
        self.connected: list[tuple[str, int]] = []
        self.tls: list[tuple[str | None, ssl.SSLContext]] = []
        self._dead = dead

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore calls it so
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.connected.append((host, port))
        if host in self._dead:
            raise httpcore2.ConnectError(f"{host} does not answer")
        return Line(self)


def network(monkeypatch: pytest.MonkeyPatch, *dead: str) -> Network:
    """A `Network` in the place of the real one, for every sender that is made from now on."""
    instead = Network(*dead)
    monkeypatch.setattr(httpcore2, "AnyIOBackend", lambda: instead)
    return instead


@asynccontextmanager
async def a_sender(*allowed: str, names: Names = HERE, timeout: float = 5.0) -> AsyncIterator[Sender]:  # noqa: ASYNC109
    sender = Sender(Guard(allowed), Secret(SECRET), version="1.2.3", timeout=timeout, resolve=names)
    try:
        yield sender
    finally:
        await sender.aclose()

"""A server on a socket in the test's own event loop, and a client that sees every byte."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import numpy as np
import uvicorn

from ndserve.burst import BurstProtocol, Exchange, burst_protocol
from ndserve.engine.service import InferenceService
from ndserve.main import create_app
from ndserve.routes.app import App
from ndserve.routes.asgi import Scope
from ndserve.settings import Settings
from tests.routes.bodies import PROCESSES
from tests.routes.gates import Gate

Begin = Callable[[Scope, Exchange], bool]


class Answer(NamedTuple):
    """One answer, as its bytes say; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> float:
        """The only number of an inference's binary output."""
        assert self.status == 200, self.body
        (number,) = np.frombuffer(self.body[int(self.headers["inference-header-content-length"]) :], np.float32)
        return float(number)


class Connection:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self, *, has_body: bool = True) -> Answer:
        """The next answer, which must be as HTTP/1.1 has it."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head[:-4].decode("ascii").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), "a header comes twice"
        length = int(headers["content-length"]) if has_body and status != "100" else 0
        return Answer(int(status), headers, await self._reader.readexactly(length))

    async def ask(self, data: bytes) -> Answer:
        self.send(data)
        return await self.answer()

    async def rest(self) -> bytes:
        """What comes until the server closes the connection."""
        return await self._reader.read()

    async def hang_up(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


class Listening:
    """A server that listens."""

    def __init__(self, app: App, server: uvicorn.Server, port: int) -> None:
        self.service: InferenceService = app.state.service
        self._server = server
        self.port = port

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        try:
            yield connection
        finally:
            await connection.hang_up()

    @property
    def protocol(self) -> BurstProtocol:
        """The server's side of the only connection."""
        (protocol,) = self._server.server_state.connections
        assert isinstance(protocol, BurstProtocol)
        return protocol


def begun(log: list[bool]) -> Callable[[Begin], Begin]:
    """Notes of each request whether it has begun without a coroutine."""

    def around(begin: Begin) -> Begin:
        def noting(scope: Scope, exchange: Exchange) -> bool:
            log.append(begin(scope, exchange))
            return log[-1]

        return noting

    return around


@asynccontextmanager
async def listening(around: Callable[[Begin], Begin] = lambda begin: begin) -> AsyncIterator[tuple[Listening, Gate]]:
    """A server as `ndserve serve` configures it; `around` may put something around what begins its requests."""
    app = create_app(Settings(device="cpu", store="memory", processes=PROCESSES))
    gate = Gate()
    config = uvicorn.Config(
        app,
        http=burst_protocol(around(app.begin)),
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.startup([listener])
        await server.on_tick(0)  # which makes the date
        try:
            yield Listening(app, server, listener.getsockname()[1]), gate
        finally:
            gate.open()
            await server.shutdown([listener])


def inference(number: float, model: str = "identity", *, version: str = "1.1", headers: str = "") -> bytes:
    """The request for one number, in binary both ways."""
    entry: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    body = head + np.float32(number).tobytes()
    lines = f"POST /v2/models/{model}/infer HTTP/{version}\r\nHost: test\r\nContent-Length: {len(body)}\r\n{headers}"
    return f"{lines}Inference-Header-Content-Length: {len(head)}\r\n\r\n".encode() + body


async def held(server: Listening, client: Connection, request: bytes) -> Any:
    """The task of a request that stands at the gate or waits behind one that does."""
    known = set(server.service.ledger.live)
    added = asyncio.get_running_loop().create_future()
    add = server.service.ledger.add

    def noting(task: Any) -> None:
        add(task)
        if task.id not in known and not added.done():
            added.set_result(task)

    server.service.ledger.add = noting  # type: ignore[method-assign]
    client.send(request)
    task = await added
    server.service.ledger.add = add  # type: ignore[method-assign]
    return task

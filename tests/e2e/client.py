"""A small HTTP client over asyncio streams, light enough to have hundreds of them; and a pipe that holds a process."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ndserve.types import HostArray
from tests.e2e.running import RunningServer

T = TypeVar("T")


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def array(self) -> HostArray:
        assert self.status == 200, self.body
        array: HostArray = np.load(io.BytesIO(self.body), allow_pickle=False)
        return array

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


class Connection:
    """One keep-alive connection. `send` and `receive` may be apart, so that many requests are under way at once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def call(self, method: str, target: str, body: bytes = b"") -> Answer:
        self.send(method, target, body)
        return await self.receive()

    def send(self, method: str, target: str, body: bytes = b"") -> None:
        head = f"{method} {target} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
        self.writer.write(head.encode() + body)

    async def receive(self) -> Answer:
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return Answer(int(head.split(b" ", 2)[1]), await self._reader.readexactly(length))

    async def submit(self, target: str, array: Any) -> str:
        """The id of the accepted task."""
        answer = await self.call("POST", target, npy(array))
        assert answer.status == 202, answer.body
        task_id: str = answer.document["task_id"]
        return task_id

    async def is_closed(self) -> bool:
        """True once the server has closed this connection; what it still sends is read past."""
        while await self._reader.read(65536):
            pass
        return True


@asynccontextmanager
async def connections(server: RunningServer, number: int) -> AsyncIterator[list[Connection]]:
    opened = [Connection(*await asyncio.open_connection(server.host, server.port)) for _ in range(number)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.writer.transport.abort()
        await asyncio.sleep(0)


class Pipe:
    """A named pipe at which the sample process `fifo` stands still. Opening it waits until the process is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = -1
        os.mkfifo(path)

    async def reached(self) -> None:
        """Wait until the process stands at it."""
        self._writer = await asyncio.to_thread(os.open, self.path, os.O_WRONLY)

    def release(self) -> None:
        """Let the process go; also when it has gone already."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, np.asarray(array), allow_pickle=False)
    return body.getvalue()


def run(test: Coroutine[Any, Any, T], seconds: float = 50.0) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await test

    return asyncio.run(bounded())

"""A closed-loop load: every connection sends its next request when the last one is answered.

Run as a process of its own (`python -m benchmarks.load`), so that its work is not counted as the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
TASK_ID = re.compile(rb'"task_id": ?"([^"]+)"')

Next = Callable[[bytes, bytes], tuple[bytes, bool]]
"""From an answer's head and body to the next request, and whether that answer ended one unit of work."""


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/x-npy\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode()


def expect_ok(head: bytes, status: bytes) -> None:
    if head[9:12] not in status.split():
        raise RuntimeError(f"unexpected answer: {head[:200].decode(errors='replace')}")


def call(request: bytes) -> Next:
    """One request a unit."""

    def step(head: bytes, body: bytes) -> tuple[bytes, bool]:
        expect_ok(head, b"200")
        return request, True

    return step


def submit_and_fetch(request: bytes, result: str) -> Next:
    """Submit, and then fetch by id until it is there: two requests a unit, or more. `result` has {} for the id."""

    def step(head: bytes, body: bytes) -> tuple[bytes, bool]:
        expect_ok(head, b"200 202")
        accepted = TASK_ID.search(body)  # in the answer to a submit, and to a fetch that came too early
        return (request, True) if accepted is None else (get(result.format(accepted[1].decode())), False)

    return step


class Connection(asyncio.Protocol):
    """One connection; counts the units that end before `deadline`."""

    def __init__(self, first: bytes, step: Next, deadline: float, done: asyncio.Future[None]) -> None:
        self.units = 0
        self._first, self._step, self._deadline, self._done = first, step, deadline, done
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has no common base class with asyncio's
        self._transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[: end + 2])
        length = LENGTH.search(head)
        size = int(length[1]) if length else 0
        if len(self._buffer) < end + 4 + size:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + size])
        self._buffer.clear()
        assert self._transport is not None
        try:
            request, ended = self._step(head, body)
        except RuntimeError as error:
            self._done.set_exception(error)
            self._transport.close()
            return
        self.units += ended
        if ended and time.monotonic() > self._deadline:
            self._transport.close()
        else:
            self._transport.write(request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def run(port: int, connections: int, seconds: float, first: bytes, make_step: Callable[[], Next]) -> float:
    """Units a second."""
    loop = asyncio.get_running_loop()
    start = time.monotonic()
    clients = []
    for _ in range(connections):
        done = loop.create_future()
        _, client = await loop.create_connection(
            lambda done=done: Connection(first, make_step(), start + seconds, done), "127.0.0.1", port
        )
        clients.append((client, done))
    async with asyncio.timeout(seconds + 30):
        await asyncio.gather(*(done for _, done in clients))
    return sum(client.units for client, _ in clients) / (time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--path", required=True, help="what to POST to")
    parser.add_argument("--body", type=Path, required=True, help="file with the body")
    parser.add_argument("--result", help="path of the result with {} for the id: makes a unit of submit and fetch")
    options = parser.parse_args()
    first = post(options.path, options.body.read_bytes())

    def make_step() -> Next:
        return submit_and_fetch(first, options.result) if options.result else call(first)

    rate = uvloop.run(run(options.port, options.connections, options.seconds, first, make_step))
    print(json.dumps({"rate": rate}))


if __name__ == "__main__":
    main()

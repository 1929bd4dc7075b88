"""uvicorn's HTTP protocol, with the answers of one turn of the event loop leaving in one burst.

uvicorn writes each head and each body by itself, as soon as it has it. A batch of results then becomes dozens of
system calls with Python between them, and each one wakes a client that had just gone to sleep. Here every write
waits for the end of the loop's turn: head and body leave together, and one answer right behind the other.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

JOINED = 64 * 1024
"""Up to this size an answer is held and joined; what is larger is cheaper to write apart."""


class Burst:
    """The transports that have something to write at the end of this turn."""

    def __init__(self) -> None:
        self._transports: list[BurstTransport] = []

    def add(self, transport: BurstTransport) -> None:
        if not self._transports:
            asyncio.get_running_loop().call_soon(self._flush)
        self._transports.append(transport)

    def _flush(self) -> None:
        transports, self._transports = self._transports, []
        for transport in transports:
            transport.flush()


class BurstTransport:
    """A transport that writes at the end of the turn. Everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, burst: Burst) -> None:
        self._transport = transport
        self._burst = burst
        self._held = b""
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes | bytearray | memoryview) -> None:
        held = self._held
        if len(held) + len(data) > JOINED:
            # Straight on, so that the transport says when the client is too slow.
            self.flush()
            self._transport.write(data)
        elif held:
            self._held = held + data
        else:
            self._held = bytes(data)
            self._burst.add(self)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Write what is held; nothing where that has happened already."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def burst_protocol() -> type[HttpToolsProtocol]:
    """The protocol to give to one server as `uvicorn.Config(http=...)`."""
    burst = Burst()

    class BurstProtocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(cast(asyncio.Transport, BurstTransport(transport, burst)))

    return BurstProtocol

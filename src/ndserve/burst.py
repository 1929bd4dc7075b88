"""uvicorn's HTTP protocol, with the answers of one turn of the event loop leaving in one burst.

uvicorn writes each head and each body by itself, as soon as it has it. A batch of results then becomes dozens of
system calls with Python between them, and each one wakes a client that had just gone to sleep. Here every write
waits for the end of the loop's turn: head and body leave together, and one answer right behind the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ndserve.routes.answers import send_answer
from ndserve.routes.asgi import Answer, Scope, Send
from ndserve.routes.front import EXCHANGE

Header: TypeAlias = tuple[bytes, bytes]

logger = logging.getLogger(__name__)

JOINED = 64 * 1024
"""Up to this size an answer is held and joined; what is larger is cheaper to write apart."""

LINGER_SECONDS = 30.0
"""How long the rest of a body is thrown away whose request has been answered with the end of the connection."""

_BODY_HEADERS = (b"content-length", b"transfer-encoding")


class Burst:
    """The transports that have something to write at the end of this turn."""

    def __init__(self) -> None:
        self._transports: list[BurstTransport] = []
        self._usual: tuple[Sequence[Header], bytes] = ((), b"")

    def usual(self, headers: Sequence[Header]) -> bytes:
        """The lines of the headers that every answer has. uvicorn makes a new list of them once a second."""
        if self._usual[0] is not headers:
            self._usual = headers, b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._usual[1]

    def add(self, transport: BurstTransport) -> None:
        if not self._transports:
            asyncio.get_running_loop().call_soon(self._flush)
        self._transports.append(transport)

    def _flush(self) -> None:
        transports, self._transports = self._transports, []
        for transport in transports:
            try:
                transport.flush()
            except Exception:  # of one connection; the others are still to be written to
                logger.exception("a connection could not be written to")


class BurstTransport:
    """A transport that writes at the end of the turn. Everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, burst: Burst, lingers: Callable[[], bool] = lambda: False) -> None:
        """`lingers` is asked before a close: whether the client is to be heard out, and this side alone is to end."""
        self._transport = transport
        self._burst = burst
        self._lingers = lingers
        self._held = b""
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes | bytearray | memoryview) -> None:
        held = self._held
        if len(held) + len(data) > JOINED:
            # Straight on, so that the transport says when the client is too slow.
            self.flush()
            if not self._transport.is_closing():
                self._transport.write(data)
        elif held:
            self._held = held + data
        else:
            self._held = bytes(data)
            self._burst.add(self)

    def close(self) -> None:
        self.flush()
        if self._lingers():
            self.is_closing = _closing
            self._transport.write_eof()
        else:
            self._transport.close()

    def flush(self) -> None:
        """Write what is held; nothing where that has happened already."""
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():  # uvloop takes no writes to a connection that was reset
            self._transport.write(held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _closing() -> bool:
    return True


class Exchange:
    """A request and its answer past ASGI's messages, for routes that read whole bodies and write whole answers.

    They find it in the scope as `EXCHANGE`. Each of the messages costs a coroutine and a dictionary, and uvicorn looks
    at every header of an answer by regular expression: together a fifth of a small request.
    """

    __slots__ = ("_body", "_cycle", "_protocol", "passed")

    def __init__(self, cycle: RequestResponseCycle, protocol: BurstProtocol) -> None:
        self.passed = False
        self._body: bytes | None = None
        self._cycle = cycle
        self._protocol = protocol

    def body(self) -> bytes | None:
        """The request's body if all of it has arrived; None leaves it to `receive`."""
        cycle = self._cycle
        if self._body is None:
            if cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue:
                return None
            self._body, cycle.body = bytes(cycle.body), bytearray()  # held once
            cycle.message_event.clear()
            if cycle.flow.read_paused:  # by a large body; a hang-up must be seen
                cycle.flow.resume_reading()
        return self._body

    def answer(
        self, status: int, content_type: bytes, chunks: Sequence[bytes | memoryview], headers: Sequence[Header]
    ) -> bool:
        """Write the whole answer. False, and nothing is written, where that is for `send` to do."""
        cycle = self._cycle
        length = sum(map(len, chunks))
        if (
            cycle.response_started
            or cycle.disconnected
            or not cycle.keep_alive
            or cycle.access_log
            or length > JOINED
            or cycle.flow.write_paused
            or cycle.scope["method"] == "HEAD"
        ):
            return False
        pieces: list[bytes | memoryview] = [STATUS_LINE[status], self._protocol.burst.usual(cycle.default_headers)]
        pieces += b"content-type: ", content_type, b"\r\ncontent-length: %d\r\n" % length
        for name, value in headers:
            if b"\n" in value or b"\r" in value:
                return False  # uvicorn refuses it
            pieces += name, b": ", value, b"\r\n"
        pieces += b"\r\n", *chunks
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(b"".join(pieces))
        cycle.message_event.set()
        cycle.on_response()
        return True

    def reply(self, answer: Answer) -> None:
        """Write an answer, or send it on a task of its own."""
        if not self.answer(*answer[:4]):
            self._protocol.spawn(self._send(answer))

    async def _send(self, answer: Answer) -> None:
        try:
            await send_answer(answer, cast(Send, self._cycle.send))
        except Exception:  # the client must not wait for the rest
            logger.exception("an answer could not be sent")
            self._cycle.transport.close()

    def when_gone(self, call: Callable[[], object]) -> None:
        """Call this if the client hangs up before the answer."""
        self._protocol.when_gone = call


class BurstProtocol(HttpToolsProtocol):
    """uvicorn's, with the burst, exchanges, and requests that begin without a coroutine."""

    burst: Burst
    begin: Callable[[Scope, Exchange], bool]
    """Begins to answer a request whose body may have arrived; False leaves it to the application."""

    when_gone: Callable[[], object] | None = None
    _idle_since: float | None = None
    """When the last answer left, while no request has come since; by the loop's clock."""

    _running: RequestResponseCycle | None = None
    """The request that is being answered; behind it others may have come."""

    _next: tuple[RequestResponseCycle, ASGI3Application] | None = None
    _starting = False
    _lingering: asyncio.TimerHandle | None = None
    """When the connection is closed for good, once all has been said and the rest of a body is still coming."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, BurstTransport(transport, self.burst, self._lingers)))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self._lingering is not None:
            self._lingering.cancel()
        if self.when_gone is not None:
            self.when_gone()

    def _lingers(self) -> bool:
        # A client that sends all of its body before it reads would never see why it was refused: the system resets a
        # connection that is closed with something unread (https://www.rfc-editor.org/rfc/rfc9112#section-9.6).
        cycle = cast(RequestResponseCycle | None, self.cycle)  # None before the first request
        if self._lingering is not None or cycle is None or not (cycle.response_complete and cycle.more_body):
            return False
        if not self.transport.can_write_eof():
            return False  # TLS cannot
        self._lingering = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        self.flow.resume_reading()
        return True

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            return
        # A request begins only when all of the data has been read: then its body has mostly arrived.
        self._starting = True
        try:
            super().data_received(data)
        finally:
            self._starting = False
        if self._next is not None:
            self._start_next()

    def _unsupported_upgrade_warning(self) -> None:
        # Called where the parser has stopped, for it takes no body of a request that asks for another protocol: what
        # comes next would be taken for a request. HTTP/2 in cleartext is asked for so.
        if any(name in _BODY_HEADERS for name, _ in self.headers):
            self._next = None
            self.send_400_response("Upgrade is not supported on a request with a body; send it as plain HTTP/1.1")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that the server's end waits for."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._next = cycle, app
        if not self._starting:
            self._start_next()

    def _start_next(self) -> None:
        # In a loop, because a request that is answered on the spot makes way for the next of its pipeline, and a client
        # may send a thousand of them in one piece.
        self._starting = True
        try:
            while self._next is not None:
                (cycle, app), self._next = self._next, None
                self._running = cycle
                exchange = Exchange(cycle, self)
                if app is not self.app or not self.begin(cast(Scope, cycle.scope), exchange):
                    cycle.scope[EXCHANGE] = exchange  # type: ignore[literal-required]
                    super()._start_asgi_task(cycle, app)
        finally:
            self._starting = False

    # uvicorn sets a timer after each answer and cancels it with the next request. Here one timer a connection looks
    # from time to time whether the connection has been idle for long enough.

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def on_response_complete(self) -> None:
        self.when_gone = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_after(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is not None:
            left = self._idle_since + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._look_after(left)
            else:
                super().timeout_keep_alive_handler()

    def _look_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)


def burst_protocol(begins: Callable[[Scope, Exchange], bool]) -> type[HttpToolsProtocol]:
    """The protocol to give to one server as `uvicorn.Config(http=...)`; `begins` is its `BurstProtocol.begin`."""

    class ServerProtocol(BurstProtocol):
        burst = Burst()
        begin = staticmethod(begins)

    return ServerProtocol

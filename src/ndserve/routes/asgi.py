"""The few lines of ASGI that the hot routes need (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar
from urllib.parse import parse_qsl

from ndserve.codecs.base import Buffer
from ndserve.errors import BodyTooLargeError, InvalidParameterError, MalformedBodyError
from ndserve.routes.compression import inflate
from ndserve.types import Task

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

MAX_QUERY_PARAMETERS = 64


def path_of(scope: Scope) -> str:
    """The path of a request, as the routes see it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path


class ClientGoneError(Exception):
    """The client hung up: nobody is left to answer."""


Answer: TypeAlias = tuple[int, bytes, tuple[bytes | memoryview, ...], Sequence[tuple[bytes, bytes]], Task | None]
"""Status, Content-Type, body, further headers, and the task whose outcome it delivers, if any."""


class Exchange(Protocol):
    """A server's own short way to read a body that has arrived, and to write a whole answer.

    `passed` is set once the gate has let the request in.
    """

    passed: bool

    def body(self) -> bytes | None:
        """The whole body; None where it has to be received."""
        ...

    def answer(
        self,
        status: int,
        content_type: bytes,
        chunks: Sequence[bytes | memoryview],
        headers: Sequence[tuple[bytes, bytes]],
    ) -> bool:
        """Write it; False where it has to be sent."""
        ...

    def reply(self, answer: Answer) -> None:
        """Write it, or send it on a task of its own."""
        ...

    def when_gone(self, call: Callable[[], object]) -> None:
        """Call this if the client hangs up before the answer."""
        ...


class Call(NamedTuple):
    """One request, as the handlers need it. Header names are in lower case."""

    receive: Receive
    headers: dict[bytes, bytes]
    query: bytes
    root: str
    exchange: Exchange | None = None

    @property
    def content_type(self) -> str:
        return self.headers.get(b"content-type", b"").decode("latin1")

    @property
    def accept(self) -> str:
        return self.headers.get(b"accept", b"").decode("latin1")

    def location(self, task_id: str) -> Headers:
        """The header that says where the result of a task will be."""
        return [(b"location", f"{self.root}/result/{task_id}".encode())]


Handler: TypeAlias = Callable[[Call, Any], Awaitable[Answer]]

Found: TypeAlias = tuple[Mapping[str, Handler], Any]
"""The handlers of a path by method, and what else the path says, for the handler."""


T = TypeVar("T")

SMALL = 4096
"""A body up to this size is read without asking for room first; the submit asks."""

MAX_DIGITS = 18
"""Digits of a length that is still less than any memory; Python refuses to read thousands of them."""

INFLATING = 2
"""Compressed bodies that are unpacked at a time, for each may grow a thousandfold."""

SMALL_DIGITS = 3
"""Digits of a Content-Length that is below `SMALL`."""


class Intake:
    """Reads request bodies, one bound for each and one for all that are arriving together."""

    def __init__(self, max_body_bytes: int, check_room: Callable[[int], None]) -> None:
        """`check_room` raises where there is no room for that many bytes more."""
        self.max_body_bytes = max_body_bytes
        self._check_room = check_room
        self._arriving = 0
        self._inflating = asyncio.Semaphore(INFLATING)

    def at_hand(self, headers: Mapping[bytes, bytes], exchange: Exchange | None) -> bytes | None:
        """A body that has arrived already; None leaves it to `read`.

        Raises:
            NdserveError: as for `expect`.
        """
        declared = headers.get(b"content-length")
        if declared is None or exchange is None:
            return None
        if len(declared) > SMALL_DIGITS:
            self.expect(declared)
        return exchange.body()

    async def read(self, call: Call) -> bytes | bytearray:
        """The whole body of a request.

        Raises:
            ClientGoneError: the client hung up in the middle.
            NdserveError: as for `expect`, `whole` and `rest`.
        """
        declared = call.headers.get(b"content-length")
        if declared is not None:
            self.expect(declared)
        if call.exchange is not None:
            body = call.exchange.body()
            if body is not None:
                if len(body) > SMALL:
                    self._check_length(len(body))
                return body
        message = await call.receive()
        return await self.rest(message, call.receive) if message.get("more_body") else self.whole(message)

    async def inflated(self, body: Buffer, coding: bytes, limit: int, read: Callable[[Buffer], T]) -> T:
        """What `read` makes of a body as it was before it was compressed.

        Raises:
            NdserveError: as `compression.inflate` says, or what `read` raises.
        """
        async with self._inflating:
            return await asyncio.to_thread(lambda: read(inflate(body, coding, limit)))

    def expect(self, declared: bytes) -> None:
        """Refuse a body by its Content-Length, before it is read.

        Raises:
            BodyTooLargeError: over the bound.
            MalformedBodyError: not a number.
            NdserveError: what `check_room` raises.
        """
        if not declared.isdigit() or len(declared) > MAX_DIGITS:
            raise MalformedBodyError(f"Content-Length {declared[:40].decode('latin1')!r} is not a number")
        length = int(declared)
        if length > SMALL:
            self._check_length(length)
            self._check_room(self._arriving + length)

    def whole(self, message: Message) -> bytes:
        """The body that came in one message.

        Raises:
            BodyTooLargeError: over the bound.
            ClientGoneError: the client hung up instead.
        """
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body: bytes = message.get("body", b"")
        if len(body) > SMALL:
            self._check_length(len(body))
        return body

    async def rest(self, message: Message, receive: Receive) -> bytearray:
        """The body that begins with `message`, refused by count while it arrives.

        Raises:
            BodyTooLargeError: over the bound.
            ClientGoneError: the client hung up in the middle.
            NdserveError: what `check_room` raises.
        """
        # One growing buffer, because a list of chunks of one byte each would take forty times the body.
        body = bytearray()
        try:
            while True:
                chunk = message.get("body", b"")
                body += chunk
                self._arriving += len(chunk)
                self._check_length(len(body))
                self._check_room(self._arriving)
                if not message.get("more_body"):
                    return body
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
        finally:
            self._arriving -= len(body)

    def _check_length(self, length: int) -> None:
        if length > self.max_body_bytes:
            raise BodyTooLargeError(
                f"the body has {length} bytes or more; at most {self.max_body_bytes} are taken (--max-body-bytes)",
                limit=self.max_body_bytes,
            )


def parse_query(query: bytes) -> tuple[tuple[str, str], ...]:
    """The query string's names and values, in order.

    Raises:
        InvalidParameterError: it cannot be read, repeats a name, or has over 64 parameters.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_QUERY_PARAMETERS)
    except ValueError as error:
        raise InvalidParameterError(f"the query string cannot be read: {error}") from None
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise InvalidParameterError("the query string repeats a parameter")
    return tuple(pairs)

"""The few lines of ASGI that the hot routes need (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl

from ndserve.errors import BodyTooLargeError, InvalidParameterError, MalformedBodyError

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

MAX_QUERY_PARAMETERS = 64


class ClientGoneError(Exception):
    """The client hung up: nobody is left to answer."""


class Call(NamedTuple):
    """One request, as the handlers need it. Header names are in lower case."""

    receive: Receive
    headers: dict[bytes, bytes]
    query: bytes
    root: str

    @property
    def content_type(self) -> str:
        return self.headers.get(b"content-type", b"").decode("latin1")

    @property
    def accept(self) -> str:
        return self.headers.get(b"accept", b"").decode("latin1")

    def location(self, task_id: str) -> Headers:
        """The header that says where the result of a task will be."""
        return [(b"location", f"{self.root}/result/{task_id}".encode())]


SMALL = 4096
"""A body up to this size is read without asking for room first; the submit asks."""


class Intake:
    """Reads request bodies, one bound for each and one for all that are arriving together."""

    def __init__(self, max_body_bytes: int, check_room: Callable[[int], None]) -> None:
        """`check_room` raises where there is no room for that many bytes more."""
        self.max_body_bytes = max_body_bytes
        self._check_room = check_room
        self._arriving = 0

    def expect(self, declared: bytes | None) -> None:
        """Refuse a body by its Content-Length, before it is read.

        Raises:
            BodyTooLargeError: over the bound.
            MalformedBodyError: not a number.
            NdserveError: what `check_room` raises.
        """
        if declared is None:
            return
        if not declared.isdigit():
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

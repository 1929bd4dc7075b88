"""Requests as the server's own protocol hands them to the application, with bytes that no well-behaved client sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote

from ndserve.routes.app import App
from ndserve.routes.asgi import Message, Scope

Headers = Iterable[tuple[str, str]]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def scope_of(
    method: str, target: str, headers: Headers = (), local: str | None = "127.0.0.1", root: str = ""
) -> dict[str, Any]:
    """The scope that uvicorn makes of a request line; `local` is the address at which it arrived."""
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": None if local is None else (local, 8076),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": method,
        "root_path": root,
        "path": root + unquote(path),
        "raw_path": (root + path).encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }


def ask(app: App, scope: Scope) -> Answer:
    """The application's answer to a request without a body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    head, *bodies = sent
    headers = {name.decode(): value.decode() for name, value in head["headers"]}
    return Answer(head["status"], headers, b"".join(message.get("body", b"") for message in bodies))

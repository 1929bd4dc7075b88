"""Errors as answers: `application/problem+json` (RFC 9457) with a stable `code`.

Below `/v2` an error is `{"error": TEXT}` instead
(https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md).
"""

from __future__ import annotations

import http
from typing import Any, NamedTuple

import orjson

from ndserve.errors import NdserveError
from ndserve.routes.asgi import Headers, Scope, Send

MEDIA_TYPE = b"application/problem+json"

INTERNAL = "the server failed on this request; its log says why"


def problem(status: int, code: str, detail: str, **extra: Any) -> bytes:
    """The document. `type` is about:blank, so `title` is the status's own phrase (RFC 9457, 4.2.1)."""
    document = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status, "code": code}
    return orjson.dumps({**document, "detail": detail, **extra})


def headers_of(error: NdserveError) -> Headers:
    """The headers that go with an error besides its body's own."""
    headers: Headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if error.challenge is not None:
        headers.append((b"www-authenticate", error.challenge.encode()))
    return headers


class Refusal(NamedTuple):
    """An error as an answer."""

    status: int
    content_type: bytes
    body: bytes
    headers: Headers
    """Those besides Content-Type and Content-Length."""


def refusal(error: NdserveError, path: str) -> Refusal:
    """The answer that tells of an error under this path, in the form that is spoken there."""
    headers = headers_of(error)
    if path == "/v2" or path.startswith("/v2/"):
        return Refusal(error.status, b"application/json", orjson.dumps({"error": error.message}), headers)
    body = problem(error.status, error.code, error.message, **error.details)
    return Refusal(error.status, MEDIA_TYPE, body, headers)


async def refuse(error: NdserveError, scope: Scope, send: Send) -> None:
    """Answer a request with an error; a WebSocket is closed before it is opened, which its client sees as 403."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    status, content_type, body, headers = refusal(error, path)
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})

"""Errors as answers: `application/problem+json` (RFC 9457) with a stable `code`."""

from __future__ import annotations

import http
from typing import Any

import orjson

from ndserve.errors import NdserveError
from ndserve.routes.asgi import Headers

MEDIA_TYPE = b"application/problem+json"

INTERNAL = "the server failed on this request; its log says why"


def problem(status: int, code: str, detail: str, **extra: Any) -> bytes:
    """The document. `type` is about:blank, so `title` is the status's own phrase (RFC 9457, 4.2.1)."""
    document = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status, "code": code}
    return orjson.dumps({**document, "detail": detail, **extra})


def headers_of(error: NdserveError) -> Headers:
    """The headers that go with an error besides its body's own."""
    return [(b"retry-after", str(error.retry_after).encode())] if error.retry_after is not None else []

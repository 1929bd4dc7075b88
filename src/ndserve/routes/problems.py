"""Errors as answers: `application/problem+json` (RFC 9457) with a stable `code`.

Below `/v2` an error is `{"error": TEXT}` instead
(https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md).
"""

from __future__ import annotations

import http
from typing import Any

import orjson

from ndserve.errors import ModelLoadError, NdserveError, UnsupportedEncodingError
from ndserve.routes.asgi import Headers

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
    if isinstance(error, UnsupportedEncodingError):
        headers.append((b"accept-encoding", b"gzip, deflate"))
    if error.challenge is not None:
        headers.append((b"www-authenticate", error.challenge.encode()))
    return headers


_PROTOCOL_STATUS = {401: 401, 403: 403, 404: 404, 405: 405, 415: 501, 429: 503, 501: 501, 503: 503, 504: 503, 507: 503}


def protocol_status(error: NdserveError) -> int:
    """The status with which Triton reports such an error: 400 for all that the client can mend.

    https://github.com/triton-inference-server/server/blob/main/src/http_server.cc (`HttpCodeFromError`)
    """
    if error.code == ModelLoadError.code:  # also as a task's own failure
        return 503
    return _PROTOCOL_STATUS.get(error.status, 400 if error.status < 500 else 500)

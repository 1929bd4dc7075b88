"""Answers: how they are sent, and what a refusal looks like."""

from __future__ import annotations

import orjson

from ndserve.errors import NdserveError
from ndserve.routes import problems
from ndserve.routes.asgi import Answer, Scope, Send, path_of


async def send_answer(answer: Answer, send: Send) -> None:
    """Send it as ASGI messages, each chunk by itself."""
    status, content_type, chunks, further, _ = answer
    length = b"%d" % sum(map(len, chunks))
    fields = [(b"content-type", content_type), (b"content-length", length), *further]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    for chunk in chunks[:-1]:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": chunks[-1]})


def problem_answer(error: NdserveError) -> Answer:
    """A refusal outside the protocol: `application/problem+json`."""
    body = problems.problem(error.status, error.code, error.message, **error.details)
    return error.status, problems.MEDIA_TYPE, (body,), problems.headers_of(error), None


def protocol_answer(error: NdserveError) -> Answer:
    """A refusal within Open Inference: the text alone, and Triton's choice of status."""
    body = orjson.dumps({"error": error.message})
    return problems.protocol_status(error), b"application/json", (body,), problems.headers_of(error), None


def is_open_inference(path: str) -> bool:
    """Whether a path is one of the protocol, known or not, so that errors have its form."""
    return path.startswith("/v2") and path[3:4] in ("", "/")


def refusal(error: NdserveError, path: str) -> Answer:
    """The answer that tells of an error under this path, in the form that is spoken there."""
    return protocol_answer(error) if is_open_inference(path) else problem_answer(error)


async def send_refusal(error: NdserveError, scope: Scope, send: Send) -> None:
    """Answer a request with an error; a WebSocket is closed before it is opened, which its client sees as 403."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await send_answer(refusal(error, path_of(scope)), send)

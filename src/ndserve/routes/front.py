"""The plain-ASGI routes in front of FastAPI: which one a path means, and how its answer goes out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import orjson

from ndserve.errors import MethodNotAllowedError, NdserveError
from ndserve.routes import problems
from ndserve.routes.asgi import Call, ClientGoneError, Headers, Receive, Scope, Send
from ndserve.types import Task

logger = logging.getLogger(__name__)

Answer: TypeAlias = tuple[int, bytes, tuple[bytes | memoryview, ...], Headers, Task | None]
"""Status, Content-Type, body, further headers, and the task whose outcome it delivers, if any."""

Handler: TypeAlias = Callable[[Call, Any], Awaitable[Answer]]

Found: TypeAlias = tuple[Mapping[str, Handler], Any]
"""The handlers of a path by method, and what else the path says, for the handler."""


Refuse: TypeAlias = Callable[[NdserveError], Answer]
"""An error as an answer."""


class Routes(Protocol):
    """One family of paths."""

    def match(self, path: str, method: str) -> Found | None:
        """The handlers of a path; None for one that is not of this family."""
        ...


class Matched(NamedTuple):
    """Who answers a request, and how it is refused."""

    handlers: Mapping[str, Handler]
    argument: Any
    refuse: Refuse


class Front:
    """All of them."""

    def __init__(self, hot: Routes, open_inference: Routes, delivered: Callable[[Task], object]) -> None:
        """`delivered` is called with a task whose outcome has been sent."""
        self._hot = hot
        self._open_inference = open_inference
        self._delivered = delivered

    def match(self, scope: Scope) -> Matched | None:
        """Who answers a request; None leaves it to FastAPI."""
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        of_protocol = is_open_inference(path)
        found = (self._open_inference if of_protocol else self._hot).match(path, scope["method"])
        return None if found is None else Matched(*found, protocol_answer if of_protocol else problem_answer)

    async def serve(self, matched: Matched, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        handlers, argument, refuse = matched
        try:
            handler = handlers.get(scope["method"])
            if handler is None:
                answer = refuse(MethodNotAllowedError(f"this path answers {', '.join(handlers)}"))
                answer[3].append((b"allow", ", ".join(handlers).encode()))
            else:
                headers = dict(scope["headers"])
                call = Call(receive, headers, scope["query_string"], scope.get("root_path", ""))
                answer = await handler(call, argument)
        except ClientGoneError:
            return
        except NdserveError as error:
            answer = refuse(error)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            answer = refuse(NdserveError(problems.INTERNAL))
        await send_answer(answer, send)
        if answer[4] is not None:
            self._delivered(answer[4])


async def send_answer(answer: Answer, send: Send) -> None:
    """Send it as ASGI messages, each chunk by itself."""
    status, content_type, chunks, further, _ = answer
    length = b"%d" % sum(map(len, chunks))
    fields = [(b"content-type", content_type), (b"content-length", length), *further]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    for chunk in chunks[:-1]:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": chunks[-1]})


def is_open_inference(path: str) -> bool:
    """Whether a path is one of the protocol, known or not, so that errors have its form."""
    return path.startswith("/v2") and path[3:4] in ("", "/")


def problem_answer(error: NdserveError) -> Answer:
    """A refusal outside the protocol: `application/problem+json`."""
    body = problems.problem(error.status, error.code, error.message, **error.details)
    return error.status, problems.MEDIA_TYPE, (body,), problems.headers_of(error), None


def protocol_answer(error: NdserveError) -> Answer:
    """A refusal within Open Inference: the text alone, and Triton's choice of status."""
    body = orjson.dumps({"error": error.message})
    return problems.protocol_status(error), b"application/json", (body,), problems.headers_of(error), None

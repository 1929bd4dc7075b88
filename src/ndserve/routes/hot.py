"""Submit, status and result as plain ASGI callables, in front of FastAPI.

FastAPI's routing, middleware and dependencies cost two to four times all the rest of such a request
(docs/design.md, "Speed"). They are described in its OpenAPI all the same, by `routes/openapi.py`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import orjson

from ndserve import codecs
from ndserve.codecs.npy import SMALL
from ndserve.engine.service import InferenceService, outputs_of
from ndserve.errors import InvalidParameterError, NdserveError
from ndserve.routes import problems
from ndserve.routes.asgi import ClientGoneError, Headers, Intake, Receive, Scope, Send, parse_query
from ndserve.routes.problems import problem
from ndserve.routes.waiting import until_settled
from ndserve.types import Task

logger = logging.getLogger(__name__)

MAX_WAIT = 3600.0
RETRY: Headers = [(b"retry-after", b"1")]
RESERVED = frozenset({"model", "process", "version", "cast", "wait"})
"""Query parameters that are the server's own; a process cannot have a parameter of that name."""

_JSON = b"application/json"


Answer: TypeAlias = tuple[int, bytes, tuple[bytes | memoryview, ...], Headers, Task | None]
"""Status, Content-Type, body, further headers, and the task whose outcome it delivers, if any."""


class Options(NamedTuple):
    """What the query string of a submit asks for."""

    target: str | None
    version: str | None
    cast: bool
    wait: float
    parameters: dict[str, str]


Handler = Callable[[Scope, Receive, str], Awaitable[Answer]]


class HotRoutes:
    """The handlers, and the choice among them by path and method."""

    def __init__(self, service: InferenceService, max_body_bytes: int, default_process: str) -> None:
        self._service = service
        self._intake = Intake(max_body_bytes, service.check_room)
        self._default_process = default_process
        self._submits: dict[str, Handler] = {"POST": self._submit}
        self._results: dict[str, Handler] = {"GET": self._result}
        self._tasks: dict[str, Handler] = {"GET": self._status, "POST": self._submit}

    def match(self, scope: Scope) -> tuple[dict[str, Handler], str] | None:
        """The handlers of a hot path by method, and the name or id in it; None leaves the request to FastAPI."""
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == "/process_np_array":
            return self._submits, ""
        if path.startswith("/result/"):
            return self._results, path[8:]
        if path.startswith("/tasks/"):
            name, slash, rest = path[7:].partition("/")
            if rest == "result":
                return self._results, name
            if not slash and name:
                return self._tasks, name
        return None

    async def serve(self, handlers: dict[str, Handler], name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            handler = handlers.get(scope["method"])
            answer = _method_not_allowed(handlers) if handler is None else await handler(scope, receive, name)
        except ClientGoneError:
            return
        except NdserveError as error:
            answer = _error_answer(error)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            body = problem(500, "internal", problems.INTERNAL)
            answer = 500, problems.MEDIA_TYPE, (body,), [], None
        status, content_type, chunks, headers, delivers = answer
        length = b"%d" % sum(map(len, chunks))
        fields = [(b"content-type", content_type), (b"content-length", length), *headers]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        for chunk in chunks[:-1]:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": chunks[-1]})
        if delivers is not None:
            self._service.store.delivered(delivers)

    async def _submit(self, scope: Scope, receive: Receive, name: str) -> Answer:
        """POST /process_np_array and POST /tasks/{target}."""
        service = self._service
        options = _options(scope["query_string"])
        if name and options.target:
            raise InvalidParameterError("the path names the target already; leave model= and process= out")
        target = service.target(name or options.target or self._default_process, options.version)
        headers = dict(scope["headers"])
        self._intake.expect(headers.get(b"content-length"))
        message = await receive()
        body = await self._intake.rest(message, receive) if message.get("more_body") else self._intake.whole(message)
        content_type = headers.get(b"content-type", b"").decode("latin1")
        limit = self._intake.max_body_bytes
        if codecs.is_cheap(body):
            inputs = codecs.decode(content_type, body, target.inputs, limit)
        else:
            inputs = await asyncio.to_thread(codecs.decode, content_type, body, target.inputs, limit)
        task = await service.submit(target, inputs, options.parameters, cast=options.cast)
        if options.wait:
            try:
                await until_settled(service.waiters, task, receive, options.wait)
            except ClientGoneError:
                service.cancel(task)  # the caller never learnt the id: nobody can fetch the result
                raise
            if not task.live:
                try:
                    return await _outcome(task, headers)
                finally:
                    service.store.forget(task)
        location = f"{scope.get('root_path', '')}/result/{task.id}".encode()
        return 202, _JSON, (_accepted(task),), [(b"location", location)], None

    async def _result(self, scope: Scope, receive: Receive, name: str) -> Answer:
        """GET /result/{task_id} and GET /tasks/{task_id}/result."""
        service = self._service
        wait = _wait_only(scope["query_string"])
        task = service.live.get(name) or await service.find(name)
        if task.live and wait:
            await until_settled(service.waiters, task, receive, wait)
        if task.live:
            return 202, _JSON, (_accepted(task),), RETRY, None
        return await _outcome(task, dict(scope["headers"]))

    async def _status(self, scope: Scope, receive: Receive, name: str) -> Answer:
        """GET /tasks/{task_id}."""
        service = self._service
        wait = _wait_only(scope["query_string"])
        task = await service.find(name)
        if task.live and wait:
            await until_settled(service.waiters, task, receive, wait)
        return 200, _JSON, (orjson.dumps(describe(task)),), [], None


def describe(task: Task) -> dict[str, object]:
    """A task's status as it goes over the wire. Times are RFC 3339 in UTC."""
    return {
        "task_id": task.id,
        "status": task.state.value,
        "target": task.key.target,
        "version": task.key.version or None,
        "attempts": task.attempts,
        "created": _time(task.created),
        "started": _time(task.started),
        "ended": _time(task.ended),
        "error": {"code": task.failure.code, "message": task.failure.message} if task.failure else None,
    }


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _accepted(task: Task) -> bytes:
    """The answer for a live task."""
    return f'{{"task_id":"{task.id}","status":"{task.state}"}}'.encode()


async def _outcome(task: Task, headers: dict[bytes, bytes]) -> Answer:
    """The answer that delivers an ended task: its outputs as Accept asks.

    Raises:
        TaskFailedError, GoneError: it has no outputs.
        NotAcceptableError: they have no accepted form.
    """
    outputs = outputs_of(task)
    codec = codecs.encoder(headers.get(b"accept", b"").decode("latin1"), outputs)
    if codec.cheap or task.nbytes <= SMALL:
        payload = codec.encode(outputs)
    else:
        payload = await asyncio.to_thread(codec.encode, outputs)
    return 200, payload.content_type, payload.chunks, [], task


def _error_answer(error: NdserveError) -> Answer:
    body = problem(error.status, error.code, error.message, **error.details)
    return error.status, problems.MEDIA_TYPE, (body,), problems.headers_of(error), None


def _method_not_allowed(handlers: dict[str, Handler]) -> Answer:
    allowed = ", ".join(handlers)
    body = problem(405, "method_not_allowed", f"this path answers {allowed}")
    return 405, problems.MEDIA_TYPE, (body,), [(b"allow", allowed.encode())], None


@lru_cache(maxsize=1024)
def _options(query: bytes) -> Options:
    given = dict(parse_query(query))
    model, process = given.pop("model", None), given.pop("process", None)
    if model is not None and process is not None:
        raise InvalidParameterError("name either a model or a process, not both")
    cast = given.pop("cast", "false").lower()
    if cast not in ("true", "false", "1", "0"):
        raise InvalidParameterError(f"cast is true or false, not {cast!r}")
    version, wait = given.pop("version", None), _seconds(given.pop("wait", "0"))
    return Options(model or process, version, cast in ("true", "1"), wait, given)


@lru_cache(maxsize=1024)
def _wait_only(query: bytes) -> float:
    given = dict(parse_query(query))
    wait = _seconds(given.pop("wait", "0"))
    if given:
        raise InvalidParameterError(f"unknown parameters {', '.join(given)}; this path knows wait")
    return wait


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_WAIT:
        raise InvalidParameterError(f"wait is a number of seconds from 0 to {MAX_WAIT:g}, not {text!r}")
    return seconds

"""The application: the gate first, then the plain-ASGI routes, then FastAPI's."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from ndserve.errors import NdserveError
from ndserve.routes import problems
from ndserve.routes.answers import refusal, send_refusal
from ndserve.routes.asgi import Exchange, Message, Receive, Scope, Send, path_of
from ndserve.routes.front import EXCHANGE, Front
from ndserve.routes.gate import Gate
from ndserve.routes.open_inference.openapi import PATHS
from ndserve.routes.openapi import HOT_PATHS


class App(FastAPI):
    """FastAPI with the plain-ASGI routes in front of it, and the gate in front of all."""

    def __init__(self, gate: Gate, front: Front, **options: Any) -> None:
        super().__init__(**options)
        self.gate = gate
        self.front = front
        self.refused: NdserveError | None = None
        """Why it could not be started."""
        self.add_exception_handler(NdserveError, _on_error)
        self.add_exception_handler(RequestValidationError, _on_invalid)
        self.add_exception_handler(HTTPException, _on_http_error)
        self.add_exception_handler(Exception, _on_crash)

    def begin(self, scope: Scope, exchange: Exchange) -> bool:
        """Begin to answer a request past ASGI, for a server that can; False leaves it to `__call__`."""
        path = path_of(scope)
        headers = dict(scope["headers"])
        try:
            self.gate.check(scope, path, headers)
        except NdserveError as error:
            exchange.reply(refusal(error, path))
            return True
        exchange.passed = True
        return self.front.begin(path, scope["method"], headers, exchange)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            exchange: Exchange | None = scope.get(EXCHANGE)
            if exchange is None or not exchange.passed:
                try:
                    self.gate.check(scope, path_of(scope), dict(scope["headers"]))
                except NdserveError as error:
                    await send_refusal(error, scope, send)
                    return
        if scope["type"] == "http":
            matched = self.front.match(scope)
            if matched is not None:
                await self.front.serve(matched, scope, receive, send)
                return
        if scope["type"] == "lifespan":
            send = partial(self._tell_refusal, send)
        await super().__call__(scope, receive, send)

    async def _tell_refusal(self, send: Send, message: Message) -> None:
        """Have the server log the reason of a failed start as a sentence, where Starlette would give a traceback."""
        if message["type"] == "lifespan.startup.failed" and self.refused is not None:
            message = {**message, "message": f"ndserve: {self.refused.message}"}
        await send(message)

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        schema["paths"] = {**HOT_PATHS, **PATHS, **schema["paths"]}
        return schema


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NdserveError)
    body = problems.problem(error.status, error.code, error.message, **error.details)
    headers = {name.decode(): value.decode() for name, value in problems.headers_of(error)}
    return _problem(error.status, body, headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = [{"at": ".".join(map(str, fault["loc"])), "message": fault["msg"]} for fault in error.errors()]
    text = "; ".join(f"{fault['at']}: {fault['message']}" for fault in faults)
    return _problem(422, problems.problem(422, "invalid_request", text, faults=faults))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    detail = f"{request.method} {request.url.path}: {error.detail}"
    return _problem(error.status_code, problems.problem(error.status_code, code, detail), error.headers)


async def _on_crash(request: Request, error: Exception) -> Response:
    # Starlette raises the error again once this is sent, and uvicorn logs it with its traceback.
    return _problem(500, problems.problem(500, "internal", problems.INTERNAL))


def _problem(status: int, body: bytes, headers: Any = None) -> Response:
    return Response(body, status, headers, media_type=problems.MEDIA_TYPE.decode())

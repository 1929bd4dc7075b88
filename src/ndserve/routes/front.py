"""The plain-ASGI routes in front of FastAPI: which one a path means, and how its answer goes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from ndserve.errors import MethodNotAllowedError, NdserveError
from ndserve.routes import problems
from ndserve.routes.answers import is_open_inference, problem_answer, protocol_answer, send_answer
from ndserve.routes.asgi import Answer, Call, ClientGoneError, Exchange, Handler, Receive, Scope, Send, path_of
from ndserve.routes.hot import HotRoutes
from ndserve.routes.open_inference import OpenInferenceRoutes
from ndserve.types import Task

logger = logging.getLogger(__name__)

EXCHANGE = "ndserve.exchange"
"""Where a server that has one puts its `Exchange` into the scope."""

Refuse: TypeAlias = Callable[[NdserveError], Answer]
"""An error as an answer."""


class Matched(NamedTuple):
    """Who answers a request, and how it is refused."""

    handlers: Mapping[str, Handler]
    argument: Any
    refuse: Refuse
    exchange: Exchange | None


class Front:
    """All of them."""

    def __init__(
        self, hot: HotRoutes, open_inference: OpenInferenceRoutes, delivered: Callable[[Task], object]
    ) -> None:
        """`delivered` is called with a task whose outcome has been sent."""
        self._hot = hot
        self._open_inference = open_inference
        self._begin = open_inference.inference.begin
        self._delivered = delivered

    def match(self, scope: Scope) -> Matched | None:
        """Who answers a request; None leaves it to FastAPI."""
        # Taken out, because a scope that holds what holds the scope would wait for the garbage collector.
        exchange: Exchange | None = scope.pop(EXCHANGE, None)
        path = path_of(scope)
        if is_open_inference(path):
            return Matched(*self._open_inference.match(path, scope["method"]), protocol_answer, exchange)
        found = self._hot.match(path, scope["method"])
        return None if found is None else Matched(*found, problem_answer, exchange)

    def begin(self, path: str, method: str, headers: Mapping[bytes, bytes], exchange: Exchange) -> bool:
        """Begin to answer a request without a coroutine; False leaves it to `match` and `serve`."""
        return method == "POST" and path.endswith("/infer") and self._begin(path, headers, exchange)

    async def serve(self, matched: Matched, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        handlers, argument, refuse, exchange = matched
        try:
            handler = handlers.get(scope["method"])
            if handler is None:
                answer = _not_allowed(handlers, refuse)
            else:
                headers = dict(scope["headers"])
                call = Call(receive, headers, scope["query_string"], scope.get("root_path", ""), exchange)
                answer = await handler(call, argument)
        except ClientGoneError:
            return
        except NdserveError as error:
            answer = refuse(error)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            answer = refuse(NdserveError(problems.INTERNAL))
        status, content_type, chunks, further, delivers = answer
        if exchange is None or not exchange.answer(status, content_type, chunks, further):
            await send_answer(answer, send)
        if delivers is not None:
            self._delivered(delivers)


def _not_allowed(handlers: Mapping[str, Handler], refuse: Refuse) -> Answer:
    allowed = ", ".join(handlers)
    answer = refuse(MethodNotAllowedError(f"this path answers {allowed}"))
    return *answer[:3], [*answer[3], (b"allow", allowed.encode())], None

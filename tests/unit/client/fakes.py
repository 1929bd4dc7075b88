"""A clock that only waiting moves, and a server in a few lines."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx2 as httpx
import numpy as np

from ndserve.client import AsyncClient, Client
from ndserve.client.retry import Timing

Reply = httpx.Response | Exception


class Clock:
    """Time as the client sees it. `waits` are what it has waited."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.timing = Timing(
            clock=lambda: self.now, wall=lambda: self.now, random=lambda: 1.0, wait=self._wait, sleep=self._sleep
        )

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


class Script:
    """Answers requests one after the other; the last answer stays. Works in both clients' transports."""

    def __init__(self, *replies: Reply | Callable[[httpx.Request], Reply]) -> None:
        self.clock = Clock()
        self.requests: list[httpx.Request] = []
        self._replies = list(replies)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        found = reply(request) if callable(reply) else reply
        if isinstance(found, Exception):
            raise found
        # An answer belongs to one request.
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)

    def client(self, url: str = "http://server", **options: Any) -> Client:
        return Client(url, transport=httpx.MockTransport(self), timing=self.clock.timing, **options)

    def async_client(self, url: str = "http://server", **options: Any) -> AsyncClient:
        return AsyncClient(url, transport=httpx.MockTransport(self), timing=self.clock.timing, **options)

    @property
    def keys(self) -> list[str | None]:
        return [request.headers.get("idempotency-key") for request in self.requests]

    @property
    def paths(self) -> Sequence[str]:
        return [request.url.raw_path.decode() for request in self.requests]


def npy(array: Any) -> httpx.Response:
    body = io.BytesIO()
    np.save(body, np.asarray(array), allow_pickle=False)
    return httpx.Response(200, headers={"content-type": "application/x-npy"}, content=body.getvalue())


def npz(**arrays: Any) -> httpx.Response:
    body = io.BytesIO()
    np.savez(body, **arrays)
    return httpx.Response(200, headers={"content-type": "application/x-npz"}, content=body.getvalue())


def accepted(task_id: str = "t1", status: int = 202, **members: Any) -> httpx.Response:
    return httpx.Response(status, json={"task_id": task_id, "status": "queued", **members})


def problem(status: int, code: str, detail: str = "for a reason", **headers: str) -> httpx.Response:
    body = json.dumps({"type": "about:blank", "title": "?", "status": status, "code": code, "detail": detail})
    return httpx.Response(status, headers={"content-type": "application/problem+json", **headers}, content=body)


def refused() -> Exception:
    return httpx.ConnectError("Connection refused")


def sent_array(request: httpx.Request) -> Any:
    return np.load(io.BytesIO(request.content), allow_pickle=False)

"""Every call of the client as a generator, which both clients drive.

A flow yields what it wants done: a `Call` to be sent, or a number of seconds to wait. It is sent the answer of a call,
or has the error thrown into it that the transport raised, and returns what the caller gets.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from typing import Any, TypeAlias, TypeVar

import httpx2 as httpx

from ndserve.client import wire
from ndserve.client.errors import ConnectionFailedError, UnfinishedTaskError
from ndserve.client.retry import Timing, may_pass, next_delay, retry_after
from ndserve.client.wire import Call, Inputs, Result

logger = logging.getLogger("ndserve.client")

SLICE = 30.0
"""How long one request waits at most, below what proxies allow an answer to take."""

PAGE = 100

T = TypeVar("T")
Flow: TypeAlias = Generator[Call | float, httpx.Response | None, T]


class Pages:
    """The way through a list of tasks: `query` asks for the next page, and `left` is False after the last one."""

    def __init__(self, filters: Mapping[str, Any], limit: int | None) -> None:
        self._limit = limit
        self.left = limit is None or limit > 0
        self.query = {**filters, "limit": min(PAGE, limit or PAGE)}

    def add(self, page: tuple[list[dict[str, Any]], str | None]) -> list[dict[str, Any]]:
        """Go on behind this page; gives what of it is wanted."""
        tasks, cursor = page[0][: self._limit], page[1]
        if self._limit is not None:
            self._limit -= len(tasks)
        self.query["cursor"] = cursor
        self.left = cursor is not None and self._limit != 0
        return tasks


class Flows:
    """The calls to one server. `url` is where it is; the rest decides how long a call goes on."""

    def __init__(self, url: str, patience: float, timing: Timing) -> None:
        self.url = wire.base_url(url)
        self._shown = wire.without_password(self.url)
        self._patience = patience
        self.timing = timing

    def health(self) -> Flow[dict[str, Any]]:
        """The health document, of a healthy server or not. Asked once: it is about now."""
        response = yield from self._once(Call("GET", self.url + "/health"))
        problem = wire.document(response)
        if response.status_code not in (200, 503) or "status" not in problem:
            raise wire.error_of(response)
        return problem

    def submit(self, target: str, inputs: Inputs, key: str | None, options: Mapping[str, Any]) -> Flow[str]:
        """The id of the accepted task."""
        response = yield from self._ask(wire.submission(self.url, target, inputs, options, key, 0.0))
        _check(response, 200, 202)
        task_id = wire.ticket(response)
        if task_id is None:
            raise wire.unexpected(response, "no task id")
        return task_id

    def run(
        self, target: str, inputs: Inputs, key: str | None, timeout: float | None, options: Mapping[str, Any]
    ) -> Flow[Result]:
        """The result: in one request if the task ends soon, and waited for if not."""
        until = None if timeout is None else self.timing.clock() + timeout
        submission = wire.submission(self.url, target, inputs, options, key, self._slice(until))
        response = yield from self._ask(submission, until)
        _check(response, 200, 202)
        task_id = wire.ticket(response)
        if task_id is None:
            return wire.decode(response)
        result = yield from self.result(task_id, None if until is None else until - self.timing.clock())
        if result is None:
            raise UnfinishedTaskError(task_id, timeout or 0.0)
        return result

    def result(self, task_id: str, wait: float | None) -> Flow[Result | None]:
        """The result, or None if the task has not ended after `wait` seconds; None waits for its end."""
        until = None if wait is None else self.timing.clock() + wait
        while True:
            part = self._slice(until)
            asked = self.timing.clock()
            response = yield from self._ask(wire.result_of(self.url, task_id, part), until)
            if response.status_code == 200:
                return wire.decode(response)
            if response.status_code != 202:
                raise wire.error_of(response, task_id=task_id)
            now = self.timing.clock()
            if until is not None and now >= until:
                return None
            if now - asked < part / 2:  # it does not wait, so we do
                pause = self._retry_after(response) or 0.5
                yield pause if until is None else min(pause, until - now)

    def document(self, method: str, *path: str) -> Flow[dict[str, Any]]:
        """The JSON object that answers a request without a body."""
        response = yield from self._ask(Call(method, self.url + wire.path(*path)))
        _check(response, 200, 202)
        return wire.document(response)

    def page(self, query: Mapping[str, Any]) -> Flow[tuple[list[dict[str, Any]], str | None]]:
        """One page of the list of tasks, and the cursor of the next one."""
        response = yield from self._ask(Call("GET", self.url + "/tasks" + wire.query(query)))
        _check(response, 200)
        page = wire.document(response)
        if not isinstance(page.get("tasks"), list):
            raise wire.unexpected(response, "no list of tasks")
        return page["tasks"], page.get("next_cursor")

    def _slice(self, until: float | None) -> float:
        return SLICE if until is None else min(SLICE, max(0.0, until - self.timing.clock()))

    def _retry_after(self, response: httpx.Response) -> float:
        return retry_after(response.headers.get("retry-after"), self.timing.wall())

    def _once(self, call: Call) -> Flow[httpx.Response]:
        try:
            response = yield call
        except httpx.RequestError as error:
            raise ConnectionFailedError(self._shown, error) from error
        assert response is not None
        return response

    def _ask(self, call: Call, until: float | None = None) -> Flow[httpx.Response]:
        response, _ = yield from self.ask(call, until)
        return response

    def ask(self, call: Call, until: float | None = None) -> Flow[tuple[httpx.Response, bool]]:
        """Send a call, and again while it is worth it: for as long as the client's patience and not after `until`.

        The last answer is returned whatever it says, and with it whether an earlier one may have been lost: then the
        server may have done already what was asked. Without any answer the flow ends.
        """
        attempt = 0
        lost = False
        first_failure = 0.0
        while True:
            response: httpx.Response | None = None
            failure: httpx.RequestError | None = None
            try:
                response = yield call
            except httpx.RequestError as error:
                failure = error
            if response is not None and not wire.is_overload(response):
                return response, lost
            # An answer of 502 or 504 is a proxy's, which has heard nothing.
            lost = lost or response is None or response.status_code in (502, 504)
            now = self.timing.clock()
            first_failure = first_failure if attempt else now
            patience = self._patience if until is None else min(self._patience, until - first_failure)
            asked = 0.0 if response is None else self._retry_after(response)
            delay = next_delay(attempt, now - first_failure, patience, asked, self.timing.random())
            if failure is not None and (delay is None or not may_pass(failure)):
                raise ConnectionFailedError(self._shown, failure) from failure
            if delay is None:
                assert response is not None
                return response, lost
            if attempt == 0:
                reason = failure if response is None else f"HTTP {response.status_code}"
                logger.info("%s does not take it (%s); trying again for up to %g s", self._shown, reason, patience)
            attempt += 1
            yield delay


def _check(response: httpx.Response, *statuses: int) -> None:
    if response.status_code not in statuses:
        raise wire.error_of(response)


def check_map(concurrency: int, options: Mapping[str, Any]) -> None:
    """Refuse what a map cannot do.

    Raises:
        ValueError: `concurrency` is below 1.
        TypeError: an idempotency key was given.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    if "idempotency_key" in options:
        raise TypeError("one idempotency key cannot name many tasks; map gives each item its own")

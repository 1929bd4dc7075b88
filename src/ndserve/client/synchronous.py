"""The client that blocks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import httpx2 as httpx

from ndserve.client import wire
from ndserve.client.flows import Flow, Flows, Pages, check_map
from ndserve.client.mapping import Lines, in_order
from ndserve.client.models import Models
from ndserve.client.retry import Timing
from ndserve.client.wire import Inputs, Result
from ndserve.types import Parameter

T = TypeVar("T")
_Trace = Callable[[str, dict[str, Any]], None]


class Client:
    """A server, as methods. It keeps its connections, and threads may share it.

    `api_key` is sent to a server that asks for one; without it that of the environment, NDSERVE_API_KEY, is.
    `timeout` is how many seconds one answer may take beyond the time that the server was asked to wait. `patience` is
    how long a call goes on sending through broken connections, full queues (429) and restarts (502, 503), counted from
    the first failure after the last success; with 0 the first failure is raised.
    `headers` go with every request.
    `transport` takes the place of httpx2's own, and `timing` that of the clock.

    Result arrays are writable and the caller's own.

    Raises:
        ValueError: `url` is no http or https address, or `api_key` no key.
    """

    def __init__(
        self,
        url: str = wire.DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        patience: float = 60.0,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._timing = timing or Timing()
        self._flows = Flows(url, patience, self._timing)
        self._timeout = timeout
        self._connect = partial(httpx.Client, transport=transport, **wire.http_options(timeout, headers, api_key))
        self._transport = transport
        self._closed = threading.Event()
        self._http = self._connect()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, once no thread uses the client. A call that waits to try again gives up."""
        self._closed.set()
        self._http.close()

    @property
    def models(self) -> Models:
        """The server's models: to list, load, unload, pin, upload and delete."""
        return Models(self._flows, self._drive)

    def health_check(self) -> dict[str, Any]:
        """The server's own word on its health, as a document; `status` is "ready" when all is well.

        Asked once, without the client's patience.

        Raises:
            ConnectionFailedError: nothing answers.
            UnexpectedAnswerError: something other than ndserve answers.
        """
        return self._drive(self._flows.health())

    def submit_task(
        self,
        target: str,
        inputs: Inputs,
        *,
        priority: int | None = None,
        ttl: float | None = None,
        start_within: float | None = None,
        run_within: float | None = None,
        webhook: str | None = None,
        webhook_events: Sequence[str] | None = None,
        idempotency_key: str | None = None,
        version: str | None = None,
        cast: bool | None = None,
        split: bool | None = None,
        **parameters: Parameter,
    ) -> str:
        """Submit one array, or a mapping of arrays by input name, to a model or process; gives the task's id.

        Spans are in seconds, and None leaves the server's default in force. `priority` runs from 0 to 9, and 9 goes
        first. `cast` converts the arrays to the target's dtypes. `split` makes one task of each item along axis 0, and
        the id is the group's. `parameters` are the process's own.

        Two submits with the same `idempotency_key` are one task; without one, each call makes its own.

        Raises:
            TypeError: an array of Python objects.
            ConnectionFailedError: no answer, for as long as the client's patience.
            ServerError: the server refused it: UnknownTargetError, InvalidInputError, InvalidParameterError,
                ConflictError, QueueFullError, StoreFullError or without a class of its own.
        """
        own: dict[str, Any] = {"priority": priority, "ttl": ttl, "version": version, "cast": cast, "split": split}
        own |= {"start_within": start_within, "run_within": run_within}
        own |= {"webhook": webhook, "webhook_events": webhook_events}
        return self._drive(self._flows.submit(target, inputs, idempotency_key, {**own, **parameters}))

    @overload
    def get_result(self, task_id: str, wait: None) -> Result: ...

    @overload
    def get_result(self, task_id: str, wait: float | None = 0.0) -> Result | None: ...

    def get_result(self, task_id: str, wait: float | None = 0.0) -> Result | None:
        """The result: an array, or a dict of arrays by output name; None while the task has not ended.

        `wait` is how many seconds to wait for the end; None waits as long as it takes.

        Raises:
            TaskFailedError: the task failed.
            GoneError: it was cancelled, it expired, or its result was removed.
            UnknownTaskError: the server does not know the id.
            ConnectionFailedError: no answer, for as long as the client's patience.
        """
        return self._drive(self._flows.result(task_id, wait))

    def run(self, target: str, inputs: Inputs, *, timeout: float | None = None, **options: Any) -> Result:
        """Submit and wait; gives the result. `options` are those of `submit_task`.

        Raises:
            UnfinishedTaskError: the task has not ended within `timeout` seconds. It goes on.
            TaskFailedError: the task failed.
            GoneError: it was cancelled, it expired, or its result was removed.
            TypeError, ConnectionFailedError, ServerError: as `submit_task`.
        """
        key = options.pop("idempotency_key", None)
        return self._drive(self._flows.run(target, inputs, key, timeout, options))

    def status(self, task_id: str) -> dict[str, Any]:
        """The status document of a task or a group.

        Raises:
            UnknownTaskError, GoneError: there is no such task, or no longer.
            ConnectionFailedError: no answer, for as long as the client's patience.
        """
        return self._drive(self._flows.document("GET", "tasks", task_id))

    def cancel(self, task_id: str) -> dict[str, Any]:
        """End a task, or remove the result of one that has ended; `outcome` in the answer says which it was.

        Raises:
            UnknownTaskError, GoneError: there is no such task, or no longer. After a broken connection it may be
                the first attempt that removed it.
            ConnectionFailedError: no answer, for as long as the client's patience.
        """
        return self._drive(self._flows.document("DELETE", "tasks", task_id))

    def retry(self, task_id: str) -> dict[str, Any]:
        """Queue a failed task again, under its id.

        Raises:
            ConflictError: it has not failed. After a broken connection the first attempt may have queued it.
            UnknownTaskError, GoneError: there is no such task, or no longer.
            ConnectionFailedError: no answer, for as long as the client's patience.
        """
        return self._drive(self._flows.document("POST", "tasks", task_id, "retry"))

    def tasks(
        self, *, state: str | None = None, target: str | None = None, group: str | None = None, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """The status documents of the tasks that fit, newest first, page by page; at most `limit` of them.

        Raises:
            InvalidParameterError: no such state.
            ConnectionFailedError: no answer, for as long as the client's patience.
        """
        pages = Pages({"state": state, "target": target, "group": group}, limit)
        while pages.left:
            yield from pages.add(self._drive(self._flows.page(pages.query)))

    @overload
    def map(
        self,
        target: str,
        iterable: Iterable[Inputs],
        *,
        concurrency: int = 16,
        progress: bool | None = None,
        return_errors: Literal[False] = False,
        **options: Any,
    ) -> Generator[Result, None, None]: ...

    @overload
    def map(
        self,
        target: str,
        iterable: Iterable[Inputs],
        *,
        concurrency: int = 16,
        progress: bool | None = None,
        return_errors: bool,
        **options: Any,
    ) -> Generator[Result | Exception, None, None]: ...

    def map(
        self,
        target: str,
        iterable: Iterable[Inputs],
        *,
        concurrency: int = 16,
        progress: bool | None = None,
        return_errors: bool = False,
        **options: Any,
    ) -> Generator[Result | Exception, None, None]:
        """Run every item; the results come in the items' order, each as soon as it and those before it are there.

        Up to `concurrency` items are under way at once. Items are drawn in the caller's thread, and never more than
        twice as many as are under way before the first of them is taken. `options` are those of `submit_task` but
        for the idempotency key: every item has its own. On a terminal a bar on stderr shows the count, the rate and
        the time left; `progress` True or False overrides that.

        When the caller stops early the connections are closed and the threads end; tasks that were submitted go on.
        ``contextlib.closing`` around it says when.

        Raises:
            ValueError: `concurrency` is below 1.
            TypeError: an idempotency key was given.
            ClientError, TypeError: as `run`, in an item's place, after the results before it. With `return_errors`
                the error itself is given in that place, and the rest goes on.
        """
        check_map(concurrency, options)

        # Connections of its own where httpx makes them, so that they can be closed under threads that wait on them.
        def work(item: Inputs, lines: Lines) -> Result:
            flow = self._flows.run(target, item, None, None, options)
            return self._drive(flow, lines.http or self._http, lines.stop, lines.trace)

        connect = self._connect if self._transport is None else None
        return in_order(work, iterable, connect, concurrency, progress, return_errors, target)

    def _drive(
        self,
        flow: Flow[T],
        http: httpx.Client | None = None,
        stop: threading.Event | None = None,
        trace: _Trace | None = None,
    ) -> T:
        """Do what the flow wants until it returns."""
        http, stop = http or self._http, stop or self._closed
        extensions = {} if trace is None else {"trace": trace}
        try:
            step = next(flow)
            while True:
                if stop.is_set():
                    flow.close()
                    raise RuntimeError("the client is closed")
                if isinstance(step, float):
                    self._timing.wait(stop, step)
                    step = next(flow)
                    continue
                request = wire.request(step, self._timeout)
                try:
                    response = http.request(**request, extensions=extensions)
                except httpx.RequestError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

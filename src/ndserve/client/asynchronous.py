"""The client for asyncio: the methods of `Client`, as coroutines. They raise what those raise."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import httpx2 as httpx

from ndserve.client import wire
from ndserve.client.body import AsyncBody, Body
from ndserve.client.flows import Flow, Flows, Pages, check_map
from ndserve.client.mapping import in_order_async
from ndserve.client.models import AsyncModels
from ndserve.client.retry import Timing
from ndserve.client.wire import Inputs, Result
from ndserve.types import Parameter

T = TypeVar("T")


class AsyncClient:
    """A server, as coroutines. The parameters are those of `Client`.

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
        transport: httpx.AsyncBaseTransport | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._timing = timing or Timing()
        self._flows = Flows(url, patience, self._timing)
        self._timeout = timeout
        self._http = httpx.AsyncClient(transport=transport, **wire.http_options(timeout, headers, api_key))

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @property
    def models(self) -> AsyncModels:
        """As `Client.models`, with coroutines."""
        return AsyncModels(self._flows, self._drive)

    async def health_check(self) -> dict[str, Any]:
        """As `Client.health_check`.

        Raises:
            ConnectionFailedError, UnexpectedAnswerError: as there.
        """
        return await self._drive(self._flows.health())

    async def submit_task(
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
        """As `Client.submit_task`.

        Raises:
            TypeError, ConnectionFailedError, ServerError: as there.
        """
        own: dict[str, Any] = {"priority": priority, "ttl": ttl, "version": version, "cast": cast, "split": split}
        own |= {"start_within": start_within, "run_within": run_within}
        own |= {"webhook": webhook, "webhook_events": webhook_events}
        return await self._drive(self._flows.submit(target, inputs, idempotency_key, {**own, **parameters}))

    @overload
    async def get_result(self, task_id: str, wait: None) -> Result: ...

    @overload
    async def get_result(self, task_id: str, wait: float | None = 0.0) -> Result | None: ...

    async def get_result(self, task_id: str, wait: float | None = 0.0) -> Result | None:
        """As `Client.get_result`.

        Raises:
            TaskFailedError, GoneError, UnknownTaskError, ConnectionFailedError: as there.
        """
        return await self._drive(self._flows.result(task_id, wait))

    async def run(
        self,
        target: str,
        inputs: Inputs,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the task goes on; asyncio.timeout would leave it unnamed
        **options: Any,
    ) -> Result:
        """As `Client.run`.

        Raises:
            UnfinishedTaskError, TaskFailedError, GoneError, TypeError, ConnectionFailedError, ServerError: as there.
        """
        key = options.pop("idempotency_key", None)
        return await self._drive(self._flows.run(target, inputs, key, timeout, options))

    async def status(self, task_id: str) -> dict[str, Any]:
        """As `Client.status`.

        Raises:
            UnknownTaskError, GoneError, ConnectionFailedError: as there.
        """
        return await self._drive(self._flows.document("GET", "tasks", task_id))

    async def cancel(self, task_id: str) -> dict[str, Any]:
        """As `Client.cancel`.

        Raises:
            UnknownTaskError, GoneError, ConnectionFailedError: as there.
        """
        return await self._drive(self._flows.document("DELETE", "tasks", task_id))

    async def retry(self, task_id: str) -> dict[str, Any]:
        """As `Client.retry`.

        Raises:
            ConflictError, UnknownTaskError, GoneError, ConnectionFailedError: as there.
        """
        return await self._drive(self._flows.document("POST", "tasks", task_id, "retry"))

    async def tasks(
        self, *, state: str | None = None, target: str | None = None, group: str | None = None, limit: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """As `Client.tasks`.

        Raises:
            InvalidParameterError, ConnectionFailedError: as there.
        """
        pages = Pages({"state": state, "target": target, "group": group}, limit)
        while pages.left:
            for status in pages.add(await self._drive(self._flows.page(pages.query))):
                yield status

    @overload
    def map(
        self,
        target: str,
        iterable: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        concurrency: int = 16,
        progress: bool | None = None,
        return_errors: Literal[False] = False,
        **options: Any,
    ) -> AsyncGenerator[Result, None]: ...

    @overload
    def map(
        self,
        target: str,
        iterable: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        concurrency: int = 16,
        progress: bool | None = None,
        return_errors: bool,
        **options: Any,
    ) -> AsyncGenerator[Result | Exception, None]: ...

    def map(
        self,
        target: str,
        iterable: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        concurrency: int = 16,
        progress: bool | None = None,
        return_errors: bool = False,
        **options: Any,
    ) -> AsyncGenerator[Result | Exception, None]:
        """As `Client.map`; the items may come from an async iterator.

        To stop early and have all that is under way ended at once, take it in `contextlib.aclosing`.

        Raises:
            ValueError, TypeError, ClientError: as there.
        """
        check_map(concurrency, options)

        def work(item: Inputs) -> Any:
            return self._drive(self._flows.run(target, item, None, None, options))

        return in_order_async(work, iterable, concurrency, progress, return_errors, target)

    async def _drive(self, flow: Flow[T]) -> T:
        """Do what the flow wants until it returns."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, float):
                    await self._timing.sleep(step)
                    step = next(flow)
                    continue
                request = wire.request(step, self._timeout)
                if isinstance(step.content, Body):
                    request["content"] = AsyncBody(step.content)
                try:
                    response = await self._http.request(**request)
                except httpx.RequestError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

"""Many items at once, in order: threads for the client that blocks, tasks for the other one."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import httpx2 as httpx

from ndserve.client.progress import progress_bar

AHEAD = 2
"""So many times the items under way may be drawn and not yet taken: one slow item does not stop the others at once."""

T = TypeVar("T")
R = TypeVar("R")
Outcome: TypeAlias = R | Exception


class Lines:
    """The connections of one map, which `cut` takes away from the threads that wait on them.

    A thread in `recv` does not notice that its socket is closed, but it does notice a shutdown.
    """

    def __init__(self, http: httpx.Client | None) -> None:
        self.http = http
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """What httpx says while it works: here, which sockets it has opened."""
        if not event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            return
        opened = info["return_value"].get_extra_info("socket")
        with self._lock:
            self._sockets = [each for each in self._sockets if each.fileno() >= 0]
            self._sockets.append(opened)
            if self.stop.is_set():
                _shut(opened)

    def cut(self) -> None:
        """End every request, now and later."""
        self.stop.set()
        with self._lock:
            for each in self._sockets:
                _shut(each)


def _shut(each: socket.socket) -> None:
    # It may have been closed, or become part of a TLS socket.
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


def in_order(
    work: Callable[[T, Lines], R],
    items: Iterable[T],
    connect: Callable[[], httpx.Client] | None,
    concurrency: int,
    progress: bool | None,
    return_errors: bool,
    label: str,
) -> Generator[Outcome[R], None, None]:
    """The results of `work`, in the order of `items`, from `concurrency` threads."""
    lines = Lines(None if connect is None else connect())

    def attempt(item: T, done: Callable[[], None]) -> Outcome[R]:
        try:
            return work(item, lines)
        except Exception as error:
            return error
        finally:
            done()

    threads = ThreadPoolExecutor(concurrency, "ndserve-map")
    try:
        with progress_bar(label, _length(items), progress) as done:
            waiting: deque[Any] = deque()
            taken = 0
            for item in items:
                waiting.append(threads.submit(attempt, item, done))
                while waiting and (len(waiting) >= AHEAD * concurrency or waiting[0].done()):
                    yield _given(waiting.popleft().result(), return_errors, taken)
                    taken += 1
            while waiting:
                yield _given(waiting.popleft().result(), return_errors, taken)
                taken += 1
    finally:
        lines.cut()
        threads.shutdown(cancel_futures=True)
        if lines.http is not None:
            lines.http.close()


async def in_order_async(
    work: Callable[[T], Awaitable[R]],
    items: Iterable[T] | AsyncIterable[T],
    concurrency: int,
    progress: bool | None,
    return_errors: bool,
    label: str,
) -> AsyncGenerator[Outcome[R], None]:
    """The results of `work`, in the order of `items`, from `concurrency` tasks."""
    places = asyncio.Semaphore(concurrency)
    waiting: deque[asyncio.Task[Outcome[R]]] = deque()

    async def attempt(item: T, done: Callable[[], None]) -> Outcome[R]:
        async with places:
            try:
                return await work(item)
            except Exception as error:
                return error
            finally:
                done()

    try:
        with progress_bar(label, _length(items), progress) as done:
            taken = 0
            async for item in _drawn(items):
                waiting.append(asyncio.create_task(attempt(item, done)))
                while waiting and (len(waiting) >= AHEAD * concurrency or waiting[0].done()):
                    await asyncio.wait([waiting[0]])
                    yield _given(waiting.popleft().result(), return_errors, taken)
                    taken += 1
            while waiting:
                await asyncio.wait([waiting[0]])
                yield _given(waiting.popleft().result(), return_errors, taken)
                taken += 1
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _given(outcome: Outcome[R], return_errors: bool, place: int) -> Outcome[R]:
    if isinstance(outcome, Exception) and not return_errors:
        outcome.add_note(f"item {place} of the map, counted from 0")
        raise outcome
    return outcome


async def _drawn(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _length(items: Any) -> int | None:
    try:
        return len(items)
    except TypeError:
        return None

"""One thread that alone touches one device."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from ndserve.devices.base import Device
from ndserve.errors import EngineDeadError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_Work = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Lane:
    """Runs what it is given, in order, on its own thread inside the device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._given: set[asyncio.Future[Any]] = set()
        self._dead = ""
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"ndserve-{device.name}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_dead: Callable[[str], None] | None = None

    def start(self, on_dead: Callable[[str], None]) -> None:
        """Start the thread; results go to the event loop that runs now, and so does the news that it has died."""
        self._loop = asyncio.get_running_loop()
        self._on_dead = on_dead
        self._thread.start()

    @property
    def in_flight(self) -> int:
        """The pieces of work that have been given and have not come back."""
        return len(self._given)

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """What `work` gives or raises on the lane's thread; EngineDeadError when the thread has died."""
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        if self._dead:
            future.set_exception(EngineDeadError(self._dead))
        else:
            self._given.add(future)
            self._queue.put((work, future))
        return future

    def stop(self, timeout: float) -> bool:
        """End the thread after what it has been given. False when it has not ended within `timeout` seconds."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    async def delivered(self) -> None:
        """Wait until everything that was given has come back."""
        await asyncio.gather(*self._given, return_exceptions=True)
        await asyncio.sleep(0)  # for whoever is to hear of what came back in this very turn

    def _serve(self) -> None:
        assert self._loop is not None
        try:
            with self.device:
                self._work(self._loop)
        except BaseException as error:
            logger.critical("the lane of %s has died", self.device.name, exc_info=error)
            reason = f"the lane of {self.device.name} has died: {describe_error(error)}"
            self._loop.call_soon_threadsafe(self._die, reason)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (item := self._queue.get()) is not None:
            work, future = item
            result: Any = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as raised:  # a user's code may raise anything; the lane goes on
                # A future cannot carry these, and SystemExit is not for a process to ask for.
                plain = isinstance(raised, Exception) and not isinstance(raised, StopIteration)
                error = raised if plain else RuntimeError(describe_error(raised))
            if loop.is_closed():
                return  # nobody is left to take the result
            loop.call_soon_threadsafe(self._deliver, future, result, error)
            del item, work, future, result, error  # hold no arrays while waiting

    def _deliver(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._given.discard(future)
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def _die(self, reason: str) -> None:
        assert self._on_dead is not None
        self._dead = reason
        given, self._given = self._given, set()
        for future in given:
            if not future.done():
                future.set_exception(EngineDeadError(reason))
        self._on_dead(reason)


def describe_error(error: BaseException) -> str:
    """`ValueError: what it says`, also for an exception whose own text cannot be had, or is no valid Unicode."""
    return tellable("".join(traceback.format_exception_only(error)).strip())


def tellable(text: str) -> str:
    """The text as UTF-8 can carry it: a file name of Python's may hold lone surrogates, which nothing can encode."""
    return text.encode("utf-8", "backslashreplace").decode()

"""Long-polling: a caller's wait for a task, without polling and without outliving the caller."""

from __future__ import annotations

import asyncio

from ndserve.engine.waiters import Waiters
from ndserve.routes.asgi import ClientGoneError, Receive
from ndserve.types import Task

WATCH_AFTER = 0.05
"""Seconds after which the connection is watched, too. Most answers are out by then, and a watcher costs more than
all the rest of a wait."""


async def until_settled(waiters: Waiters, task: Task, receive: Receive, seconds: float) -> bool:
    """Wait until the task ends, at most that long. True when it has ended.

    Raises:
        ClientGoneError: the caller hung up.
    """
    if await _wait(waiters, task, min(seconds, WATCH_AFTER)):
        return True
    if seconds <= WATCH_AFTER:
        return False
    watcher = asyncio.create_task(_hang_up(receive))
    try:
        ended = await _wait(waiters, task, seconds - WATCH_AFTER, watcher)
        if not ended and watcher.done():
            raise ClientGoneError
        return ended
    finally:
        watcher.cancel()


async def _wait(waiters: Waiters, task: Task, seconds: float, watcher: asyncio.Task[None] | None = None) -> bool:
    """True when the task ends first; False when the time is up or the watcher is done."""
    if not task.live:
        return True
    future = waiters.add(task)
    timer = asyncio.get_running_loop().call_later(seconds, _give_up, future)
    if watcher is not None:
        watcher.add_done_callback(lambda _: _give_up(future))
    ended = False
    try:
        ended = await future
    finally:
        timer.cancel()
        if not ended:
            waiters.remove(task, future)
    return ended


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


async def _hang_up(receive: Receive) -> None:
    """Ends when the client hangs up; what is left of its request comes first."""
    while (await receive())["type"] != "http.disconnect":
        pass

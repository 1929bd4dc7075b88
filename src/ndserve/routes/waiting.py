"""Long-polling: a caller's wait for a task, without polling and without outliving the caller."""

from __future__ import annotations

import asyncio

from ndserve.engine.waiters import PATIENCE, Waiter, Waiters, nudge
from ndserve.routes.asgi import ClientGoneError, Receive
from ndserve.types import Task


async def until_settled(waiters: Waiters, task: Task, receive: Receive, seconds: float) -> bool:
    """Wait until the task ends, at most that long. True when it has ended.

    The connection is watched only once the first moments have passed: a watcher costs more than all the rest of
    a wait, and most answers are out by then.

    Raises:
        ClientGoneError: the caller hung up.
    """
    if not task.live:
        return True
    if seconds > 2 * PATIENCE:
        waiter = waiters.add_patient(task)
        try:
            if await waiter:
                return True
        finally:
            if task.live:
                waiters.remove(task, waiter)
        if not task.live:  # it ended in the same turn in which the waiter gave up, and wakes nobody any more
            return True
        seconds -= PATIENCE
    return await _watched(waiters, task, receive, seconds)


async def _watched(waiters: Waiters, task: Task, receive: Receive, seconds: float) -> bool:
    waiter = waiters.add(task)
    timer = asyncio.get_running_loop().call_later(seconds, nudge, waiter)
    watcher = asyncio.create_task(_hang_up(receive, waiter))
    try:
        ended = await waiter
        if not ended and watcher.done():
            raise ClientGoneError
        return ended
    finally:
        timer.cancel()
        watcher.cancel()
        waiters.remove(task, waiter)


async def _hang_up(receive: Receive, waiter: Waiter) -> None:
    """Ends, and wakes the waiter, when the client hangs up; what is left of its request comes first."""
    while (await receive())["type"] != "http.disconnect":
        pass
    nudge(waiter)

"""Long-polling: a caller's wait for an end, without polling and without outliving the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ndserve.engine.waiters import PATIENCE, Waiter, Waiters, nudge
from ndserve.routes.asgi import ClientGoneError, Receive


async def until_ended(
    waiters: Waiters, task_id: str, has_ended: Callable[[], bool], receive: Receive, seconds: float
) -> None:
    """Wait until the task or group of that id has ended, at most that long.

    The connection is watched only once the first moments have passed: a watcher costs more than all the rest of
    a wait, and most answers are out by then.

    Raises:
        ClientGoneError: the caller hung up.
    """
    if has_ended():
        return
    if seconds > 2 * PATIENCE:
        waiter = waiters.add_patient(task_id)
        try:
            if await waiter:
                return
        except BaseException:
            waiters.remove(task_id, waiter)
            raise
        waiters.remove(task_id, waiter)
        if has_ended():  # in the same turn in which the waiter gave up, and it wakes nobody any more
            return
        seconds -= PATIENCE
    if not waiters.closed:
        await _watched(waiters, task_id, receive, seconds)


async def _watched(waiters: Waiters, task_id: str, receive: Receive, seconds: float) -> None:
    waiter = waiters.add(task_id)
    timer = asyncio.get_running_loop().call_later(seconds, nudge, waiter)
    watcher = asyncio.create_task(_hang_up(receive, waiter))
    try:
        if not await waiter and watcher.done():
            raise ClientGoneError
    finally:
        timer.cancel()
        watcher.cancel()
        waiters.remove(task_id, waiter)


async def _hang_up(receive: Receive, waiter: Waiter) -> None:
    """Ends, and wakes the waiter, when the client hangs up; what is left of its request comes first."""
    while (await receive())["type"] != "http.disconnect":
        pass
    nudge(waiter)

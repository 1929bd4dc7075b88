"""A wait ends when its task does, also when that happens in the turn in which the wait looks around."""

from __future__ import annotations

import asyncio

from ndserve.engine.waiters import PATIENCE, Waiters
from ndserve.routes.asgi import Message
from ndserve.routes.waiting import until_ended
from ndserve.types import TaskState
from tests.unit.engine.rig import batch_key, make_task


async def _silent() -> Message:
    """A connection on which nothing happens any more."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def test_a_task_that_ends_in_the_turn_in_which_patience_ends_is_noticed() -> None:
    async def main() -> None:
        waiters, task = Waiters(), make_task("a", batch_key())
        waiting = asyncio.create_task(until_ended(waiters, task.id, lambda: not task.live, _silent, 3600))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        waiters._tick(loop)  # what was young is old
        waiters._tick(loop)  # what is old gives up
        task.settle(TaskState.SUCCEEDED, 1.0, outputs={})
        waiters.wake([task.id])
        async with asyncio.timeout(20 * PATIENCE):
            await waiting

    asyncio.run(main())


def test_a_wait_goes_on_after_patience_has_ended_and_ends_with_its_task() -> None:
    async def main() -> None:
        waiters, task = Waiters(), make_task("a", batch_key())
        waiting = asyncio.create_task(until_ended(waiters, task.id, lambda: not task.live, _silent, 3600))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        waiters._tick(loop)
        waiters._tick(loop)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert len(waiters) == 1
        task.settle(TaskState.SUCCEEDED, 1.0, outputs={})
        waiters.wake([task.id])
        async with asyncio.timeout(20 * PATIENCE):
            await waiting

    asyncio.run(main())

"""What a server finds at its start, and leaves behind at its end: in which order, and without waiting for nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ndserve.engine.tasks import Tasks
from ndserve.errors import ShuttingDownError
from ndserve.processes.base import process
from ndserve.types import TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Gate, ended, gated, item, run, serving, tick, twice
from tests.unit.engine.test_service_ends import LockedDevice
from tests.unit.engine.test_service_restart import left


def test_what_was_left_behind_runs_in_the_order_in_which_it_came() -> None:
    seen: list[float] = []

    @process("seen", batched=True)
    def see(xp: Any, x: Any) -> Any:
        seen.extend(x[:, 0].tolist())
        return x

    async def main() -> None:
        tasks = [left(name, "seen") for name in "cab"]
        for number, task in enumerate(tasks):
            task.inputs["x"][:] = number
        async with serving(see, store=DurableFake(tasks, prompt=True), max_batch=1) as service:
            await ended(service, *tasks)
            assert seen == [0, 1, 2]

    run(main())


def test_a_second_drain_waits_for_the_first() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            await gate.reached()
            first, second = asyncio.create_task(service.drain(60)), asyncio.create_task(service.drain(0))
            await tick()
            assert not second.done()
            gate.open()
            await asyncio.gather(first, second)
            assert task.state is TaskState.SUCCEEDED

    run(main())


def test_the_stored_tasks_of_a_dead_engine_do_not_hold_up_its_drain() -> None:
    async def main() -> None:
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        store = DurableFake(prompt=True)
        async with serving(twice, device=LockedDevice(), store=store, on_dead=died.set_result) as service:
            task = await service.submit("twice", item(1))
            await died
            await service.drain(1e6)
            assert service.ledger.live == {task.id: task}

    run(main())


def test_a_cancel_that_is_not_stored_when_the_server_ends_is_not_told_as_done() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            await gate.reached()
            store.prompt = False
            await service.drain(0)
            with pytest.raises(ShuttingDownError):
                await Tasks(service).delete(task)
            for commit in store.finishes:
                if not commit.done():
                    commit.set_result(None)

    run(main())

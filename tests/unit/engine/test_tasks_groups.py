"""Groups: what was asked for the whole holds for its tasks, and what becomes of the whole when they differ."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ndserve.engine.tasks import Tasks
from ndserve.errors import GoneError, NotAcceptableError
from ndserve.processes.base import process
from ndserve.types import TaskOptions, TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Clock, Gate, check_empty, ended, gated, item, run, serving, tick, twice

X2 = {"x": np.array([[1.0], [2.0]], np.float32)}


def test_a_group_of_higher_priority_runs_before_a_task_that_came_earlier() -> None:
    seen: list[float] = []
    gate = Gate()

    @process("seen", batched=True)
    def see(xp: Any, x: Any) -> Any:
        seen.extend(x[:, 0].tolist())
        gate.hold()
        return x

    async def main() -> None:
        async with serving(see, max_batch=1, gates=[gate]) as service:
            first = await service.submit("seen", item(-1))
            await gate.reached()
            earlier = await service.submit("seen", item(-2))
            group = await Tasks(service).submit_split("seen", X2, options=TaskOptions(priority=9))
            gate.open()
            await service.waiters.add(group.id)
            await ended(service, first, earlier)
            assert seen == [-1, 1, 2, -2]

    run(main())


def test_every_task_of_a_group_that_has_not_started_in_time_expires() -> None:
    async def main() -> None:
        gate, clock = Gate(), Clock()
        async with serving(gated(gate), clock=clock, max_batch=1, gates=[gate]) as service:
            tasks, blocker = Tasks(service), await service.submit("gated", item(1))
            await gate.reached()
            group = await tasks.submit_split("gated", X2, options=TaskOptions(start_within=5.0))
            clock.now += 6
            gate.open()
            await service.waiters.add(group.id)
            await ended(service, blocker)
            status = await tasks.group(group.id)
            assert (status.state, status.counts["expired"]) == (TaskState.EXPIRED, 2)

    run(main())


def test_results_that_differ_in_shape_have_no_whole() -> None:
    @process("ragged", batched=False)
    def ragged(xp: Any, x: Any) -> Any:
        return xp.zeros(int(x[0]), dtype=x.dtype)

    async def main() -> None:
        async with serving(ragged) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("ragged", X2)
            await service.waiters.add(group.id)
            with pytest.raises(NotAcceptableError, match="differ in shape or dtype"):
                await tasks.stacked(await tasks.group(group.id))

    run(main())


def test_a_group_whose_ends_are_being_stored_is_removed_after_that() -> None:
    async def main() -> None:
        store = DurableFake(prompt=True)
        async with serving(twice, store=store) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("twice", X2)
            store.prompt = False
            while not store.finishes:
                await tick()
            deleting = asyncio.create_task(tasks.delete_group(await tasks.group(group.id)))
            await tick()
            assert not deleting.done()
            store.commit()
            assert await deleting == "result_removed"
            with pytest.raises(GoneError, match="its result was deleted"):
                await tasks.group(group.id)
            check_empty(service)

    run(main())


def test_a_group_that_was_partly_cancelled_runs_the_rest_of_its_tasks() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), max_batch=1, gates=[gate]) as service:
            tasks, blocker = Tasks(service), await service.submit("gated", item(1))
            await gate.reached()
            group = await tasks.submit_split("gated", X2)
            assert await tasks.delete(await service.find(f"{group.id}-0")) == "never_ran"
            gate.open()
            await service.waiters.add(group.id)
            await ended(service, blocker)
            status = await tasks.group(group.id)
            assert status.state is TaskState.CANCELLED
            assert (status.counts["cancelled"], status.counts["succeeded"]) == (1, 1)

    run(main())

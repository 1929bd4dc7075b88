"""Deleting: what is said of it is so, and in the store by then."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ndserve.engine.tasks import Tasks
from ndserve.errors import GoneError
from ndserve.types import TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Gate, check_empty, ended, gated, item, run, serving, tick, twice

X3 = {"x": np.zeros((3, 1), np.float32)}


# delete


def test_a_queued_task_that_is_deleted_never_ran() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            await service.submit("gated", item(1))
            await gate.reached()
            task = await service.submit("gated", item(2))
            assert await Tasks(service).delete(task) == "never_ran"
            assert (task.state, task.attempts) == (TaskState.CANCELLED, 0)

    run(main())


def test_the_result_of_a_running_task_that_is_deleted_is_dropped() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            await gate.reached()
            assert await Tasks(service).delete(task) == "result_dropped"
            gate.open()
            await service.lane.delivered()
            assert (task.state, task.outputs) == (TaskState.CANCELLED, None)

    run(main())


def test_a_task_that_stands_behind_another_batch_and_is_deleted_never_ran() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), max_batch=1, gates=[gate]) as service:
            await service.submit("gated", item(1))
            await gate.reached()
            task = await service.submit("gated", item(2))
            await tick()
            assert service.lane.in_flight == 2
            assert await Tasks(service).delete(task) == "never_ran"

    run(main())


def test_the_result_of_an_ended_task_that_is_deleted_is_removed() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            task = await service.submit("twice", item(1))
            await ended(service, task)
            assert await Tasks(service).delete(task) == "result_removed"
            with pytest.raises(GoneError, match="its result was deleted"):
                await service.find(task.id)

    run(main())


def test_a_deletion_is_told_once_the_store_has_it() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            await gate.reached()
            store.prompt = False
            deleting = asyncio.create_task(Tasks(service).delete(task))
            await tick()
            assert not deleting.done()
            store.commit()
            assert await deleting == "result_dropped"
            check_empty(service)

    run(main())


def test_a_task_whose_end_is_being_stored_is_removed_after_that() -> None:
    async def main() -> None:
        store = DurableFake(prompt=True)
        async with serving(twice, store=store) as service:
            task = await service.submit("twice", item(1))
            store.prompt = False
            while not store.finishes:
                await tick()
            deleting = asyncio.create_task(Tasks(service).delete(task))
            await tick()
            assert not deleting.done()
            store.commit()
            assert await deleting == "result_removed"
            check_empty(service)

    run(main())


# delete a group


def test_a_group_that_is_deleted_while_it_is_queued_never_ran() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            tasks = Tasks(service)
            await service.submit("gated", item(1))
            await gate.reached()
            group = await tasks.submit_split("gated", X3)
            assert await tasks.delete_group(await tasks.group(group.id)) == "never_ran"
            assert (await tasks.group(group.id)).state is TaskState.CANCELLED

    run(main())


def test_a_group_that_is_deleted_while_some_of_it_runs_drops_those_results() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), max_batch=2, gates=[gate]) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("gated", X3)
            await gate.reached()
            assert await tasks.delete_group(await tasks.group(group.id)) == "result_dropped"
            assert (await tasks.group(group.id)).counts["cancelled"] == 3

    run(main())


def test_a_group_of_which_some_have_ended_keeps_those_results() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(twice, gated(gate), gates=[gate]) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("gated", X3)
            await gate.reached()
            (first, *_) = list(service.ledger.live.values())
            service.ledger.settle([(first, TaskState.SUCCEEDED, {"output": np.ones(1)}, None)])
            assert await tasks.delete_group(await tasks.group(group.id)) == "result_dropped"
            assert (await service.find(first.id)).state is TaskState.SUCCEEDED

    run(main())


def test_an_ended_group_that_is_deleted_is_removed_with_all_its_results() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("twice", X3)
            await service.waiters.add(group.id)
            assert await tasks.delete_group(await tasks.group(group.id)) == "result_removed"
            with pytest.raises(GoneError, match="deleted"):
                await tasks.group(group.id)
            with pytest.raises(GoneError, match="deleted"):
                await service.find(f"{group.id}-2")

    run(main())


def test_the_deletion_of_a_group_is_told_once_the_store_has_it() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("gated", X3)
            await gate.reached()
            store.prompt = False
            deleting = asyncio.create_task(tasks.delete_group(await tasks.group(group.id)))
            await tick()
            assert not deleting.done()
            store.commit()
            assert await deleting == "result_dropped"
            check_empty(service)

    run(main())

"""Over a store that outlives the service, its end is not that of its tasks: they run at the next start."""

from __future__ import annotations

import asyncio
from typing import Self

import numpy as np
import pytest

from ndserve.errors import ModelLoadError
from ndserve.model_info import ModelInfo
from ndserve.types import BatchKey, Task, TaskOptions, TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import (
    Gate,
    Shelf,
    check_empty,
    code,
    ended,
    gated,
    item,
    model_info,
    output,
    run,
    serving,
    tick,
    twice,
)
from tests.unit.engine.test_service_ends import LockedDevice, SickDevice


def left(name: str, target: str = "twice", attempts: int = 0, options: TaskOptions | None = None) -> Task:
    """A task that a server before this one has left behind."""
    inputs = {"x": np.ones((1, 4), np.float32)}
    task = Task(name, BatchKey(target, "", (), ()), inputs, 1, True, 900.0, options or TaskOptions())
    task.attempts = attempts
    return task


# starting


def test_what_a_dead_server_has_left_behind_runs_again() -> None:
    async def main() -> None:
        store = DurableFake([left("a"), left("b", attempts=2)], prompt=True)
        async with serving(twice, store=store) as service:
            tasks = [await service.find(name) for name in "ab"]
            await ended(service, *tasks)
            assert [output(task).tolist() for task in tasks] == [[2] * 4] * 2
            assert [task.attempts for task in tasks] == [1, 3]
            await tick()
            check_empty(service)

    run(main())


def test_what_cannot_run_any_more_ends_at_the_start() -> None:
    async def main() -> None:
        late, poison, lost = left("a", options=TaskOptions(start_within=50.0)), left("b", attempts=3), left("c", "gone")
        store = DurableFake([late, poison, lost], prompt=True)
        async with serving(twice, store=store) as service:
            await ended(service, late, poison, lost)
            assert [code(task) for task in (late, poison, lost)] == ["expired", "interrupted", "unknown_target"]
            await tick()
            check_empty(service)

    run(main())


def test_a_start_loads_the_models_of_what_was_left_behind() -> None:
    async def main() -> None:
        task, shelf = left("a", "m"), Shelf()
        async with serving(models=[model_info()], shelf=shelf, store=DurableFake([task], prompt=True)) as service:
            await ended(service, task)
            assert (output(task, "y").tolist(), shelf.opened) == ([2] * 4, ["m"])

    run(main())


# ending


def test_a_drained_service_leaves_stored_tasks_alone_and_releases_everybody_who_waits() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            tasks = [await service.submit("gated", item(1))]
            await gate.reached()
            tasks.append(await service.submit("gated", item(2)))
            waiting = [service.waiters.add(task.id) for task in tasks]
            with service.ledger.watchers.watch(tasks[1].id) as changed:
                await service.drain(0)
                assert changed.is_set()
            assert [await waiter for waiter in waiting] == [False, False]
            assert [task.state for task in tasks] == [TaskState.RUNNING, TaskState.QUEUED]
            assert store.finished == []

    run(main())


def test_a_drained_service_fails_what_was_not_stored() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            waiting = asyncio.create_task(service.infer("gated", item(1)))
            await gate.reached()
            await service.drain(0)
            with pytest.raises(Exception, match="shut down before the task was finished"):
                await waiting

    run(main())


def test_an_end_that_is_decided_while_the_service_drains_is_waited_for() -> None:
    async def main() -> None:
        store = DurableFake(prompt=True)
        async with serving(twice, store=store) as service:
            store.prompt = False
            submitting = asyncio.create_task(service.submit("twice", item(1)))
            while not store.finishes:
                await tick()
            draining = asyncio.create_task(service.drain(60))
            await tick()
            assert not draining.done()
            store.commit()
            await asyncio.gather(submitting, draining)

    run(main())


def test_a_result_that_comes_while_the_service_closes_is_stored() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            await gate.reached()
            await service.drain(0)
        assert (task.state, task.public) == (TaskState.SUCCEEDED, True)

    run(main())


def test_a_lane_that_dies_leaves_stored_tasks_for_the_next_start() -> None:
    async def main() -> None:
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        store = DurableFake(prompt=True)
        async with serving(twice, device=LockedDevice(), store=store, on_dead=died.set_result) as service:
            tasks = [await service.submit("twice", item(n)) for n in range(3)]
            await died
            await tick(20)
            assert [code(task) for task in tasks] == [None] * 3
            assert store.finished == []

    run(main())


def test_a_lane_that_dies_while_a_model_loads_leaves_the_tasks_that_wait_for_it() -> None:
    class Dying(LockedDevice):
        def __enter__(self) -> Self:
            entry.hold()
            return super().__enter__()

    entry, gate = Gate(), Gate()

    async def main() -> None:
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        store, shelf = DurableFake(prompt=True), Shelf(on_open=lambda info: gate.hold())
        async with serving(
            models=[model_info()],
            shelf=shelf,
            device=Dying(),
            store=store,
            on_dead=died.set_result,
            gates=[entry, gate],
        ) as service:
            task = await service.submit("m", item(1, 2, 3, 4))
            await gate.reached()
            entry.open()
            await died
            gate.open()
            with pytest.raises(ModelLoadError):
                async with service.cache.loaded(service.target("m").models):
                    pass
            await tick(20)
            assert (code(task), store.finished) == (None, [])

    run(main())


def test_a_load_that_fails_of_a_sick_device_leaves_the_stored_tasks_for_the_next_start() -> None:
    def fail(info: ModelInfo) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    async def main() -> None:
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        store, shelf = DurableFake(prompt=True), Shelf(on_open=fail)
        async with serving(
            models=[model_info()], shelf=shelf, device=SickDevice(), store=store, on_dead=died.set_result
        ) as service:
            task = await service.submit("m", item(1, 2, 3, 4))
            assert "no longer answers" in await died
            await tick(20)
            assert (code(task), store.finished) == (None, [])

    run(main())


def test_a_sick_device_leaves_stored_tasks_for_the_next_start_and_gets_no_more_of_them() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        async with serving(gated(gate), device=SickDevice(), store=store, max_batch=1, gates=[gate]) as service:
            tasks = [await service.submit("gated", item(n)) for n in (-1, 1, 2)]
            await gate.reached()
            await tick()
            waiting = service.waiters.add(tasks[2].id)
            gate.open()
            assert not await waiting
            await service.lane.run(lambda: None)
            await tick()
            assert service.dead
            assert [task.state for task in tasks] == [TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.QUEUED]

    run(main())

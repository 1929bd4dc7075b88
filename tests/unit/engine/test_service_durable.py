"""The service over a store that outlives it: nothing is told before it is safe, and nothing accepted is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ndserve.errors import GoneError, StoreFullError, StoreUnavailableError, UnknownTaskError
from ndserve.processes.base import process
from ndserve.types import TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Clock, Gate, check_empty, ended, gated, item, output, run, serving, tick, twice

# accepting


def test_a_task_can_end_before_it_is_stored_and_nobody_hears_of_it() -> None:
    async def main() -> None:
        store = DurableFake()
        async with serving(twice, store=store) as service:
            submitting = asyncio.create_task(service.submit("twice", item(1)))
            while not store.finishes:
                await tick()
            (task,) = service.ledger.live.values()
            assert (task.live, task.public, submitting.done()) == (False, False, False)
            store.commit()
            assert await submitting is task
            await tick()
            assert (task.public, output(task).tolist()) == (True, [2])
            check_empty(service)

    run(main())


def test_the_time_that_the_store_took_is_noted() -> None:
    async def main() -> None:
        store, clock = DurableFake(), Clock()
        async with serving(twice, store=store, clock=clock) as service:
            submitting = asyncio.create_task(service.submit("twice", item(1)))
            await tick()
            clock.now += 0.25
            store.commit()
            assert (await submitting).store_seconds == 0.25

    run(main())


@pytest.mark.parametrize("error", [StoreFullError("full"), StoreUnavailableError("torn")], ids=["full", "unavailable"])
def test_a_task_that_could_not_be_stored_is_refused_and_leaves_the_queue(error: Exception) -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            await service.submit("gated", item(1))
            await gate.reached()
            store.prompt = False
            submitting = asyncio.create_task(service.submit("gated", item(2)))
            await tick()
            assert len(service.worker.batcher) == 1
            store.refuse(error)
            with pytest.raises(type(error)):
                await submitting
            assert (len(service.worker.batcher), len(service.ledger.live)) == (0, 1)
            store.commit()

    run(main())


def test_a_task_that_could_not_be_stored_is_not_told_although_it_has_run() -> None:
    async def main() -> None:
        store = DurableFake()
        async with serving(twice, store=store) as service:
            submitting = asyncio.create_task(service.submit("twice", item(1), task_id="mine"))
            while not store.finishes:
                await tick()
            store.refuse(StoreUnavailableError("torn"))
            with pytest.raises(StoreUnavailableError):
                await submitting
            with pytest.raises(UnknownTaskError):
                await service.find("mine")
            store.commit()
            await tick()
            check_empty(service)

    run(main())


def test_a_caller_that_gives_up_while_its_task_is_stored_takes_the_task_along() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake()
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            submitting = asyncio.create_task(service.submit("gated", item(1)))
            await tick()
            (task,) = service.ledger.live.values()
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)
            store.commit()
            await tick()
            assert (task.state, task.public) == (TaskState.CANCELLED, True)
            check_empty(service)

    run(main())


# keeping a task later


def test_a_task_is_stored_once_its_caller_stops_waiting() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            task = await service.submit("gated", item(1), keep=False)
            await gate.reached()
            assert await store.get(task.id) is None
            await service.keep(task)
            assert await store.get(task.id) is task
            assert store.started == [(task.id, 1000.0)], "it runs already, and must be counted"
            gate.open()
            await ended(service, task)
            assert [tasks for tasks, _, _ in store.finished] == [[task]]

    run(main())


def test_a_task_that_nobody_keeps_never_meets_the_store() -> None:
    async def main() -> None:
        store = DurableFake()
        async with serving(twice, store=store) as service:
            assert (await service.infer("twice", item(1)))["output"].tolist() == [2]
            assert (store.puts, store.started, store.finished) == ([], [], [])
            check_empty(service)

    run(main())


def test_a_task_for_which_the_store_has_no_room_later_is_given_up() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        store._max_tasks = 0
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            task = await service.submit("gated", item(1), keep=False)
            with pytest.raises(StoreFullError):
                await service.keep(task)
            await tick()
            check_empty(service)

    run(main())


# running


def test_the_store_notes_a_start_before_the_device_gets_the_batch() -> None:
    store = DurableFake(prompt=True)
    noted: list[int] = []

    @process("noting", batched=True)
    def noting(xp: Any, x: Any) -> Any:
        noted.append(len(store.started))
        gate.hold()
        return x

    gate = Gate()

    async def main() -> None:
        async with serving(noting, store=store, max_batch=2, gates=[gate]) as service:
            tasks = [await service.submit("noting", item(0))]
            await gate.reached()
            tasks += [await service.submit("noting", item(n)) for n in (1, 2)]  # which the lane takes by itself
            await tick()
            assert len(store.started) == 1, "what stands behind another batch has not begun"
            gate.open()
            await ended(service, *tasks)
            assert noted == [1, 3]
            assert sorted(name for name, _ in store.started) == sorted(task.id for task in tasks)

    run(main())


def test_a_batch_that_is_run_again_in_halves_is_noted_once() -> None:
    @process("marked", batched=True)
    def marked(xp: Any, x: Any) -> Any:
        if (x[:, 0] < 0).any():
            raise ValueError
        return x

    async def main() -> None:
        store = DurableFake(prompt=True)
        async with serving(marked, store=store) as service:
            tasks = [await service.submit("marked", item(n)) for n in (-1, 1, 2, 3)]
            await ended(service, *tasks)
            assert len(store.started) == 4

    run(main())


def test_a_task_that_is_gone_says_why() -> None:
    async def main() -> None:
        store = DurableFake(prompt=True)
        async with serving(twice, store=store) as service:
            task = await service.submit("twice", item(1))
            await ended(service, task)
            await service.store.sweep(1e9, 10)
            with pytest.raises(GoneError, match="its result has expired"):
                await service.find(task.id)

    run(main())

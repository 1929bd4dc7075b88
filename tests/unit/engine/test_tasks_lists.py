"""Looking at many tasks: lists as things are now, groups as a whole, results stacked, places in the queue."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ndserve.engine import groups
from ndserve.engine.service import InferenceService
from ndserve.engine.tasks import DELETED, POSITIONS_SECONDS, Tasks
from ndserve.errors import GoneError, GroupFailedError, NotAcceptableError, UnknownTaskError
from ndserve.stores.base import Query
from ndserve.types import Task, TaskOptions, TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Clock, Gate, ended, gated, item, run, serving, tick, twice


async def one_of_each(service: InferenceService, gate: Gate) -> dict[str, Task]:
    """A task in each of four states; the gate is closed."""
    done = await service.submit("twice", item(1))
    await ended(service, done)
    running = await service.submit("gated", item(1))
    await gate.reached()
    queued = await service.submit("gated", item(2))
    cancelled = await service.submit("gated", item(3))
    service.cancel(cancelled)
    return {"succeeded": done, "running": running, "queued": queued, "cancelled": cancelled}


# lists


def test_a_list_without_a_state_has_all_tasks_newest_first_as_they_are_now() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(twice, gated(gate), gates=[gate]) as service:
            made = await one_of_each(service, gate)
            page = await Tasks(service).page(Query(10))
            assert page == list(reversed(made.values()))
            assert [task.visible_state.value for task in page] == ["cancelled", "queued", "running", "succeeded"]

    run(main())


@pytest.mark.parametrize("state", ["succeeded", "running", "queued", "cancelled"])
def test_a_list_of_one_state_tells_running_tasks_from_queued_ones(state: str) -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(twice, gated(gate), gates=[gate]) as service:
            made = await one_of_each(service, gate)
            assert await Tasks(service).page(Query(10, state=TaskState(state))) == [made[state]]

    run(main())


@pytest.mark.parametrize("state", [None, TaskState.QUEUED])
def test_a_list_can_be_gone_through_page_by_page(state: TaskState | None) -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            first = await service.submit("gated", item(0))
            await gate.reached()
            made = [await service.submit("gated", item(n)) for n in range(5)]
            pages, before = [], None
            for _ in range(2):
                page = await Tasks(service).page(Query(3, before, state=state))
                pages += page
                before = page[-1].seq
            assert [task for task in pages if task is not first] == made[::-1]

    run(main())


def test_an_end_that_is_not_public_is_listed_as_running() -> None:
    async def main() -> None:
        store = DurableFake(prompt=True)
        async with serving(twice, store=store) as service:
            tasks = Tasks(service)
            task = await service.submit("twice", item(1))
            store.prompt = False
            while not store.finishes:
                await tick()
            assert await tasks.page(Query(10, state=TaskState.RUNNING)) == [task]
            assert await tasks.page(Query(10, state=TaskState.SUCCEEDED)) == []
            store.commit()
            await tick()
            assert await tasks.page(Query(10, state=TaskState.SUCCEEDED)) == [task]

    run(main())


def test_a_task_that_is_not_kept_is_in_no_list() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            await service.submit("gated", item(1), keep=False)
            await gate.reached()
            for state in (None, TaskState.RUNNING, TaskState.QUEUED):
                assert await Tasks(service).page(Query(10, state=state)) == []

    run(main())


def test_a_list_can_be_of_one_group_or_target() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(twice, gated(gate), gates=[gate]) as service:
            tasks = Tasks(service)
            await service.submit("gated", item(1))
            await gate.reached()
            group = await tasks.submit_split("gated", {"x": np.zeros((2, 1), np.float32)})
            found = await tasks.page(Query(10, state=TaskState.QUEUED, group=group.id))
            assert [task.id for task in found] == [f"{group.id}-1", f"{group.id}-0"]
            assert await tasks.page(Query(10, state=TaskState.QUEUED, target="twice")) == []

    run(main())


# groups


def test_a_group_tells_its_running_tasks_from_its_queued_ones() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), max_batch=2, gates=[gate]) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("gated", {"x": np.zeros((5, 1), np.float32)})
            assert (await tasks.group(group.id)).state is TaskState.QUEUED
            await gate.reached()
            service.cancel(await service.find(f"{group.id}-4"))
            status = await tasks.group(group.id)
            assert status.state is TaskState.RUNNING
            counts = {name: number for name, number in status.counts.items() if number}
            assert counts == {"queued": 2, "running": 2, "cancelled": 1}

    run(main())


def test_a_group_counts_an_end_that_is_not_public_as_running() -> None:
    async def main() -> None:
        store = DurableFake(prompt=True)
        async with serving(twice, store=store) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("twice", {"x": np.zeros((2, 1), np.float32)})
            store.prompt = False
            while not store.finishes:
                await tick()
            status = await tasks.group(group.id)
            assert (status.state, status.counts["running"], status.counts["succeeded"]) == (TaskState.RUNNING, 2, 0)
            store.commit()
            await tick()
            assert (await tasks.group(group.id)).state is TaskState.SUCCEEDED

    run(main())


def test_an_unknown_group_is_refused() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            with pytest.raises(UnknownTaskError, match="no group has the id 'group-1'"):
                await Tasks(service).group("group-1")

    run(main())


# stacked results


def test_the_results_of_a_group_are_stacked_in_the_order_of_its_items() -> None:
    async def main() -> None:
        async with serving(twice, max_batch=3) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("twice", {"x": np.arange(10, dtype=np.float32).reshape(10, 1)})
            await service.waiters.add(group.id)
            stacked = await tasks.stacked(await tasks.group(group.id))
            assert stacked["output"].tolist() == [[2.0 * n] for n in range(10)]

    run(main())


def test_a_group_of_which_not_all_have_succeeded_has_no_whole_result() -> None:
    async def main() -> None:
        gate = Gate()
        gate.open()
        async with serving(gated(gate)) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("gated", {"x": np.array([[1.0], [-1.0], [2.0]])})
            await service.waiters.add(group.id)
            with pytest.raises(GroupFailedError, match="of the 3 tasks of the group 2 have succeeded") as caught:
                await tasks.stacked(await tasks.group(group.id))
            assert caught.value.details["counts"]["failed"] == 1

    run(main())


def test_a_group_that_has_not_ended_has_no_whole_result() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("gated", {"x": np.zeros((2, 1))})
            with pytest.raises(GroupFailedError):
                await tasks.stacked(await tasks.group(group.id))

    run(main())


def test_a_group_of_which_a_result_was_removed_has_no_whole_result() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("twice", {"x": np.zeros((2, 1))})
            await service.waiters.add(group.id)
            status = await tasks.group(group.id)
            await service.store.remove([await service.find(f"{group.id}-1")], DELETED, 1000.0)
            with pytest.raises(GoneError, match="its result was deleted"):
                await tasks.stacked(status)

    run(main())


def test_a_whole_result_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_STACKED_BYTES", 7)

    async def main() -> None:
        async with serving(twice) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("twice", {"x": np.zeros((2, 1), np.float32)})
            await service.waiters.add(group.id)
            with pytest.raises(NotAcceptableError, match="would take 8 bytes, and at most 7"):
                await tasks.stacked(await tasks.group(group.id))

    run(main())


def test_the_loop_turns_while_many_results_are_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ndserve.engine.tasks.STACK_CHUNK", 2)

    async def main() -> None:
        async with serving(twice) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("twice", {"x": np.zeros((9, 1), np.float32)})
            await service.waiters.add(group.id)
            stacking = asyncio.create_task(tasks.stacked(await tasks.group(group.id)))
            turns = 0
            while not stacking.done():
                await tick(1)
                turns += 1
            assert turns >= 5

    run(main())


# positions


def test_a_position_is_the_number_of_tasks_that_go_first() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            tasks = Tasks(service)
            running = await service.submit("gated", item(0))
            await gate.reached()
            low = await service.submit("gated", item(1), options=TaskOptions(priority=1))
            high = await service.submit("gated", item(2))
            assert [tasks.position(task) for task in (running, low, high)] == [None, 1, 0]

    run(main())


def test_a_task_that_stands_behind_the_running_batch_is_the_first() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), max_batch=1, gates=[gate]) as service:
            await service.submit("gated", item(0))
            await gate.reached()
            prefetched = await service.submit("gated", item(1))
            await tick()
            assert (service.lane.in_flight, Tasks(service).position(prefetched)) == (2, 0)

    run(main())


def test_positions_are_worked_out_for_all_tasks_at_once_and_again_after_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        gate, clock = Gate(), Clock()
        async with serving(gated(gate), clock=clock, gates=[gate]) as service:
            tasks, calls = Tasks(service), list[None]()
            await service.submit("gated", item(0))
            await gate.reached()
            queued = [await service.submit("gated", item(n)) for n in range(3)]
            positions = service.worker.batcher.positions

            def counted() -> dict[str, int]:
                calls.append(None)
                return positions()

            monkeypatch.setattr(service.worker.batcher, "positions", counted)
            assert [tasks.position(task) for task in queued] == [0, 1, 2]
            assert len(calls) == 1
            service.cancel(queued[0])
            clock.now += 2 * POSITIONS_SECONDS
            assert tasks.position(queued[2]) == 1

    run(main())


def test_an_ended_task_has_no_position() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            task = await service.submit("twice", item(1))
            await ended(service, task)
            assert Tasks(service).position(task) is None

    run(main())

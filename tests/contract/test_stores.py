"""One suite for every task store: what `ndserve.stores.base.TaskStore` promises of single tasks and of bounds."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ndserve.stores import STORES
from ndserve.types import TaskState
from tests.contract.stores import (
    FAILURE,
    a_delivery,
    cancel,
    end,
    fail,
    finish,
    found,
    new,
    on_a_loop,
    opened,
    put,
    put_ended,
    refused,
    settled,
    what_is_left,
)

pytestmark = pytest.mark.parametrize("name", sorted(STORES))


# put, get and finish


@on_a_loop
async def test_a_task_that_was_put_is_found_with_its_inputs(name: str) -> None:
    async with opened(name) as store:
        task = new(1, inputs={"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array([1.5])})
        await put(store, [task, new(2)], 0.0)
        held = await found(store, task.id)
    assert (held.id, held.key.target, held.rows, held.single, held.created) == (task.id, "normalize", 1, True, 0.0)
    assert held.state is TaskState.QUEUED
    assert {name: array.tolist() for name, array in held.inputs.items()} == {"a": [[0, 1, 2], [3, 4, 5]], "b": [1.5]}


@on_a_loop
async def test_an_id_that_never_was_gives_none(name: str) -> None:
    async with opened(name) as store:
        await put(store, [new(1)], 0.0)
        assert await store.get(new(2).id) is None


@on_a_loop
async def test_an_ended_task_is_found_with_its_outputs(name: str) -> None:
    async with opened(name) as store:
        task = new(1)
        await put(store, [task], 0.0)
        task.start(1.0)
        task.settle(TaskState.SUCCEEDED, 2.0, outputs={"y": np.array([7, 8])})
        await finish(store, [task])
        held = await found(store, task.id)
    assert (held.state, held.ended) == (TaskState.SUCCEEDED, 2.0)
    assert held.outputs is not None
    assert held.outputs["y"].tolist() == [7, 8]


@on_a_loop
async def test_a_failed_task_is_found_with_its_failure(name: str) -> None:
    async with opened(name) as store:
        task = new(1)
        await put(store, [task], 0.0)
        await finish(store, [fail(task, 2.0)])
        held = await found(store, task.id)
    assert (held.state, held.failure) == (TaskState.FAILED, FAILURE)


@on_a_loop
async def test_a_result_may_be_fetched_any_number_of_times(name: str) -> None:
    async with opened(name) as store:
        (task,) = await put_ended(store, range(1), 0.0, delivered=False)
        for _ in range(3):
            assert (await found(store, task.id)).outputs is not None
            store.delivered(task)


@on_a_loop
async def test_lists_may_be_empty(name: str) -> None:
    async with opened(name, max_tasks=1) as store:
        await put(store, [new(1)], 0.0)
        await put(store, [], 0.0)
        await finish(store, [])
        assert store.usage().tasks == 1


# bounds


@on_a_loop
async def test_usage_counts_inputs_before_the_end_and_outputs_after(name: str) -> None:
    async with opened(name, max_tasks=9, max_bytes=999) as store:
        tasks = [new(1, 100), new(2, 20)]
        await put(store, tasks, 0.0)
        assert store.usage() == (2, 120, 9, 999)
        await finish(store, [end(tasks[0], 1.0, 3)])
        assert store.usage() == (2, 23, 9, 999)


@on_a_loop
async def test_the_bytes_counted_for_an_ended_task_are_all_that_it_holds(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1, 100)], 0.0)
        await finish(store, [end(task, 1.0, 3)])
        held = await found(store, task.id)
        arrays = [*held.inputs.values(), *(held.outputs or {}).values()]
        assert store.usage().nbytes == sum(array.nbytes for array in arrays)


@on_a_loop
async def test_a_store_may_be_filled_to_its_bounds(name: str) -> None:
    async with opened(name, max_tasks=3, max_bytes=24) as store:
        await put(store, [new(1), new(2)], 0.0)
        await put(store, [new(3)], 0.0)
        assert store.usage() == (3, 24, 3, 24)


@pytest.mark.parametrize("bounds", [{"max_tasks": 2}, {"max_bytes": 23}], ids=["tasks", "bytes"])
@on_a_loop
async def test_without_room_for_all_none_is_taken(name: str, bounds: dict[str, int]) -> None:
    async with opened(name, **bounds) as store:
        await put(store, [new(1)], 0.0)
        error = await refused(lambda: put(store, [new(2), new(3)], 0.0))
        assert await what_is_left(store, [new(1), new(2), new(3)]) == ["task", "none", "none"]
        assert store.usage()[:2] == (1, 8)
        assert error.details == store.usage()._asdict()


@pytest.mark.parametrize("bounds", [{"max_tasks": 3}, {"max_bytes": 24}], ids=["tasks", "bytes"])
@on_a_loop
async def test_delivered_results_make_room_oldest_first_and_no_more_than_needed(
    name: str, bounds: dict[str, int]
) -> None:
    async with opened(name, **bounds) as store:
        old = [
            *await put_ended(store, range(1), 0.0, delivered=True),
            *await put_ended(store, range(1, 2), 1.0, delivered=True),
            *await put_ended(store, range(2, 3), 2.0, delivered=True),
        ]
        await put(store, [task := new(3)], 3.0)
        assert await what_is_left(store, [*old, task]) == ["gone", "task", "task", "task"]
        assert store.usage()[:2] == (3, 24)


@pytest.mark.parametrize("bounds", [{"max_tasks": 3}, {"max_bytes": 24}], ids=["tasks", "bytes"])
@on_a_loop
async def test_neither_unseen_results_nor_unfinished_tasks_make_room(name: str, bounds: dict[str, int]) -> None:
    async with opened(name, **bounds) as store:
        kept = await put_ended(store, range(2), 0.0, delivered=False)
        await put(store, [queued := new(2)], 0.0)
        await refused(lambda: put(store, [new(3)], 1.0))
        assert await what_is_left(store, [*kept, queued]) == ["task"] * 3


@on_a_loop
async def test_a_delivery_before_the_end_does_not_make_a_task_droppable(name: str) -> None:
    async with opened(name, max_tasks=1) as store:
        await put(store, [task := new(1)], 0.0)
        store.delivered(task)
        await refused(lambda: put(store, [new(2)], 0.0))
        assert await what_is_left(store, [task]) == ["task"]


@on_a_loop
async def test_a_list_that_can_never_fit_drops_no_result(name: str) -> None:
    async with opened(name, max_bytes=24) as store:
        results = await put_ended(store, range(3), 0.0, delivered=True)
        await refused(lambda: put(store, [new(3, 25)], 1.0))
        assert await what_is_left(store, results) == ["task"] * 3


@on_a_loop
async def test_results_larger_than_their_inputs_push_delivered_ones_out(name: str) -> None:
    async with opened(name, max_bytes=24) as store:
        (old,) = await put_ended(store, range(1), 0.0, delivered=True)
        await put(store, [task := new(1)], 1.0)
        await finish(store, [end(task, 1.0, 20)])
        assert await what_is_left(store, [old, task]) == ["gone", "task"]
        assert store.usage()[:2] == (1, 20)


@on_a_loop
async def test_numbers_rise_from_task_to_task(name: str) -> None:
    async with opened(name) as store:
        tasks = [new(number) for number in range(5)]
        await put(store, tasks[:2])
        await put(store, tasks[2:])
        numbers = [task.seq for task in tasks]
    assert numbers == sorted(set(numbers))


@on_a_loop
async def test_a_failed_task_counts_with_the_inputs_that_it_keeps(name: str) -> None:
    async with opened(name) as store:
        await put(store, [failed := new(1, 100), cancelled := new(2, 100)])
        await finish(store, [fail(failed, 1.0), cancel(cancelled, 1.0)])
        assert store.usage()[:2] == (2, 100)


@on_a_loop
async def test_a_task_may_end_before_its_put_is_awaited(name: str) -> None:
    async with opened(name) as store:
        task = new(1, 100)
        stored = store.put([task], 0.0)
        task.kept = True
        ended = store.finish([end(task, 1.0, 3)], [a_delivery("d", 1.0)])
        await stored
        await ended
        task.public = True
        assert (await found(store, task.id)).state is TaskState.SUCCEEDED
        assert store.usage()[:2] == (1, 3)
        assert [delivery.id for delivery in await store.outbox.due(1.0, 9)] == ["d"]


@on_a_loop
async def test_a_task_does_not_lose_its_put_with_the_caller_who_waited(name: str) -> None:
    async with opened(name) as store:
        task = new(1)

        async def submit() -> None:
            await put(store, [task])

        waiting = asyncio.create_task(submit())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await settled(store)
        assert await what_is_left(store, [task]) == ["task"]
        assert store.usage().tasks == 1

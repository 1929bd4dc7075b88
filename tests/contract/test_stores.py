"""One suite for every task store: what `ndserve.stores.base.TaskStore` promises."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

import numpy as np
import pytest

from ndserve.errors import StoreFullError
from ndserve.stores import STORES, open_store
from ndserve.stores.base import Gone, TaskStore
from ndserve.types import BatchKey, Failure, HostArray, Task, TaskState

pytestmark = pytest.mark.parametrize("name", sorted(STORES))

TTL = 60.0
DAY = 24 * 3600.0
KEY = BatchKey("normalize", "", (), (("x", np.dtype(np.uint8), (8,)),))

P = ParamSpec("P")


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def opened(name: str, *, max_tasks: int = 1000, max_bytes: int = 10**6) -> AsyncIterator[TaskStore]:
    store = open_store(name, ttl=TTL, max_tasks=max_tasks, max_bytes=max_bytes)
    try:
        yield store
    finally:
        await store.close()


def zeros(nbytes: int) -> HostArray:
    return np.zeros((1, nbytes), np.uint8)


def new(number: int, nbytes: int = 8, *, created: float = 0.0) -> Task:
    return Task(f"{number:032x}", KEY, {"x": zeros(nbytes)}, 1, True, created)


def end(task: Task, now: float, nbytes: int = 8) -> Task:
    task.start(now)
    task.settle(TaskState.SUCCEEDED, now, outputs={"output": zeros(nbytes)})
    return task


async def put_ended(store: TaskStore, numbers: range, now: float, *, delivered: bool) -> list[Task]:
    tasks = [new(number, created=now) for number in numbers]
    await store.put(tasks, now)
    await store.finish([end(task, now) for task in tasks])
    for task in tasks if delivered else ():
        store.delivered(task)
    return tasks


async def found(store: TaskStore, task_id: str) -> Task:
    task = await store.get(task_id)
    assert isinstance(task, Task)
    return task


async def what_is_left(store: TaskStore, tasks: list[Task]) -> list[str]:
    """For each task: `task`, `gone` or `none`."""
    kinds = {Task: "task", Gone: "gone", type(None): "none"}
    return [kinds[type(await store.get(task.id))] for task in tasks]


async def refused(putting: Callable[[], Awaitable[None]]) -> StoreFullError:
    with pytest.raises(StoreFullError) as raised:
        await putting()
    return raised.value


# put, get and finish


@on_a_loop
async def test_a_task_that_was_put_is_found_with_its_inputs(name: str) -> None:
    async with opened(name) as store:
        task = new(1)
        task.inputs = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.array([1.5])}
        await store.put([task, new(2)], 0.0)
        held = await found(store, task.id)
    assert (held.id, held.key, held.rows, held.single, held.created) == (task.id, KEY, 1, True, 0.0)
    assert held.state is TaskState.QUEUED
    assert {name: array.tolist() for name, array in held.inputs.items()} == {"a": [[0, 1, 2], [3, 4, 5]], "b": [1.5]}


@on_a_loop
async def test_an_id_that_never_was_gives_none(name: str) -> None:
    async with opened(name) as store:
        await store.put([new(1)], 0.0)
        assert await store.get(new(2).id) is None


@on_a_loop
async def test_an_ended_task_is_found_with_its_outputs(name: str) -> None:
    async with opened(name) as store:
        task = new(1)
        await store.put([task], 0.0)
        task.start(1.0)
        task.settle(TaskState.SUCCEEDED, 2.0, outputs={"y": np.array([7, 8])})
        await store.finish([task])
        held = await found(store, task.id)
    assert (held.state, held.ended) == (TaskState.SUCCEEDED, 2.0)
    assert held.outputs is not None
    assert held.outputs["y"].tolist() == [7, 8]


@on_a_loop
async def test_a_failed_task_is_found_with_its_failure(name: str) -> None:
    failure = Failure("execution_failed", "no", 500)
    async with opened(name) as store:
        task = new(1)
        await store.put([task], 0.0)
        task.settle(TaskState.FAILED, 2.0, failure=failure)
        await store.finish([task])
        held = await found(store, task.id)
    assert (held.state, held.failure) == (TaskState.FAILED, failure)


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
        await store.put([new(1)], 0.0)
        await store.put([], 0.0)
        await store.finish([])
        assert store.usage().tasks == 1


# bounds


@on_a_loop
async def test_usage_counts_inputs_before_the_end_and_outputs_after(name: str) -> None:
    async with opened(name, max_tasks=9, max_bytes=999) as store:
        tasks = [new(1, 100), new(2, 20)]
        await store.put(tasks, 0.0)
        assert store.usage() == (2, 120, 9, 999)
        await store.finish([end(tasks[0], 1.0, 3)])
        assert store.usage() == (2, 23, 9, 999)


@on_a_loop
async def test_the_bytes_counted_for_an_ended_task_are_all_that_it_holds(name: str) -> None:
    async with opened(name) as store:
        await store.put([task := new(1, 100)], 0.0)
        await store.finish([end(task, 1.0, 3)])
        held = await found(store, task.id)
        arrays = [*held.inputs.values(), *(held.outputs or {}).values()]
        assert store.usage().nbytes == sum(array.nbytes for array in arrays)


@on_a_loop
async def test_a_store_may_be_filled_to_its_bounds(name: str) -> None:
    async with opened(name, max_tasks=3, max_bytes=24) as store:
        await store.put([new(1), new(2)], 0.0)
        await store.put([new(3)], 0.0)
        assert store.usage() == (3, 24, 3, 24)


@pytest.mark.parametrize("bounds", [{"max_tasks": 2}, {"max_bytes": 23}], ids=["tasks", "bytes"])
@on_a_loop
async def test_without_room_for_all_none_is_taken(name: str, bounds: dict[str, int]) -> None:
    async with opened(name, **bounds) as store:
        await store.put([new(1)], 0.0)
        error = await refused(lambda: store.put([new(2), new(3)], 0.0))
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
        await store.put([task := new(3)], 3.0)
        assert await what_is_left(store, [*old, task]) == ["gone", "task", "task", "task"]
        assert store.usage()[:2] == (3, 24)


@pytest.mark.parametrize("bounds", [{"max_tasks": 3}, {"max_bytes": 24}], ids=["tasks", "bytes"])
@on_a_loop
async def test_neither_unseen_results_nor_unfinished_tasks_make_room(name: str, bounds: dict[str, int]) -> None:
    async with opened(name, **bounds) as store:
        kept = await put_ended(store, range(2), 0.0, delivered=False)
        await store.put([queued := new(2)], 0.0)
        await refused(lambda: store.put([new(3)], 1.0))
        assert await what_is_left(store, [*kept, queued]) == ["task"] * 3


@on_a_loop
async def test_a_delivery_before_the_end_does_not_make_a_task_droppable(name: str) -> None:
    async with opened(name, max_tasks=1) as store:
        await store.put([task := new(1)], 0.0)
        store.delivered(task)
        await refused(lambda: store.put([new(2)], 0.0))
        assert await what_is_left(store, [task]) == ["task"]


@on_a_loop
async def test_a_list_that_can_never_fit_drops_no_result(name: str) -> None:
    async with opened(name, max_bytes=24) as store:
        results = await put_ended(store, range(3), 0.0, delivered=True)
        await refused(lambda: store.put([new(3, 25)], 1.0))
        assert await what_is_left(store, results) == ["task"] * 3


@on_a_loop
async def test_results_larger_than_their_inputs_push_delivered_ones_out(name: str) -> None:
    async with opened(name, max_bytes=24) as store:
        (old,) = await put_ended(store, range(1), 0.0, delivered=True)
        await store.put([task := new(1)], 1.0)
        await store.finish([end(task, 1.0, 20)])
        assert await what_is_left(store, [old, task]) == ["gone", "task"]
        assert store.usage()[:2] == (1, 20)


# the end of a result


@pytest.mark.parametrize("delivered", [False, True])
@on_a_loop
async def test_a_result_is_kept_for_its_time_then_remembered_for_a_day_then_forgotten(
    name: str, delivered: bool
) -> None:
    async with opened(name) as store:
        tasks = await put_ended(store, range(1), 100.0, delivered=delivered)
        for now, removed, left in [
            (100.0 + TTL - 0.5, 0, "task"),
            (100.0 + TTL, 1, "gone"),
            (100.0 + TTL + DAY - 0.5, 0, "gone"),
            (100.0 + TTL + DAY, 0, "none"),
        ]:
            assert store.sweep(now, 10) == removed
            assert await what_is_left(store, tasks) == [left]


@on_a_loop
async def test_the_time_runs_from_the_end_of_the_task(name: str) -> None:
    async with opened(name) as store:
        await store.put([task := new(1, created=0.0)], 0.0)
        await store.finish([end(task, 500.0)])
        assert store.sweep(500.0 + TTL - 0.5, 10) == 0
        assert store.sweep(500.0 + TTL, 10) == 1


@on_a_loop
async def test_a_task_that_has_not_ended_is_never_swept(name: str) -> None:
    async with opened(name) as store:
        await store.put([task := new(1)], 0.0)
        assert store.sweep(100 * DAY, 10) == 0
        assert await what_is_left(store, [task]) == ["task"]


@on_a_loop
async def test_a_sweep_removes_the_oldest_up_to_its_limit_and_says_how_many(name: str) -> None:
    async with opened(name) as store:
        tasks = await put_ended(store, range(5), 0.0, delivered=False)
        late = await put_ended(store, range(5, 6), 1.0, delivered=False)
        assert [store.sweep(TTL, 2) for _ in range(4)] == [2, 2, 1, 0]
        assert await what_is_left(store, [*tasks, *late]) == ["gone"] * 5 + ["task"]


@on_a_loop
async def test_usage_returns_to_zero_when_all_is_swept(name: str) -> None:
    async with opened(name) as store:
        await put_ended(store, range(7), 0.0, delivered=False)
        store.sweep(TTL, 10)
        assert store.usage()[:2] == (0, 0)


@on_a_loop
async def test_what_is_left_of_a_removed_task_says_why(name: str) -> None:
    async with opened(name, max_tasks=2) as store:
        made_room, expired = await put_ended(store, range(2), 0.0, delivered=True)
        await store.put([new(2)], 0.0)
        store.sweep(TTL, 10)
        traces = [await store.get(task.id) for task in (made_room, expired)]
    reasons = {trace.reason for trace in traces if isinstance(trace, Gone)}
    assert len(reasons) == 2
    assert all(reasons)


@on_a_loop
async def test_a_delivery_after_the_removal_changes_nothing(name: str) -> None:
    async with opened(name) as store:
        (task,) = await put_ended(store, range(1), 0.0, delivered=False)
        store.sweep(TTL, 10)
        store.delivered(task)
        assert await what_is_left(store, [task]) == ["gone"]

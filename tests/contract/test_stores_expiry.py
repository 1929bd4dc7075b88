"""One suite for every task store: how results end, by their time, by hand, or to make room."""

from __future__ import annotations

import pytest

from ndserve.stores import STORES
from ndserve.stores.base import Gone
from tests.contract.stores import (
    DAY,
    TTL,
    end,
    finish,
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
            assert await store.sweep(now, 10) == removed
            assert await what_is_left(store, tasks) == [left]


@on_a_loop
async def test_the_time_runs_from_the_end_of_the_task(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1, created=0.0)], 0.0)
        await finish(store, [end(task, 500.0)])
        assert await store.sweep(500.0 + TTL - 0.5, 10) == 0
        assert await store.sweep(500.0 + TTL, 10) == 1


@on_a_loop
async def test_a_task_that_has_not_ended_is_never_swept(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1)], 0.0)
        assert await store.sweep(100 * DAY, 10) == 0
        assert await what_is_left(store, [task]) == ["task"]


@on_a_loop
async def test_a_sweep_removes_the_oldest_up_to_its_limit_and_says_how_many(name: str) -> None:
    async with opened(name) as store:
        tasks = await put_ended(store, range(5), 0.0, delivered=False)
        late = await put_ended(store, range(5, 6), 1.0, delivered=False)
        assert [await store.sweep(TTL, 2) for _ in range(4)] == [2, 2, 1, 0]
        assert await what_is_left(store, [*tasks, *late]) == ["gone"] * 5 + ["task"]


@on_a_loop
async def test_usage_returns_to_zero_when_all_is_swept(name: str) -> None:
    async with opened(name) as store:
        await put_ended(store, range(7), 0.0, delivered=False)
        await store.sweep(TTL, 10)
        assert store.usage()[:2] == (0, 0)


@on_a_loop
async def test_what_is_left_of_a_removed_task_says_why(name: str) -> None:
    async with opened(name, max_tasks=2) as store:
        made_room, expired = await put_ended(store, range(2), 0.0, delivered=True)
        await put(store, [new(2)], 0.0)
        await store.sweep(TTL, 10)
        traces = [await store.get(task.id) for task in (made_room, expired)]
    reasons = {trace.reason for trace in traces if isinstance(trace, Gone)}
    assert len(reasons) == 2
    assert all(reasons)


@on_a_loop
async def test_a_delivery_after_the_removal_changes_nothing(name: str) -> None:
    async with opened(name) as store:
        (task,) = await put_ended(store, range(1), 0.0, delivered=False)
        await store.sweep(TTL, 10)
        store.delivered(task)
        assert await what_is_left(store, [task]) == ["gone"]


@on_a_loop
async def test_books_balance_after_deliveries_of_results_that_are_gone(name: str) -> None:
    async with opened(name, max_tasks=3) as store:
        swept = await put_ended(store, range(2), 0.0)
        await store.sweep(TTL, 10)
        (dropped,) = await put_ended(store, range(2, 3), TTL, delivered=True)
        await put(store, [new(number) for number in range(3, 6)], TTL)
        for task in (*swept, dropped):
            store.delivered(task)
        await refused(lambda: put(store, [new(7)], TTL))
        assert store.usage()[:2] == (3, 24)


@on_a_loop
async def test_a_result_that_is_delivered_while_it_makes_room_makes_room_once(name: str) -> None:
    async with opened(name, max_tasks=1) as store:
        (old,) = await put_ended(store, range(1), 0.0, delivered=True)
        stored = store.put([task := new(1)], 1.0)
        store.delivered(old)
        await stored
        await refused(lambda: put(store, [new(2)], 1.0))
        assert store.usage()[:2] == (1, 8)
        assert await what_is_left(store, [old, task]) == ["gone", "task"]


@on_a_loop
async def test_every_task_has_its_own_time(name: str) -> None:
    async with opened(name) as store:
        tasks = [new(number) for number in range(4)]
        await put(store, tasks)
        for task, expires in zip(tasks, (40.0, 10.0, 30.0, 20.0), strict=True):
            end(task, 1.0).expires = expires
            await finish(store, [task])
        left = []
        for now in (9.5, 10.0, 20.0, 30.0, 40.0):
            await store.sweep(now, 10)
            left.append([task.expires for task in tasks if (await what_is_left(store, [task])) == ["task"]])
    assert left == [[40.0, 10.0, 30.0, 20.0], [40.0, 30.0, 20.0], [40.0, 30.0], [40.0], []]


# removal


@on_a_loop
async def test_a_removed_task_leaves_a_trace_that_says_why(name: str) -> None:
    async with opened(name) as store:
        kept, removed = await put_ended(store, range(2))
        await store.remove([removed], Gone("by hand"), 1.0)
        assert await store.get(removed.id) == Gone("by hand")
        assert await what_is_left(store, [kept]) == ["task"]
        assert store.usage()[:2] == (1, 8)


@on_a_loop
async def test_the_trace_of_a_removed_task_is_kept_for_a_day(name: str) -> None:
    async with opened(name) as store:
        (task,) = await put_ended(store, range(1))
        await store.remove([task], Gone("by hand"), 1.0)
        await store.sweep(DAY + 0.5, 10)
        assert await what_is_left(store, [task]) == ["gone"]
        await store.sweep(DAY + 1.0, 10)
        assert await what_is_left(store, [task]) == ["none"]


@on_a_loop
async def test_a_task_that_has_not_ended_is_not_removed(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1)])
        await store.remove([task], Gone("by hand"), 1.0)
        assert await what_is_left(store, [task]) == ["task"]
        assert store.usage()[:2] == (1, 8)


@on_a_loop
async def test_a_task_that_is_removed_swept_and_dropped_at_once_leaves_the_books_once(name: str) -> None:
    async with opened(name, max_tasks=2) as store:
        tasks = await put_ended(store, range(2), delivered=True)
        removed = store.remove(tasks, Gone("by hand"), TTL)
        swept = store.sweep(TTL, 10)
        await put(store, [new(2)], TTL)
        await removed
        await swept
        await store.remove(tasks, Gone("by hand"), TTL)
        await settled(store)
        assert store.usage()[:2] == (1, 8)
        assert await what_is_left(store, tasks) == ["gone", "gone"]

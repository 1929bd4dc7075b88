"""One suite for every store that is durable: what it holds after it was closed, or its process was killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from ndserve.stores.base import Closing, Gone, GroupState, Holder, Query, TaskStore
from ndserve.types import BatchKey, Progress, Task, TaskOptions, TaskState, Webhook
from tests.contract.stores import (
    DAY,
    DURABLE,
    TTL,
    a_delivery,
    a_group,
    bits,
    cancel,
    end,
    facts,
    fail,
    finish,
    found,
    killed,
    members,
    new,
    on_a_loop,
    opened,
    put,
    put_ended,
    refused,
    resumed,
    settled,
    what_is_left,
)

pytestmark = [pytest.mark.parametrize("name", DURABLE), pytest.mark.parametrize("how", ["closed", "killed"])]

OPTIONS = TaskOptions(
    priority=9,
    ttl=12.5,
    start_within=1e6,
    run_within=30.0,
    webhook=Webhook("http://there/hook?a=b", (TaskState.FAILED, TaskState.SUCCEEDED)),
    idempotency_key="key-1",
    fingerprint="print",
)
LARGE = 100_000


@asynccontextmanager
async def after(how: str, name: str, store: TaskStore, folder: Path) -> AsyncIterator[tuple[TaskStore, list[Task]]]:
    """The store that comes after this one, and what it has to finish."""
    left = killed(folder) if how == "killed" else folder
    await store.close()
    async with resumed(name, left) as following:
        yield following


def rich(number: int, nbytes: int = 8) -> Task:
    """A task whose every field says something."""
    parameters = (("scale", 0.1), ("count", 2**40), ("on", True), ("text", "ü\n"))
    array = np.arange(nbytes, dtype=np.uint8).reshape(1, -1)
    key = BatchKey("model", "3", parameters, (("x", array.dtype, array.shape[1:]),))
    return new(number, created=1.25, options=OPTIONS, inputs={"x": array}, key=key)


def marked(task: Task) -> Task:
    """With the fields that the engine sets while it runs."""
    task.start(2.0, "cuda:0")
    task.load_seconds, task.store_seconds = 0.75, 0.001
    task.progress = Progress(0.5, "half", 2.5)
    return task


@pytest.mark.parametrize("nbytes", [8, LARGE])
@on_a_loop
async def test_unfinished_tasks_come_back_whole_and_in_order(name: str, how: str, nbytes: int, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a") as store:
        tasks = [rich(number, nbytes) for number in (3, 1, 2)]
        await put(store, tasks)
        async with after(how, name, store, tmp_path / "a") as (_, unfinished):
            assert [facts(task) for task in unfinished] == [facts(task) for task in tasks]
            assert [bits(task.inputs) for task in unfinished] == [bits(task.inputs) for task in tasks]
            assert [task.key for task in unfinished] == [task.key for task in tasks]
            assert all(task.kept for task in unfinished)


@on_a_loop
async def test_ended_tasks_come_back_as_they_ended(name: str, how: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a") as store:
        tasks = [marked(rich(number)) for number in range(4)]
        await put(store, tasks)
        ended = [end(tasks[0], 3.0), end(tasks[1], 3.0, LARGE), fail(tasks[2], 3.0), cancel(tasks[3], 3.0)]
        await finish(store, ended)
        async with after(how, name, store, tmp_path / "a") as (following, unfinished):
            assert unfinished == []
            held = [await found(following, task.id) for task in ended]
            assert [facts(task) for task in held] == [facts(task) for task in ended]
            assert [bits(task.outputs) for task in held] == [bits(task.outputs) for task in ended]
            listed = await following.page(Query(10))
            assert [facts(task) for task in listed] == [facts(task) for task in reversed(ended)]


@pytest.mark.parametrize("nbytes", [8, LARGE])
@on_a_loop
async def test_failed_tasks_can_be_run_again_with_their_inputs(
    name: str, how: str, nbytes: int, tmp_path: Path
) -> None:
    async with opened(name, tmp_path / "a") as store:
        await put(store, [task := rich(1, nbytes)])
        inputs = bits(task.inputs)
        await finish(store, [fail(task, 3.0)])
        async with after(how, name, store, tmp_path / "a") as (following, _):
            again = await following.reopen(await found(following, task.id), 5.0)
            assert bits(again.inputs) == inputs
            assert again.key == task.key
            assert following.usage()[:2] == (1, nbytes)


@on_a_loop
async def test_usage_is_what_is_there(name: str, how: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a", max_tasks=4) as store:
        tasks = [new(number, 100 * number) for number in range(1, 5)]
        await put(store, tasks)
        await finish(store, [end(tasks[0], 1.0, 7), fail(tasks[1], 1.0), end(tasks[2], 1.0)])
        store.delivered(tasks[2])
        await put(store, [new(9, LARGE)], 2.0)
        usage = store.usage()
        assert usage[:2] == (4, 7 + 200 + 400 + LARGE)
        async with after(how, name, store, tmp_path / "a") as (following, _):
            assert following.usage()[:2] == usage[:2]
            assert await what_is_left(following, tasks) == ["task", "task", "gone", "task"]


@on_a_loop
async def test_results_are_kept_for_their_time_and_remembered_for_a_day(name: str, how: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a") as store:
        kept, removed = await put_ended(store, range(2))
        await store.remove([removed], Gone("by hand"), 1.0)
        async with after(how, name, store, tmp_path / "a") as (following, _):
            assert await following.get(removed.id) == Gone("by hand")
            assert await following.sweep(TTL - 0.5, 10) == 0
            assert await following.sweep(TTL, 10) == 1
            assert await what_is_left(following, [kept, removed]) == ["gone", "gone"]
            await following.sweep(TTL + DAY, 10)
            assert await what_is_left(following, [kept, removed]) == ["none", "none"]
            assert following.usage()[:2] == (0, 0)


@on_a_loop
async def test_keys_groups_and_messages_come_back(name: str, how: str, tmp_path: Path) -> None:
    group = a_group(key="key-2")
    async with opened(name, tmp_path / "a") as store:
        await put(store, [task := rich(1)])
        await put(store, tasks := members(range(2, 4), group), group=group)
        await finish(store, [end(tasks[0], 1.0)], [a_delivery("a", 5.0), a_delivery("b", 3.0), a_delivery("c", 1.0)])
        await store.outbox.done(a_delivery("c", 1.0))
        await store.outbox.postpone(a_delivery("b", 3.0), 9.0)
        async with after(how, name, store, tmp_path / "a") as (following, _):
            assert await following.holder("key-1") == Holder(task.id, "print")
            assert await following.holder("key-2") == Holder(group.id, group.fingerprint)
            counts = {TaskState.SUCCEEDED: 1, TaskState.QUEUED: 1}
            assert await following.group(group.id) == GroupState(group, counts)
            assert await following.outbox.next_due(0.0) == 5.0
            postponed = a_delivery("b", 9.0)._replace(attempts=1)
            assert await following.outbox.due(9.0, 10) == [a_delivery("a", 5.0), postponed]


@on_a_loop
async def test_a_group_is_closed_by_the_store_that_comes_after(name: str, how: str, tmp_path: Path) -> None:
    group = a_group()
    async with opened(name, tmp_path / "a") as store:
        first, last = members(range(2), group)
        await put(store, [first, last], group=group)
        await finish(store, [end(first, 1.0)])
        async with after(how, name, store, tmp_path / "a") as (following, unfinished):
            assert await following.sweep(100 * DAY, 10) == 0
            await finish(following, [end(unfinished[0], 3.0)], closing=[Closing(group.id, 200 * DAY)])
            assert [(await found(following, task.id)).expires for task in (first, last)] == [200 * DAY] * 2
            assert await following.sweep(200 * DAY, 10) == 2
            assert isinstance(await following.group(group.id), Gone)


@on_a_loop
async def test_numbers_go_on_rising(name: str, how: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a") as store:
        tasks = [new(number) for number in range(3)]
        await put(store, tasks)
        async with after(how, name, store, tmp_path / "a") as (following, _):
            await put(following, [later := new(9)])
            assert later.seq > tasks[-1].seq


@on_a_loop
async def test_results_that_were_delivered_before_are_not_dropped_for_room_after(
    name: str, how: str, tmp_path: Path
) -> None:
    async with opened(name, tmp_path / "a") as store:
        await put_ended(store, range(1000), delivered=True)
        async with after(how, name, store, tmp_path / "a") as (following, _):
            await refused(lambda: put(following, [new(1000)]))


# runs that had begun


@on_a_loop
async def test_runs_that_had_begun_are_counted_once(name: str, how: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a") as store:
        ran, waited = new(1, options=OPTIONS), new(2)
        await put(store, [ran, waited])
        store.start([ran], 4.0)
        async with after(how, name, store, tmp_path / "a") as (_, unfinished):
            told = [(task.attempts, task.started, task.run_by, task.state) for task in unfinished]
            assert told == [(1, 4.0, 34.0, TaskState.QUEUED), (0, None, None, TaskState.QUEUED)]


@on_a_loop
async def test_every_life_of_the_process_counts_its_runs(name: str, how: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a") as store:
        await put(store, [task := new(1, options=OPTIONS)])
        store.start([task], 4.0)
        async with after(how, name, store, tmp_path / "a") as (second, _):
            folder = tmp_path / ("a-killed" if how == "killed" else "a")
            second.start([task], 5.0)
            async with after("killed", name, second, folder) as (third, unfinished):
                assert [(task.attempts, task.started, task.run_by) for task in unfinished] == [(2, 5.0, 34.0)]
                folder = folder.with_name(folder.name + "-killed")
                async with after("killed", name, third, folder) as (_, unfinished):
                    assert [(task.attempts, task.started, task.run_by) for task in unfinished] == [(2, 5.0, 34.0)]


@on_a_loop
async def test_a_task_that_is_stored_while_it_runs_has_its_run_counted(name: str, how: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a") as store:
        task = new(1, options=OPTIONS)
        task.start(4.0)
        await put(store, [task])
        async with after(how, name, store, tmp_path / "a") as (_, unfinished):
            told = [(task.attempts, task.started, task.run_by, task.state) for task in unfinished]
            assert told == [(1, 4.0, 34.0, TaskState.QUEUED)]


@on_a_loop
async def test_tasks_that_ran_and_ended_stay_ended(name: str, how: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a") as store:
        await put(store, [task := new(1)])
        store.start([task], 1.0)
        await finish(store, [end(task, 1.0)])
        async with after(how, name, store, tmp_path / "a") as (following, unfinished):
            assert unfinished == []
            assert (await found(following, task.id)).attempts == 1


@on_a_loop
async def test_runs_before_a_task_was_queued_again_are_not_counted(name: str, how: str, tmp_path: Path) -> None:
    async with opened(name, tmp_path / "a") as store:
        await put(store, [task := new(1)])
        store.start([task], 1.0)
        await finish(store, [fail(task, 1.0)])
        await store.reopen(await found(store, task.id), 5.0)
        async with after(how, name, store, tmp_path / "a") as (_, unfinished):
            told = [(task.attempts, task.started, task.created) for task in unfinished]
            assert told == [(0, None, 5.0)]


@on_a_loop
async def test_an_ended_task_does_not_take_the_runs_of_one_before_it(name: str, how: str, tmp_path: Path) -> None:
    """A number may be used again when the newest task is gone."""
    async with opened(name, tmp_path / "a") as store:
        await put(store, [task := new(1)])
        store.start([task], 1.0)
        await finish(store, [end(task, 1.0)])
        await store.remove([task], Gone("by hand"), 2.0)
        await settled(store)
        async with after(how, name, store, tmp_path / "a") as (second, _):
            await put(second, [new(2)])
            folder = tmp_path / ("a-killed" if how == "killed" else "a")
            async with after("killed", name, second, folder) as (_, unfinished):
                assert [task.attempts for task in unfinished] == [0]

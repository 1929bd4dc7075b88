"""One suite for every task store: failed tasks that are queued again."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ndserve.errors import GoneError, StoreFullError
from ndserve.stores import STORES
from ndserve.stores.base import Closing, Gone, GroupState, TaskStore
from ndserve.types import Task, TaskOptions, TaskState
from tests.contract.stores import (
    DAY,
    FAILURE,
    TTL,
    a_group,
    bits,
    end,
    fail,
    finish,
    found,
    members,
    new,
    on_a_loop,
    opened,
    put,
    refused,
    settled,
    what_is_left,
)

pytestmark = pytest.mark.parametrize("name", sorted(STORES))


@pytest.mark.parametrize("nbytes", [8, 100_000])
@on_a_loop
async def test_a_reopened_task_is_as_new_with_its_inputs(name: str, nbytes: int) -> None:
    array = np.arange(nbytes, dtype=np.uint8).reshape(1, -1)
    options = TaskOptions(priority=9, run_within=5.0, idempotency_key="key")
    async with opened(name) as store:
        await put(store, [task := new(1, options=options, inputs={"x": array})])
        await finish(store, [fail(task, 1.0)])
        again = await store.reopen(await found(store, task.id), 7.0)
        assert (again.id, again.seq, again.options, again.created) == (task.id, task.seq, options, 7.0)
        assert (again.state, again.live, again.public, again.attempts) == (TaskState.QUEUED, True, False, 0)
        assert (again.started, again.run_by, again.ended, again.expires, again.failure) == (None,) * 5
        assert (again.kept, again.input_bytes) == (True, nbytes)
        assert bits(again.inputs) == bits({"x": array})
        assert store.usage()[:2] == (1, nbytes)


@on_a_loop
async def test_a_reopened_task_ends_like_any_other(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1, 100)])
        await finish(store, [fail(task, 1.0)])
        again = await store.reopen(await found(store, task.id), 2.0)
        await finish(store, [end(again, 3.0, 5)])
        held = await found(store, task.id)
        assert (held.state, held.expires, held.failure) == (TaskState.SUCCEEDED, 3.0 + TTL, None)
        assert store.usage()[:2] == (1, 5)
        assert await store.sweep(1.0 + TTL, 10) == 0
        assert await store.sweep(3.0 + TTL, 10) == 1
        assert store.usage()[:2] == (0, 0)


@on_a_loop
async def test_a_task_may_fail_and_be_reopened_again_and_again(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1, 70_000)])
        for now in (1.0, 2.0, 3.0):
            await finish(store, [fail(task, now)])
            assert (await found(store, task.id)).failure == FAILURE
            task = await store.reopen(await found(store, task.id), now)
            assert task.input_bytes == 70_000
        assert store.usage()[:2] == (1, 70_000)


@on_a_loop
async def test_a_reopened_task_does_not_expire(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1)])
        await finish(store, [fail(task, 1.0)])
        await store.reopen(await found(store, task.id), 2.0)
        assert await store.sweep(100 * DAY, 10) == 0
        assert await what_is_left(store, [task]) == ["task"]


@on_a_loop
async def test_a_reopened_task_makes_no_room_although_its_failure_was_delivered(name: str) -> None:
    async with opened(name, max_tasks=1) as store:
        await put(store, [task := new(1)])
        await finish(store, [fail(task, 1.0)])
        failed = await found(store, task.id)
        store.delivered(failed)
        again = await store.reopen(failed, 2.0)
        store.delivered(again)
        await refused(lambda: put(store, [new(2)], 3.0))
        assert await what_is_left(store, [task]) == ["task"]


@on_a_loop
async def test_reopening_a_task_opens_its_group(name: str) -> None:
    group = a_group()
    async with opened(name) as store:
        good, bad = members(range(2), group)
        await put(store, [good, bad], group=group)
        await finish(store, [end(good, 1.0), fail(bad, 1.0)], closing=[Closing(group.id, 1.0 + TTL)])
        again = await store.reopen(await found(store, bad.id), 2.0)
        assert await store.group(group.id) == GroupState(group, {TaskState.SUCCEEDED: 1, TaskState.QUEUED: 1})
        assert (await found(store, good.id)).expires is None
        assert await store.sweep(100 * DAY, 10) == 0
        closing = 200 * DAY
        await finish(store, [end(again, 3.0)], closing=[Closing(group.id, closing)])
        assert [(await found(store, task.id)).expires for task in (good, bad)] == [closing, closing]
        assert await store.sweep(closing, 10) == 2
        assert store.usage()[:2] == (0, 0)


async def put_if_there_is_room(store: TaskStore, task: Task) -> int:
    """How many tasks were put: 0 or 1."""
    try:
        await put(store, [task], 2.0)
    except StoreFullError:
        return 0
    return 1


@pytest.mark.parametrize("rival", ["sweep", "remove", "room"])
@pytest.mark.parametrize("nbytes", [8, 100_000])
@on_a_loop
async def test_a_task_that_is_reopened_while_it_goes_is_either_there_or_gone(
    name: str, rival: str, nbytes: int
) -> None:
    async with opened(name, max_tasks=1) as store:
        await put(store, [task := new(1, nbytes)])
        await finish(store, [fail(task, 1.0)])
        failed = await found(store, task.id)
        store.delivered(failed)
        reopening = asyncio.ensure_future(store.reopen(failed, 2.0))
        await asyncio.sleep(0)
        others = 0
        if rival == "sweep":
            await store.sweep(1.0 + TTL, 10)
        elif rival == "remove":
            await store.remove([failed], Gone("by hand"), 2.0)
        else:
            others = await put_if_there_is_room(store, new(2))
        (again,) = await asyncio.gather(reopening, return_exceptions=True)
        await settled(store)
        if isinstance(again, Task):
            assert store.usage()[:2] == (1, nbytes)
            await finish(store, [end(again, 3.0)])
            assert store.usage()[:2] == (1, 8)
        else:
            assert isinstance(again, GoneError)
            assert isinstance(await store.get(task.id), Gone)
            assert store.usage()[:2] == (others, others * 8)

"""One suite for every task store: keys, pages, groups and the outbox."""

from __future__ import annotations

import pytest

from ndserve.stores import STORES
from ndserve.stores.base import Closing, Gone, Group, GroupState, Holder, Query, TaskStore
from ndserve.types import BatchKey, Task, TaskOptions, TaskState
from tests.contract.stores import (
    DAY,
    TTL,
    a_delivery,
    a_group,
    cancel,
    end,
    fail,
    finish,
    found,
    members,
    new,
    on_a_loop,
    opened,
    put,
    put_ended,
    what_is_left,
)

pytestmark = pytest.mark.parametrize("name", sorted(STORES))

KEYED = TaskOptions(idempotency_key="key-1", fingerprint="print")


# keys


@on_a_loop
async def test_a_key_leads_to_its_task_and_the_fingerprint_of_the_request(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1, options=KEYED)])
        assert await store.holder("key-1") == Holder(task.id, "print")
        await finish(store, [end(task, 1.0)])
        assert await store.holder("key-1") == Holder(task.id, "print")


@on_a_loop
async def test_a_key_leads_to_its_group(name: str) -> None:
    group = a_group(key="key-2")
    async with opened(name) as store:
        await put(store, members(range(2), group), group=group)
        assert await store.holder("key-2") == Holder(group.id, group.fingerprint)


@on_a_loop
async def test_a_key_that_nothing_has_leads_nowhere(name: str) -> None:
    async with opened(name) as store:
        await put(store, [new(1, options=KEYED), new(2)])
        assert await store.holder("key") is None
        assert await store.holder("") is None


@on_a_loop
async def test_keys_are_free_again_when_what_they_led_to_is_removed(name: str) -> None:
    group = a_group(key="key-2")
    async with opened(name) as store:
        tasks = [new(1, options=KEYED), *members(range(2, 4), group)]
        await put(store, tasks[:1])
        await put(store, tasks[1:], group=group)
        await finish(store, [end(task, 1.0) for task in tasks], closing=[Closing(group.id, 1.0 + TTL)])
        await store.remove(tasks[:1], Gone("by hand"), 2.0)
        assert await store.holder("key-1") is None
        assert await store.holder("key-2") is not None
        await store.sweep(1.0 + TTL, 10)
        assert await store.holder("key-2") is None
        await put(store, [again := new(5, options=KEYED)])
        assert await store.holder("key-1") == Holder(again.id, "print")


# pages


async def listed(store: TaskStore, query: Query) -> list[str]:
    return [task.id for task in await store.page(query)]


@on_a_loop
async def test_a_page_has_the_newest_first_up_to_its_limit(name: str) -> None:
    async with opened(name) as store:
        tasks = [new(number) for number in (3, 1, 4, 2)]
        await put(store, tasks[:3])
        await put(store, tasks[3:])
        newest = [task.id for task in reversed(tasks)]
        assert await listed(store, Query(3)) == newest[:3]
        assert await listed(store, Query(10)) == newest


@on_a_loop
async def test_pages_do_not_shift_when_tasks_come_between_them(name: str) -> None:
    async with opened(name) as store:
        tasks = [new(number) for number in range(5)]
        await put(store, tasks)
        pages = [await store.page(Query(2))]
        while pages[-1]:
            await put(store, [new(100 + len(pages))])
            pages.append(await store.page(Query(2, before=pages[-1][-1].seq)))
    assert [task.id for page in pages for task in page] == [task.id for task in reversed(tasks)]


async def put_of_all_kinds(store: TaskStore) -> dict[str, Task]:
    """Tasks by what they are."""
    group = a_group(total=1)
    other = BatchKey("other", "2", (), ())
    kinds = {
        "queued": new(1),
        "running": new(2),
        "succeeded": new(3),
        "failed": new(4),
        "cancelled": new(5),
        "other": new(6, key=other),
    }
    await put(store, list(kinds.values()))
    await put(store, [member := new(7, group=group.id)], group=group)
    kinds["running"].start(1.0)
    store.start([kinds["running"]], 1.0)
    ended = [end(kinds["succeeded"], 1.0), fail(kinds["failed"], 1.0), cancel(kinds["cancelled"], 1.0)]
    await finish(store, [*ended, end(kinds["other"], 1.0)])
    return kinds | {"member": member}


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (Query(10), ["member", "other", "cancelled", "failed", "succeeded", "running", "queued"]),
        (Query(10, state=TaskState.SUCCEEDED), ["other", "succeeded"]),
        (Query(10, state=TaskState.FAILED), ["failed"]),
        (Query(10, state=TaskState.CANCELLED), ["cancelled"]),
        (Query(10, state=TaskState.EXPIRED), []),
        (Query(10, state=TaskState.QUEUED), ["member", "running", "queued"]),
        (Query(10, state=TaskState.RUNNING), []),
        (Query(10, target="other"), ["other"]),
        (Query(10, state=TaskState.FAILED, target="other"), []),
        (Query(1, state=TaskState.SUCCEEDED, target="normalize"), ["succeeded"]),
        (Query(10, group="group-1"), ["member"]),
        (Query(10, group="none"), []),
    ],
    ids=str,
)
@on_a_loop
async def test_a_page_has_only_what_was_asked_for(name: str, query: Query, wanted: list[str]) -> None:
    async with opened(name) as store:
        kinds = await put_of_all_kinds(store)
        assert await listed(store, query) == [kinds[kind].id for kind in wanted]


@on_a_loop
async def test_a_cursor_and_a_filter_go_together(name: str) -> None:
    async with opened(name) as store:
        tasks = await put_ended(store, range(6))
        await finish(store, [])
        await put(store, [new(7)])
        page = await store.page(Query(2, before=tasks[4].seq, state=TaskState.SUCCEEDED))
        assert [task.id for task in page] == [tasks[3].id, tasks[2].id]


@on_a_loop
async def test_removed_tasks_are_on_no_page(name: str) -> None:
    async with opened(name) as store:
        tasks = await put_ended(store, range(3))
        await store.remove(tasks[1:2], Gone("by hand"), 1.0)
        assert await listed(store, Query(10)) == [tasks[2].id, tasks[0].id]


# groups


async def state_of(store: TaskStore, group: Group) -> GroupState:
    state = await store.group(group.id)
    assert isinstance(state, GroupState)
    return state


@on_a_loop
async def test_a_group_counts_its_tasks_by_state(name: str) -> None:
    group = a_group(total=4)
    async with opened(name) as store:
        tasks = members(range(4), group)
        await put(store, tasks, group=group)
        assert await state_of(store, group) == (group, {TaskState.QUEUED: 4})
        tasks[3].start(1.0)
        store.start(tasks[3:], 1.0)
        assert (await state_of(store, group)).counts == {TaskState.QUEUED: 4}
        await finish(store, [end(tasks[0], 1.0), fail(tasks[1], 1.0)])
        assert (await state_of(store, group)).counts == {
            TaskState.QUEUED: 2,
            TaskState.SUCCEEDED: 1,
            TaskState.FAILED: 1,
        }


@on_a_loop
async def test_an_id_that_no_group_has_gives_none(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1)])
        assert await store.group(task.id) is None


@on_a_loop
async def test_the_tasks_of_a_group_expire_together_and_not_before_the_last_has_ended(name: str) -> None:
    group = a_group()
    async with opened(name) as store:
        first, last = members(range(2), group)
        await put(store, [first, last], group=group)
        await finish(store, [end(first, 1.0)])
        assert await store.sweep(100 * DAY, 10) == 0
        assert (await state_of(store, group)).group.expires is None
        closing = 200 * DAY
        await finish(store, [end(last, 100 * DAY)], closing=[Closing(group.id, closing)])
        assert (await state_of(store, group)).group == group._replace(expires=closing)
        assert [(await found(store, task.id)).expires for task in (first, last)] == [closing, closing]
        assert [task.expires for task in await store.page(Query(9, group=group.id))] == [closing, closing]
        assert await store.sweep(closing - 0.5, 10) == 0
        assert await store.sweep(closing, 10) == 2
        assert await store.group(group.id) == await store.get(first.id)


@on_a_loop
async def test_a_group_is_gone_with_its_last_task(name: str) -> None:
    group = a_group()
    async with opened(name) as store:
        tasks = members(range(2), group)
        await put(store, tasks, group=group)
        await finish(store, [end(task, 1.0) for task in tasks], closing=[Closing(group.id, 1.0 + TTL)])
        await store.remove(tasks[:1], Gone("one"), 2.0)
        assert (await state_of(store, group)).counts == {TaskState.SUCCEEDED: 1}
        await store.remove(tasks[1:], Gone("by hand"), 3.0)
        assert await store.group(group.id) == Gone("by hand")
        await store.sweep(3.0 + DAY, 10)
        assert await store.group(group.id) is None


@on_a_loop
async def test_a_group_that_is_swept_in_parts_stays_until_its_last_task_goes(name: str) -> None:
    group = a_group(total=3)
    async with opened(name) as store:
        tasks = members(range(3), group)
        await put(store, tasks, group=group)
        await finish(store, [end(task, 1.0) for task in tasks], closing=[Closing(group.id, 5.0)])
        assert await store.sweep(5.0, 2) == 2
        assert (await state_of(store, group)).counts == {TaskState.SUCCEEDED: 1}
        assert await store.sweep(5.0, 2) == 1
        assert isinstance(await store.group(group.id), Gone)
        assert await what_is_left(store, tasks) == ["gone"] * 3


# the outbox


@on_a_loop
async def test_messages_are_given_when_they_fall_due_oldest_first(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1)])
        await finish(store, [end(task, 1.0)], [a_delivery(f"d{due}", float(due)) for due in (3, 1, 2)])
        assert await store.outbox.due(0.5, 10) == []
        assert await store.outbox.due(2.0, 10) == [a_delivery("d1", 1.0), a_delivery("d2", 2.0)]
        assert await store.outbox.due(9.0, 1) == [a_delivery("d1", 1.0)]


@on_a_loop
async def test_the_next_message_is_told_by_its_time(name: str) -> None:
    async with opened(name) as store:
        assert await store.outbox.next_due(0.0) is None
        await store.finish([], [a_delivery("a", 3.0), a_delivery("b", 5.0)])
        assert [await store.outbox.next_due(after) for after in (0.0, 2.9, 3.0, 5.0)] == [3.0, 3.0, 5.0, None]


@on_a_loop
async def test_a_message_that_is_done_does_not_come_again(name: str) -> None:
    async with opened(name) as store:
        await store.finish([], [first := a_delivery("a", 1.0), second := a_delivery("b", 2.0)])
        await store.outbox.done(first)
        await store.outbox.done(first)
        assert await store.outbox.due(9.0, 10) == [second]


@on_a_loop
async def test_a_postponed_message_comes_later_with_one_more_attempt(name: str) -> None:
    async with opened(name) as store:
        await store.finish([], [delivery := a_delivery("a", 1.0)])
        await store.outbox.postpone(delivery, 10.0)
        assert await store.outbox.due(9.0, 10) == []
        (again,) = await store.outbox.due(10.0, 10)
        assert again == delivery._replace(attempts=1, due=10.0)
        await store.outbox.postpone(again, 20.0)
        assert await store.outbox.due(20.0, 10) == [delivery._replace(attempts=2, due=20.0)]


@on_a_loop
async def test_messages_outlive_the_tasks_that_they_are_about(name: str) -> None:
    async with opened(name) as store:
        await put(store, [task := new(1)])
        await finish(store, [end(task, 1.0)], [delivery := a_delivery("a", 1.0)])
        await store.remove([task], Gone("by hand"), 2.0)
        assert await store.outbox.due(9.0, 10) == [delivery]

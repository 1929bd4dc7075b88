"""The thread that writes: one commit for many, and nothing lost when the disk is full."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ndserve.errors import StoreFullError, StoreUnavailableError
from ndserve.stores import open_store
from ndserve.stores.base import Closing, Gone, TaskStore
from ndserve.stores.sqlite import writer
from ndserve.types import Task, TaskState
from tests.contract.stores import (
    DAY,
    a_group,
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
    refusal,
    resumed,
    settled,
    what_is_left,
)
from tests.unit.stores.sqlite.opening import Disk, Transactions, fill, make_room, writer_of

LARGE = 100_000
INLINE = 60_000


@pytest.fixture(autouse=True)
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.0)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


# one commit for many


@on_a_loop
async def test_what_one_turn_of_the_loop_brings_is_one_transaction() -> None:
    async with opened("sqlite") as store:
        transactions = Transactions(store)
        ended = [new(number) for number in range(50, 100)]
        puts = [store.put([new(number)], 0.0) for number in range(50)]
        puts += [store.put([task], 0.0) for task in ended]
        puts += [store.finish([end(task, 1.0)]) for task in ended]
        await asyncio.gather(*puts)
        assert transactions.count == 1
        assert store.usage().tasks == 100


@on_a_loop
async def test_what_comes_while_the_writer_is_busy_goes_with_the_next_commit() -> None:
    async with opened("sqlite") as store:
        transactions = Transactions(store)
        puts = [store.put([new(0)], 0.0)]
        await asyncio.sleep(0)
        puts += [store.put([new(number)], 0.0) for number in range(1, 40)]
        await asyncio.gather(*puts)
        assert transactions.count == 2


@on_a_loop
async def test_a_closed_store_has_committed_what_was_asked_for(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        ended = new(2)
        futures = [store.put([new(1)], 0.0), store.put([ended], 0.0), store.finish([end(ended, 1.0)])]
        await store.close()
        await asyncio.gather(*futures)
    async with resumed("sqlite", tmp_path) as (again, unfinished):
        assert [task.id for task in unfinished] == [new(1).id]
        assert (await found(again, ended.id)).state is TaskState.SUCCEEDED


# refusals


@on_a_loop
async def test_a_put_that_cannot_be_written_refuses_only_itself() -> None:
    async with opened("sqlite") as store:
        await put(store, [new(1)])
        twice = store.put([new(2), new(1)], 0.0)
        good = store.put([new(3)], 0.0)
        with pytest.raises(StoreUnavailableError):
            await twice
        await good
        assert await what_is_left(store, [new(1), new(2), new(3)]) == ["task", "none", "task"]
        assert store.usage()[:2] == (2, 16)


@on_a_loop
async def test_a_large_put_is_refused_on_a_full_disk_and_a_small_one_beside_it_is_not(
    disk: Disk, tmp_path: Path
) -> None:
    async with opened("sqlite", tmp_path) as store:
        disk.full = True
        large, small = store.put([new(1, LARGE)], 0.0), store.put([new(2)], 0.0)
        with pytest.raises(StoreFullError, match="disk"):
            await large
        await small
        assert store.usage()[:2] == (1, 8)
        assert list((tmp_path / "arrays").glob("*/*")) == []
        disk.full = False
        await put(store, [new(1, LARGE)])
        assert store.usage()[:2] == (2, LARGE + 8)


@on_a_loop
async def test_a_full_database_refuses_until_there_is_room() -> None:
    async with opened("sqlite") as store:
        await put(store, [new(1)])
        fill(store)
        for _ in range(3):
            assert isinstance(await refusal(lambda: put(store, [new(2, INLINE)])), StoreFullError)
        assert await what_is_left(store, [new(1), new(2)]) == ["task", "none"]
        assert store.usage()[:2] == (1, 8)
        make_room(store)
        await put(store, [new(2, INLINE)])
        assert store.usage()[:2] == (2, INLINE + 8)


@on_a_loop
async def test_books_balance_when_a_task_has_ended_before_its_put_is_refused(disk: Disk) -> None:
    async with opened("sqlite") as store:
        disk.full = True
        for task, late in ((new(1, LARGE), False), (new(2, LARGE), True)):
            stored = store.put([task], 0.0)
            task.kept = True
            if late:
                await asyncio.gather(stored, return_exceptions=True)
            await store.finish([end(task, 1.0, 3)])
            await asyncio.gather(stored, return_exceptions=True)
            assert store.usage()[:2] == (0, 0)
            assert await store.get(task.id) is None


@on_a_loop
async def test_the_group_of_a_refused_put_is_not_there(disk: Disk) -> None:
    group = a_group(key="key")
    async with opened("sqlite") as store:
        disk.full = True
        tasks = [new(number, LARGE, group=group.id) for number in range(2)]
        await refusal(lambda: put(store, tasks, group=group))
        assert await store.group(group.id) is None
        assert await store.holder("key") is None
        assert store.usage()[:2] == (0, 0)


@on_a_loop
async def test_a_refused_put_leaves_a_finished_task_of_the_same_id_in_the_books() -> None:
    async with opened("sqlite", max_tasks=2) as store:
        (task,) = await put_ended(store, range(1), delivered=True)
        await refusal(lambda: put(store, [new(0)]))
        await put(store, [new(1), new(2)])
        assert store.usage()[:2] == (2, 16)
        assert await what_is_left(store, [task]) == ["gone"]


@on_a_loop
async def test_a_refused_reopening_leaves_the_task_as_it_failed() -> None:
    async with opened("sqlite") as store:
        await put(store, [task := new(1)])
        await finish(store, [fail(task, 1.0)])
        connection = writer_of(store)._connection
        connection.execute("PRAGMA query_only=ON")
        assert isinstance(await refusal(lambda: _reopen(store, task)), StoreUnavailableError)
        connection.execute("PRAGMA query_only=OFF")
        assert (await found(store, task.id)).state is TaskState.FAILED
        await _reopen(store, task)
        assert store.usage()[:2] == (1, 8)


async def _reopen(store: TaskStore, task: Task) -> None:
    await store.reopen(await found(store, task.id), 2.0)


# what must not be refused


@pytest.mark.parametrize("nbytes", [INLINE, LARGE], ids=["row", "file"])
@on_a_loop
async def test_an_end_is_tried_again_until_there_is_room(nbytes: int, disk: Disk) -> None:
    async with opened("sqlite") as store:
        await put(store, [task := new(1)])
        transactions = Transactions(store)
        fill(store)
        disk.full = True
        finishing = asyncio.ensure_future(store.finish([end(task, 1.0, nbytes)]))
        await (transactions.begun(3) if nbytes <= INLINE else disk.refuses(3))
        assert not finishing.done()
        make_room(store)
        disk.full = False
        await finishing
        assert (await found(store, task.id)).output_bytes == nbytes
        assert store.usage()[:2] == (1, nbytes)


@on_a_loop
async def test_an_end_that_cannot_be_written_holds_up_no_other(disk: Disk) -> None:
    async with opened("sqlite") as store:
        await put(store, [stuck := new(1), free := new(2)])
        disk.full = True
        finishing = asyncio.ensure_future(store.finish([end(stuck, 1.0, LARGE)]))
        await finish(store, [end(free, 1.0)])
        assert not finishing.done()
        disk.full = False
        await finishing


@on_a_loop
async def test_an_end_that_cannot_be_written_is_given_up_by_close_and_the_task_runs_again(
    disk: Disk, tmp_path: Path
) -> None:
    async with opened("sqlite", tmp_path) as store:
        await put(store, [task := new(1)])
        disk.full = True
        finishing = asyncio.ensure_future(store.finish([end(task, 1.0, LARGE)]))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreFullError):
            await finishing
    async with resumed("sqlite", tmp_path) as (_, unfinished):
        assert [task.id for task in unfinished] == [task.id]


@on_a_loop
async def test_a_member_whose_end_came_late_expires_with_its_group(disk: Disk, tmp_path: Path) -> None:
    group = a_group()
    async with opened("sqlite", tmp_path) as store:
        late, last = members(range(2), group)
        await put(store, [late, last], group=group)
        disk.full = True
        finishing = asyncio.ensure_future(store.finish([end(late, 1.0, LARGE)]))
        await finish(store, [end(last, 2.0)], closing=[Closing(group.id, 50.0)])
        assert await store.sweep(49.0, 10) == 0
        disk.full = False
        await finishing
    async with resumed("sqlite", tmp_path) as (again, _):
        assert [(await found(again, task.id)).expires for task in (late, last)] == [50.0, 50.0]
        assert await again.sweep(50.0, 10) == 2
        assert again.usage()[:2] == (0, 0)


@on_a_loop
async def test_a_task_whose_end_is_not_written_is_not_swept_with_its_group(disk: Disk) -> None:
    group = a_group()
    async with opened("sqlite") as store:
        late, last = members(range(2), group)
        await put(store, [late, last], group=group)
        disk.full = True
        finishing = asyncio.ensure_future(store.finish([end(late, 1.0, LARGE)]))
        await finish(store, [end(last, 2.0)], closing=[Closing(group.id, 50.0)])
        assert await store.sweep(50.0, 10) == 1
        disk.full = False
        await finishing
        assert await store.sweep(50.0, 10) == 1
        assert store.usage()[:2] == (0, 0)


@on_a_loop
async def test_the_writer_goes_on_when_a_file_cannot_be_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    async with opened("sqlite") as store:
        await put(store, [task := new(1, LARGE)])
        monkeypatch.setattr(writer, "remove", denied)
        await finish(store, [end(task, 1.0)])
        await store.remove([task], Gone("by hand"), 2.0)
        await put(store, [new(2)])
        assert store.usage()[:2] == (1, 8)


# what waits, and what is on the disk


@on_a_loop
async def test_books_balance_when_nobody_waits_for_the_answer() -> None:
    async with opened("sqlite") as store:
        tasks = await put_ended(store, range(4))
        waiting = [
            asyncio.ensure_future(store.sweep(DAY, 1)),
            asyncio.ensure_future(store.remove(tasks, Gone("by hand"), 1.0)),
            asyncio.ensure_future(store.put([new(9)], 0.0)),
        ]
        for future in waiting:
            future.cancel()
        await settled(store)
        assert store.usage()[:2] == (1, 8)


@pytest.mark.parametrize(("durability", "synced"), [("normal", 0), ("full", 2)])
@on_a_loop
async def test_files_and_their_names_are_forced_to_the_disk_only_when_asked(
    durability: str, synced: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = os.fsync

    def counted(descriptor: int) -> None:
        calls.append(descriptor)
        real(descriptor)

    store = open_store("sqlite", folder=tmp_path, durability=durability, max_tasks=9, max_bytes=10**6)
    await store.unfinished()
    monkeypatch.setattr(os, "fsync", counted)
    (level,) = writer_of(store)._connection.execute("PRAGMA synchronous").fetchone()
    await put(store, [new(1, LARGE)])
    await put(store, [new(2)])
    await store.close()
    assert (len(calls), level) == (synced, 2 if durability == "full" else 1)

"""Reading and counting while tasks come and go beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ndserve.errors import NotFailedError, StoreUnavailableError
from ndserve.stores.base import Gone, TaskStore
from ndserve.stores.sqlite import SqliteStore
from ndserve.types import TaskState
from tests.contract.stores import (
    end,
    fail,
    finish,
    found,
    new,
    on_a_loop,
    opened,
    put,
    refused,
    resumed,
    settled,
    what_is_left,
)

LARGE = 100_000


@pytest.fixture(autouse=True)
def nothing_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ndserve.stores.sqlite.at_hand.BYTES", 0)


def before_reading(store: TaskStore, monkeypatch: pytest.MonkeyPatch, what: Callable[[], Any]) -> None:
    """Let `what` happen between the reading of a row and that of its file."""
    assert isinstance(store, SqliteStore)
    reader = store._folder.reader
    real = reader.apart

    async def late(work: Callable[[], Any]) -> Any:
        monkeypatch.setattr(reader, "apart", real)
        await what()
        return await real(work)

    monkeypatch.setattr(reader, "apart", late)


@on_a_loop
async def test_a_result_that_is_removed_while_it_is_read_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened("sqlite") as store:
        await put(store, [task := new(1)])
        await finish(store, [end(task, 1.0, LARGE)])
        before_reading(store, monkeypatch, lambda: store.remove([task], Gone("by hand"), 2.0))
        assert await store.get(task.id) == Gone("by hand")


@on_a_loop
async def test_a_task_that_ends_while_it_is_read_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened("sqlite") as store:
        await put(store, [task := new(1, LARGE)])
        before_reading(store, monkeypatch, lambda: finish(store, [end(task, 1.0)]))
        assert (await found(store, task.id)).state is TaskState.SUCCEEDED


@pytest.mark.parametrize("damage", [None, b"", b"NDA1", b"x" * LARGE], ids=["missing", "empty", "short", "other"])
@on_a_loop
async def test_a_result_that_is_damaged_is_told_and_harms_no_other(damage: bytes | None, tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await put(store, tasks := [new(1), new(2)])
        await finish(store, [end(task, 1.0, LARGE) for task in tasks])
        path = next((tmp_path / "arrays").glob(f"*/{tasks[0].seq}.out"))
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(StoreUnavailableError, match="cannot be read"):
            await store.get(tasks[0].id)
        assert (await found(store, tasks[1].id)).output_bytes == LARGE
        await store.remove(tasks, Gone("by hand"), 2.0)
        assert store.usage()[:2] == (0, 0)


@on_a_loop
async def test_a_row_that_is_damaged_is_told(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await put(store, [task := new(1)])
        await finish(store, [end(task, 1.0)])
        assert isinstance(store, SqliteStore)
        store._folder.writer._connection.execute("UPDATE tasks SET arrays = x'00'")
        with pytest.raises(StoreUnavailableError, match="cannot be read"):
            await store.get(task.id)


@on_a_loop
async def test_an_outcome_that_is_delivered_after_the_task_was_run_again_counts_as_the_new_one() -> None:
    async with opened("sqlite", max_tasks=2, max_bytes=1000) as store:
        await put(store, [task := new(1, 100)])
        await finish(store, [fail(task, 1.0)])
        failed = await found(store, task.id)
        again = await store.reopen(failed, 2.0)
        store.delivered(failed)
        await put(store, [new(2)])
        await refused(lambda: put(store, [new(3)]))
        await finish(store, [end(again, 3.0, 5)])
        store.delivered(failed)
        await put(store, [new(4)])
        await settled(store)
        assert store.usage()[:2] == (2, 16)
        assert await what_is_left(store, [task]) == ["gone"]


@on_a_loop
async def test_a_task_is_reopened_once() -> None:
    async with opened("sqlite") as store:
        await put(store, [task := new(1)])
        await finish(store, [fail(task, 1.0)])
        both = await asyncio.gather(store.reopen(task, 2.0), store.reopen(task, 2.0), return_exceptions=True)
        assert [isinstance(one, NotFailedError) for one in both] == [False, True]


@on_a_loop
async def test_a_reopening_whose_caller_has_gone_is_done_and_in_the_books(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await put(store, [task := new(1)])
        await finish(store, [fail(task, 1.0)])
        reopening = asyncio.create_task(store.reopen(task, 2.0))
        await asyncio.sleep(0)
        reopening.cancel()
        await settled(store)
        assert store.usage()[:2] == (1, 8)
    async with resumed("sqlite", tmp_path) as (_, unfinished):
        assert [task.id for task in unfinished] == [task.id]

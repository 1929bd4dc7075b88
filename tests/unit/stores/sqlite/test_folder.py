"""How a data directory is opened: whose it is, what may lie in it, and what is mended."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from ndserve.errors import StartupError
from ndserve.stores.sqlite import SqliteStore
from ndserve.stores.sqlite.schema import VERSION
from ndserve.types import TaskOptions
from tests.contract.stores import bits, end, fail, finish, found, killed, make, new, on_a_loop, opened, put, resumed

LARGE = 100_000


async def refusal(folder: Path) -> str:
    store = make("sqlite", folder)
    with pytest.raises(StartupError) as raised:
        await store.unfinished()
    await store.close()
    return raised.value.message


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "arrays").glob("*/*")}


# the schema


@on_a_loop
async def test_the_version_of_the_tables_is_stored(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path):
        pass
    with sqlite3.connect(tmp_path / "tasks.sqlite3") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    connection.close()


@on_a_loop
async def test_a_newer_version_is_refused_by_both_numbers_and_left_as_it_is(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await put(store, [new(1)])
    path = tmp_path / "tasks.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={VERSION + 7}")
    connection.close()
    message = await refusal(tmp_path)
    assert f"version {VERSION + 7}" in message
    assert f"up to {VERSION}" in message
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM tasks").fetchone() == (1,)
    connection.close()


@pytest.mark.parametrize("pragma", ["application_id=77", "user_version=1"])
@on_a_loop
async def test_a_database_of_something_else_is_refused_and_left_as_it_is(pragma: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.sqlite3"
    connection = sqlite3.connect(path)
    connection.executescript(f"PRAGMA {pragma}; CREATE TABLE songs (title TEXT)")
    connection.close()
    before = path.read_bytes()
    assert "something else" in await refusal(tmp_path)
    assert path.read_bytes() == before


@on_a_loop
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tasks.sqlite3").write_text("my notes, which are long enough to have a header\n" * 100)
    assert "not a database" in await refusal(tmp_path)


@on_a_loop
async def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await put(store, [new(number) for number in range(200)])
    path = tmp_path / "tasks.sqlite3"
    raw = path.read_bytes()
    path.write_bytes(raw[:4096] + b"\xa5" * (len(raw) - 4096))
    assert str(tmp_path) in await refusal(tmp_path)


@on_a_loop
async def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert "--data-dir" in await refusal(tmp_path / "data")


# the lock


@on_a_loop
async def test_a_second_server_is_refused_by_the_number_of_the_first(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await put(store, [new(1)])
        assert f"process {os.getpid()}" in await refusal(tmp_path)
        await put(store, [new(2)])


@on_a_loop
async def test_a_closed_store_gives_the_folder_free(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path):
        pass
    async with opened("sqlite", tmp_path) as store:
        await put(store, [new(1)])


@on_a_loop
async def test_a_refused_folder_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "tasks.sqlite3"
    path.write_text("my notes, which are long enough to have a header\n" * 100)
    await refusal(tmp_path)
    path.unlink()
    async with opened("sqlite", tmp_path) as store:
        await put(store, [new(1)])


@on_a_loop
async def test_a_store_that_was_never_opened_closes() -> None:
    await make("sqlite", Path("nowhere")).close()


@on_a_loop
async def test_nobody_else_may_read_what_is_stored(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path / "data") as store:
        await put(store, [new(1, LARGE)])
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0


# files


@on_a_loop
async def test_only_large_arrays_are_files_and_they_go_with_their_task(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await put(store, [small := new(1), large := new(2, LARGE)])
        assert files(tmp_path) == {f"{large.seq}.in"}
        await finish(store, [end(small, 1.0, LARGE), end(large, 1.0)])
        assert files(tmp_path) == {f"{small.seq}.out"}
        await store.sweep(1e6, 10)
        assert files(tmp_path) == set()


@on_a_loop
async def test_files_that_no_row_speaks_of_are_removed_and_the_others_kept(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path / "a") as store:
        tasks = [new(number, LARGE) for number in range(4)]
        await put(store, tasks)
        await finish(store, [end(tasks[1], 1.0, LARGE), fail(tasks[2], 1.0), end(tasks[3], 1.0)])
        copy = killed(tmp_path / "a")
    wanted = files(copy)
    assert len(wanted) == 3
    for stray in ("00/256.in", "01/1.out", "02/2.in", "05/5.out.tmp", "07/anything"):
        (copy / "arrays" / stray).write_bytes(b"stray")
    async with resumed("sqlite", copy) as (store, (unfinished,)):
        assert files(copy) == wanted
        assert unfinished.nbytes == LARGE
        assert (await found(store, tasks[1].id)).outputs is not None
        assert (await store.reopen(await found(store, tasks[2].id), 2.0)).input_bytes == LARGE


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "other"])
@on_a_loop
async def test_a_task_whose_inputs_are_damaged_comes_back_without_them(damage: str, tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        await put(store, [bad := new(1, LARGE), good := new(2, LARGE)])
    path = next((tmp_path / "arrays").glob(f"*/{bad.seq}.in"))
    raw = path.read_bytes()
    path.write_bytes({"empty": b"", "short": raw[:-64], "other": b"x" * len(raw)}.get(damage, raw))
    if damage == "missing":
        path.unlink()
    async with resumed("sqlite", tmp_path) as (store, unfinished):
        assert [(task.id, bool(task.inputs)) for task in unfinished] == [(bad.id, False), (good.id, True)]
        assert store.usage().nbytes == 2 * LARGE


# runs


@on_a_loop
async def test_runs_are_counted_once_when_the_process_dies_before_the_notes_are_cleared(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path / "a") as store:
        await put(store, [task := new(1, options=TaskOptions(run_within=9.0))])
        store.start([task], 4.0)
        first = killed(tmp_path / "a")
    notes = (first / "running").read_bytes()
    async with resumed("sqlite", first) as (_, unfinished):
        assert [(task.attempts, task.run_by) for task in unfinished] == [(1, 13.0)]
        second = killed(first)
    (second / "running").write_bytes(notes)
    async with resumed("sqlite", second) as (_, unfinished):
        assert [(task.attempts, task.run_by) for task in unfinished] == [(1, 13.0)]


@on_a_loop
async def test_the_arrays_of_a_result_survive_a_cache_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ndserve.stores.sqlite.at_hand.BYTES", 3 * 1024)
    async with opened("sqlite", tmp_path) as store:
        assert isinstance(store, SqliteStore)
        outputs = [{"y": np.full(100, number, np.int32)} for number in range(9)]
        tasks = [new(number) for number in range(9)]
        await put(store, tasks)
        await finish(store, [end(task, 1.0, outputs=each) for task, each in zip(tasks, outputs, strict=True)])
        assert len(store._at_hand) == 2
        assert [bits((await found(store, task.id)).outputs) for task in tasks] == [bits(each) for each in outputs]
        await store.sweep(1e6, 10)
        assert (len(store._at_hand), store._at_hand.nbytes) == (0, 0)
    shutil.rmtree(tmp_path)

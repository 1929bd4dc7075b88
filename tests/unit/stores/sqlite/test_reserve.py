"""Room that is held back, so that a disk which the store has filled can be emptied again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ndserve.errors import StoreFullError
from ndserve.stores.base import Gone
from ndserve.stores.sqlite.reserve import BYTES, Reserve
from ndserve.stores.sqlite.writer import Change, Writer
from tests.contract.stores import end, new, on_a_loop, opened, put, what_is_left

GONE = Gone("the test has removed it")


def test_the_reserve_takes_room_on_the_disk_and_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    reserve = Reserve(path)
    assert reserve.hold()
    assert path.stat().st_blocks * 512 >= BYTES
    reserve.release()
    assert not path.exists()


def test_a_disk_without_room_has_no_reserve_until_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve(tmp_path / "reserve")

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert not reserve.hold()
        assert list(tmp_path.iterdir()) == []
    assert reserve.hold()


@on_a_loop
async def test_nothing_new_is_taken_in_without_a_reserve_and_tasks_end_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened("sqlite") as store:
        tasks = [new(1), new(2)]
        await put(store, tasks)
        monkeypatch.setattr(Reserve, "hold", lambda self: False)
        with pytest.raises(StoreFullError):
            await store.put([new(3)], 0.0)
        await store.finish([end(task, 1.0) for task in tasks])
        await store.remove(tasks[:1], GONE, 1.0)
        assert await what_is_left(store, [*tasks, new(3)]) == ["gone", "task", "none"]


@on_a_loop
async def test_a_removal_that_finds_no_room_gets_that_of_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened("sqlite") as store:
        task = new(1)
        await put(store, [task])
        await store.finish([end(task, 1.0)])
        released: list[Reserve] = []
        write, release = Writer._transact, Reserve.release

        def full_until_released(writer: Writer, changes: list[Change]) -> bool:
            if released:
                return write(writer, changes)
            for change in changes:
                change.error = OSError(errno.ENOSPC, "no room")
            return False

        def noted(reserve: Reserve) -> None:
            released.append(reserve)
            release(reserve)

        monkeypatch.setattr(Writer, "_transact", full_until_released)
        monkeypatch.setattr(Reserve, "release", noted)
        await store.remove([task], GONE, 1.0)
        assert len(released) == 1
        assert await what_is_left(store, [task]) == ["gone"]

"""The ring of runs that have begun."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest

from ndserve.stores.sqlite import running
from ndserve.stores.sqlite.running import Running


def test_notes_are_there_for_whoever_opens_the_file_next(tmp_path: Path) -> None:
    ring = Running(tmp_path / "running", sync=False)
    ring.add([3, 5], 1.5)
    ring.add([4], 2.5)
    # Not closed: the process has died.
    again = Running(tmp_path / "running", sync=False)
    assert again.started() == {3: 1.5, 5: 1.5, 4: 2.5}


def test_a_later_start_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    ring = Running(tmp_path / "running", sync=False)
    ring.add([3], 1.5)
    ring.add([3], 2.5)
    assert ring.started() == {3: 2.5}


def test_the_ring_wraps_around_and_keeps_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "NOTES", 4)
    ring = Running(tmp_path / "running", sync=False)
    ring.add(range(1, 7), 1.0)
    assert ring.started().keys() == {3, 4, 5, 6}


def test_the_later_start_counts_when_the_ring_has_wrapped_between_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "NOTES", 4)
    ring = Running(tmp_path / "running", sync=False)
    ring.add([1, 2, 3, 9], 1.0)
    ring.add([9], 2.0)
    assert ring.started()[9] == 2.0


def test_a_full_round_of_the_ring_fits_the_file(tmp_path: Path) -> None:
    ring = Running(tmp_path / "running", sync=False)
    size = (tmp_path / "running").stat().st_size
    ring.add(range(1, running.NOTES + 2), 1.0)
    assert (tmp_path / "running").stat().st_size == size
    assert len(ring.started()) == running.NOTES


def test_a_forgotten_task_has_no_note_and_the_others_keep_theirs(tmp_path: Path) -> None:
    ring = Running(tmp_path / "running", sync=False)
    ring.add([1, 2, 1, 3], 1.0)
    ring.forget(1)
    assert ring.started() == {2: 1.0, 3: 1.0}


def test_a_cleared_ring_is_empty(tmp_path: Path) -> None:
    ring = Running(tmp_path / "running", sync=False)
    ring.add([1, 2], 1.0)
    ring.clear()
    assert ring.started() == {}
    ring.close()


@pytest.mark.parametrize("sync", [False, True])
def test_notes_are_forced_to_the_disk_only_when_asked(
    sync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []

    class Counting(mmap.mmap):
        def flush(self, *args: Any) -> None:
            flushed.append(args)
            super().flush(*args)

    monkeypatch.setattr(mmap, "mmap", Counting)
    ring = Running(tmp_path / "running", sync=sync)
    ring.add([1, 2, 3], 1.0)
    ring.add([4], 2.0)
    assert len(flushed) == (2 if sync else 0)

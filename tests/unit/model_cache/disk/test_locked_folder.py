"""Folders that live as long as their process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from ndserve.model_cache.disk.locked_folder import LOCK, LockedFolder, remove_left_over


def abandoned(parent: Path, name: str) -> Path:
    """What a killed process leaves: the files, and a lock that nobody holds."""
    folder = parent / name
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(b"x")
    (folder / LOCK).touch()
    return folder


def test_a_folder_is_for_this_user_alone_and_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = LockedFolder.make(tmp_path, "p-")
    assert (folder.path.parent, folder.path.stat().st_mode & 0o077) == (tmp_path, 0)
    (folder.path / "sub").mkdir()
    (folder.path / "sub" / "file").write_bytes(b"x")
    (folder.path / "link").symlink_to(tmp_path)
    folder.cleanup()
    folder.cleanup()
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_over_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    living = LockedFolder.make(tmp_path, "p-")
    abandoned(tmp_path, "p-dead")
    abandoned(tmp_path, "other")
    (tmp_path / "p-killed-before-it-had-a-lock").mkdir()
    (tmp_path / "p-file").write_bytes(b"")
    remove_left_over(tmp_path, "p-")
    assert {path.name for path in tmp_path.iterdir()} == {living.path.name, "other", "p-file"}
    living.cleanup()


def test_links_to_what_lies_elsewhere_are_not_followed(tmp_path: Path) -> None:
    kept = abandoned(tmp_path, "kept")
    (abandoned(tmp_path, "p-dead") / "link").symlink_to(kept)
    (tmp_path / "p-link").symlink_to(kept)
    remove_left_over(tmp_path, "p-")
    assert not (tmp_path / "p-dead").exists()
    (tmp_path / "p-link").unlink()
    assert (kept / LOCK).exists()


def test_the_lock_goes_last_so_that_a_kill_in_between_leaves_what_can_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = LockedFolder.make(tmp_path, "p-")
    (folder.path / "file").write_bytes(b"x")
    with monkeypatch.context() as patched:
        patched.setattr(folder._folder, "cleanup", lambda: None)
        folder.cleanup()
    assert [path.name for path in folder.path.iterdir()] == [LOCK]
    remove_left_over(tmp_path, "p-")
    assert list(tmp_path.iterdir()) == []
    folder._folder.cleanup()


def test_a_folder_that_is_taken_for_left_over_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open
    taken: list[Any] = []

    def late(path: Any, *arguments: Any, **keywords: Any) -> int:
        if not taken and Path(path).name == LOCK:
            taken.append(path)
            remove_left_over(tmp_path, "p-")
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", late)
    folder = LockedFolder.make(tmp_path, "p-")
    assert (len(taken), folder.path.is_dir()) == (1, True)
    folder.cleanup()


def test_where_nothing_can_be_locked_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(OSError, match="not supported"):
        LockedFolder.make(tmp_path, "p-")
    assert list(tmp_path.iterdir()) == []

"""The files of a model that a client sends: where they may lie, and that nothing of them is left."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ndserve.errors import InvalidInputError, StoreFullError
from ndserve.model_cache.disk.locked_folder import LOCK
from ndserve.model_cache.disk.sent import MAX_DEPTH, MAX_FILES, PREFIX, check_path, remove_left_over, write_files


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_files_lie_as_in_a_repository_and_go_together(place: Path) -> None:
    folder = write_files("m", {"1/model.onnx": b"one", "1/sub/w.bin": b"two", "model.toml": b""})
    root = folder.path
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert files == {"m/1/model.onnx": b"one", "m/1/sub/w.bin": b"two", "m/model.toml": b"", LOCK: b""}
    folder.cleanup()
    assert list(place.iterdir()) == []


def test_a_folder_that_a_killed_process_has_left_goes_and_a_living_ones_stays(place: Path) -> None:
    folder = write_files("m", {"1/model.onnx": b""})
    left = place / f"{PREFIX}left"
    (left / "m").mkdir(parents=True)
    (left / LOCK).touch()
    (place / f"{PREFIX}without-a-lock" / "sub").mkdir(parents=True)
    (place / "another").mkdir()
    remove_left_over()
    assert {path.name for path in place.iterdir()} == {folder.path.name, f"{PREFIX}without-a-lock", "another"}
    folder.cleanup()


def test_only_the_servers_user_may_look_into_the_folder(place: Path) -> None:
    folder = write_files("m", {"1/model.onnx": b""})
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.cleanup()


@pytest.mark.parametrize("path", ["model.onnx", "1/model.onnx", "1/a-b_c.D9", "a" * 255, "/".join("12345678")])
def test_plain_names_with_slashes_between_them_are_a_path(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "..", "../m", "1/..", "1/../../m", "1/..x", ".", "./m", "1/./m", "~/m/.x"),
        *("/etc/passwd", "//m", "1//m", "1/", "/1/m", "C:\\m", "1\\m", "..\\m", "C:m"),
        *(
            "m\0",
            "1/m\0.onnx",
            "m\n",
            "\nm",
            "m\r",
            "a b",
            " m",
            "m ",
            "ä",
            "m*",
            "m?",
            "$HOME",
            "%2e%2e",
            "m:s",
            "\u2025",
        ),
        *(".hidden", "1/.hidden", "a" * 256, "1/" + "a" * 256, "/".join("123456789")),
    ],
)
def test_any_other_path_is_refused_before_anything_is_written(place: Path, path: str) -> None:
    with pytest.raises(InvalidInputError, match="must lie inside the model's folder"):
        write_files("m", {"1/model.onnx": b"", path: b""})
    assert list(place.iterdir()) == []


def test_a_refused_path_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_path("ä" * 5000)
    assert len(caught.value.message) < 500
    assert str(MAX_DEPTH) in caught.value.message


def test_as_many_files_as_are_taken_are_written(place: Path) -> None:
    folder = write_files("m", {f"1/{number}": b"" for number in range(MAX_FILES)})
    assert len(list((folder.path / "m" / "1").iterdir())) == 256
    folder.cleanup()


def test_more_files_are_refused_with_both_figures(place: Path) -> None:
    with pytest.raises(InvalidInputError, match="257 files were sent; at most 256"):
        write_files("m", {f"1/{number}": b"" for number in range(MAX_FILES + 1)})
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("paths", [("1", "1/model.onnx"), ("1/model.onnx", "1"), ("1/a/b", "1/a", "1/c")])
def test_a_file_that_is_the_folder_of_another_is_refused_and_all_go(place: Path, paths: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match="at the same time the folder of another"):
        write_files("m", dict.fromkeys(paths, b"x"))
    assert list(place.iterdir()) == []


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/else")


def test_a_disk_that_is_full_is_told_without_a_path_and_nothing_is_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(StoreFullError) as caught:
            write_files("m", {"1/model.onnx": b"x"})
    assert caught.value.message == "the model's files cannot be written: No space left on device"
    assert list(place.iterdir()) == []


def test_a_disk_without_room_for_a_folder_is_told_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(StoreFullError, match=r"cannot be written: No space left on device$"):
        write_files("m", {"1/model.onnx": b"x"})

"""A look at one model alone, at names alone, and at what tells that a file has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ndserve.errors import StartupError
from ndserve.model_cache.disk import repository
from ndserve.model_cache.disk.onnx_file import read_signature
from tests import onnx_models


def lay(root: Path, name: str, version: int = 1, options: str = "") -> Path:
    return onnx_models.save(onnx_models.double(), root, name, version, options)


def stamp(root: Path) -> tuple[int, ...]:
    (info,) = repository.scan(root)
    return info.stamp


def test_only_the_versions_of_the_model_that_is_asked_for_are_given(tmp_path: Path) -> None:
    lay(tmp_path, "a")
    lay(tmp_path, "b", 1)
    lay(tmp_path, "b", 2)
    lay(tmp_path, "bb")
    assert [(info.name, info.version) for info in repository.scan(tmp_path, "b")] == [("b", "1"), ("b", "2")]
    assert repository.scan(tmp_path, "c") == []


def test_the_files_of_other_models_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noting(path: Path) -> Any:
        read.append(path.parent.parent.name)
        return read_signature(path)

    for name in "abc":
        lay(tmp_path, name)
    monkeypatch.setattr("ndserve.model_cache.disk.repository.read_signature", noting)
    repository.scan(tmp_path, "b")
    assert read == ["b"]


def test_a_clash_of_another_model_does_not_matter(tmp_path: Path) -> None:
    path = lay(tmp_path, "a")
    (tmp_path / "a.onnx").write_bytes(path.read_bytes())
    lay(tmp_path, "b")
    assert len(repository.scan(tmp_path, "b")) == 1
    with pytest.raises(StartupError):
        repository.scan(tmp_path, "a")


def test_names_come_once_each_and_in_order(tmp_path: Path) -> None:
    for name, version in (("b", 1), ("b", 2), ("a", 1)):
        lay(tmp_path, name, version)
    (tmp_path / "c.onnx").write_bytes(b"")
    (tmp_path / "b.onnx").write_bytes(b"")
    assert repository.names(tmp_path) == ["a", "b", "c"]


def test_names_are_given_without_a_look_into_the_files(tmp_path: Path) -> None:
    lay(tmp_path, "torn").write_bytes(b"no model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a b.onnx").write_bytes(b"")
    assert repository.names(tmp_path) == ["torn"]


def test_what_has_not_changed_keeps_its_stamp(tmp_path: Path) -> None:
    lay(tmp_path, "m", options="pinned = true")
    assert stamp(tmp_path) == stamp(tmp_path) != ()


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def swap(path: Path) -> None:
    """Another file of the same time and length in its place."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [grow, touch, swap])
def test_a_changed_model_file_has_another_stamp(tmp_path: Path, change: Any) -> None:
    path = lay(tmp_path, "m")
    before = stamp(tmp_path)
    change(path)
    assert stamp(tmp_path) != before


@pytest.mark.parametrize("change", [grow, touch, swap, Path.unlink])
def test_changed_options_have_another_stamp(tmp_path: Path, change: Any) -> None:
    lay(tmp_path, "m", options="pinned = true")
    before = stamp(tmp_path)
    change(tmp_path / "m" / "model.toml")
    assert stamp(tmp_path) != before


def test_options_that_come_later_change_the_stamp(tmp_path: Path) -> None:
    lay(tmp_path, "m")
    before = stamp(tmp_path)
    (tmp_path / "m" / "model.toml").write_text("")
    assert stamp(tmp_path) != before


def test_changed_external_data_have_another_stamp(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.with_external_weights("w.bin"), tmp_path, "m")
    (path.parent / "w.bin").write_bytes(bytes(4))
    before = stamp(tmp_path)
    (path.parent / "w.bin").write_bytes(bytes(8))
    assert stamp(tmp_path) != before


def test_a_broken_file_has_a_stamp_too(tmp_path: Path) -> None:
    lay(tmp_path, "m").write_bytes(b"no model")
    assert stamp(tmp_path) != ()


def test_a_stamp_is_no_part_of_what_a_model_is(tmp_path: Path) -> None:
    path = lay(tmp_path, "m")
    (before,) = repository.scan(tmp_path)
    touch(path)
    (after,) = repository.scan(tmp_path)
    assert (before == after, before.stamp == after.stamp) == (True, False)

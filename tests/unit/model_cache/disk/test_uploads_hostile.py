"""Uploads of what is no model or has no room, of places that are taken, and of a process that is killed in between."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndserve.errors import BodyTooLargeError, ConflictError, InvalidModelError, StoreFullError
from ndserve.model_cache.disk.repository import scan
from ndserve.model_cache.disk.uploads import Upload, clean_up
from tests import onnx_models
from tests.unit.model_cache.disk.test_uploads import LIMIT, MODEL, OTHER, content, put

ALONE = "which one uploaded file cannot bring; copy such a model into the model folder instead"


def external(*locations: str) -> bytes:
    return bytes(onnx_models.with_external_weights(*locations).SerializeToString())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (b"<html><body>Not Found</body></html>", "text"),
        (b'{"error": "not found"}', "text"),
        (MODEL[:60], "cut off"),
        (bytes(500), "not an ONNX model"),
        (onnx_models.identity(14).SerializeToString(), "complex64"),
        (external("w.bin"), ALONE),
        (external("model.onnx"), ALONE),
        (external("../../../secret"), "not a plain relative path"),
        (external("a.bin", "/etc/hostname"), "'/etc/hostname' is not a plain relative path"),
        (external("*/_ORT_MEM_ADDR_/*"), "not a plain relative path"),
        (external("w" * 10_000), ALONE),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_is_no_model_alone_is_refused_with_the_reason_and_leaves_nothing(
    tmp_path: Path, data: bytes, told: str
) -> None:
    with pytest.raises(InvalidModelError) as caught:
        put(tmp_path, "m", data=data)
    assert told in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert len(caught.value.message) < 400
    assert content(tmp_path) == {}


@given(length=st.integers(0, len(MODEL) - 1))
def test_a_truncated_model_is_never_taken_and_the_former_one_stays(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    root = tmp_path_factory.mktemp("models")
    put(root, "m", data=OTHER)
    before = content(root)
    with pytest.raises(InvalidModelError):
        put(root, "m", data=MODEL[:length], replace=True)
    assert content(root) == before


def test_options_that_do_not_fit_the_new_version_are_its_reason(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "m", options="warmup = [[1, 4]]")
    before = content(tmp_path)
    with pytest.raises(InvalidModelError, match=r"warmup has the shape \[1, 4\] for x: float32\[\?, 5\]"):
        put(tmp_path, "m", "2", OTHER)
    assert content(tmp_path) == before


def test_a_file_over_the_limit_is_refused_with_the_option_that_sets_it(tmp_path: Path) -> None:
    with Upload.begin(tmp_path, "m", "1", len(MODEL)) as upload:
        upload.write(MODEL)
        with pytest.raises(BodyTooLargeError, match=rf"larger than {len(MODEL)} bytes \(--max-model-bytes\)"):
            upload.write(b"x")
    assert content(tmp_path) == {}


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/else")


TOLD = "the model's files cannot be written: No space left on device"


def test_a_disk_that_fills_up_is_told_without_a_path_and_nothing_is_left(tmp_path: Path) -> None:
    with Upload.begin(tmp_path, "m", "1", LIMIT) as upload:
        upload._file.close()
        upload._file = FileIO("/dev/full", "wb")
        with pytest.raises(StoreFullError) as caught:
            upload.write(MODEL)
    assert (caught.value.message, content(tmp_path)) == (TOLD, {})


@pytest.mark.parametrize("step", ["mkdir", "open"])
def test_a_disk_without_room_to_begin_is_told_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, step, full)
        with pytest.raises(StoreFullError) as caught:
            Upload.begin(tmp_path, "m", "1", LIMIT)
    assert (caught.value.message, content(tmp_path)) == (TOLD, {})


@pytest.mark.parametrize("step", ["rename", "replace"])
def test_a_commit_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    put(tmp_path, "m")
    before = content(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, step, full)
        with pytest.raises(StoreFullError):
            put(tmp_path, "m", "2" if step == "rename" else "1", OTHER, replace=True)
    assert content(tmp_path) == before


def test_a_model_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreFullError, match="No such file or directory"):
        Upload.begin(tmp_path / "nowhere", "m", "1", LIMIT)


@pytest.mark.parametrize("place", ["m", "m/1"])
def test_a_folder_that_is_a_link_elsewhere_is_not_written_to(tmp_path: Path, place: str) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    outside.mkdir()
    (root / place).parent.mkdir(parents=True)
    (root / place).symlink_to(outside)
    with pytest.raises(ConflictError, match="is a link out of the model folder"):
        Upload.begin(root, "m", "1", LIMIT)
    assert content(outside) == {}


def file_of_the_models_name(root: Path) -> None:
    (root / "m").write_bytes(b"x")


def file_of_the_versions_name(root: Path) -> None:
    (root / "m").mkdir()
    (root / "m" / "1").write_bytes(b"x")


def files_without_a_model(root: Path) -> None:
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "1" / "w.bin").write_bytes(b"x")


@pytest.mark.parametrize("take", [file_of_the_models_name, file_of_the_versions_name, files_without_a_model])
@pytest.mark.parametrize("replace", [False, True])
def test_a_place_that_something_else_has_is_left_to_it(
    tmp_path: Path, take: Callable[[Path], None], replace: bool
) -> None:
    take(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConflictError, match="something else has the place of model 'm' version 1"):
        put(tmp_path, "m", replace=replace)
    assert content(tmp_path) == before


def test_empty_folders_in_the_way_are_used(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    assert put(tmp_path, "m").read_bytes() == MODEL


def test_of_two_uploads_of_one_version_the_first_to_commit_wins(tmp_path: Path) -> None:
    with Upload.begin(tmp_path, "m", "1", LIMIT) as one, Upload.begin(tmp_path, "m", "1", LIMIT) as two:
        for upload, data in ((one, MODEL), (two, OTHER)):
            upload.write(data)
            upload.finish()
        two.commit()
        with pytest.raises(ConflictError):
            one.commit()
    assert content(tmp_path) == {"m/": b"", "m/1/": b"", "m/1/model.onnx": OTHER}


def test_a_model_that_comes_between_look_and_rename_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Upload.begin(tmp_path, "m", "1", LIMIT) as upload:
        upload.write(MODEL)
        upload.finish()
        put(tmp_path, "m", data=OTHER)
        monkeypatch.setattr(upload, "_former", lambda: None)
        with pytest.raises(ConflictError):
            upload.commit()
    assert content(tmp_path) == {"m/": b"", "m/1/": b"", "m/1/model.onnx": OTHER}


def test_a_model_that_is_deleted_before_it_is_replaced_is_told(tmp_path: Path) -> None:
    former = put(tmp_path, "m")
    with Upload.begin(tmp_path, "m", "1", LIMIT) as upload:
        upload.write(MODEL)
        upload.finish()
        place = upload._former()
        former.unlink()
        former.parent.rmdir()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(upload, "_former", lambda: place)
            with pytest.raises(ConflictError, match="deleted meanwhile"):
                upload.commit(replace=True)


def test_an_upload_is_abandoned_once_the_write_under_way_is_over(tmp_path: Path) -> None:
    upload = Upload.begin(tmp_path, "m", "1", LIMIT)
    abandon = threading.Thread(target=upload.abandon)
    with upload._busy:
        abandon.start()
        assert upload._file.write(b"x") == 1
    abandon.join()
    assert content(tmp_path) == {}


KILLED = """
import os, sys
from pathlib import Path
from ndserve.model_cache.disk import repository, uploads

root, step, data = Path(sys.argv[1]), sys.argv[2], bytes.fromhex(sys.argv[3])

def die(*_):
    os.kill(os.getpid(), 9)

upload = uploads.Upload.begin(root, "m", "1", 1 << 20)
if step == "begun": die()
upload.write(data)
if step == "written": die()
upload.finish()
if step == "finished": die()
uploads._sync = die
if step == "committed": upload.commit(replace=True)
uploads.LockedFolder.cleanup = die
uploads._sync = id
(info,) = repository.scan(root)
uploads.remove_version(root, info)
"""


@pytest.mark.parametrize(
    ("step", "left"),
    [("begun", OTHER), ("written", OTHER), ("finished", OTHER), ("committed", MODEL), ("deleted", None)],
)
def test_a_process_that_is_killed_leaves_a_sound_repository(tmp_path: Path, step: str, left: bytes | None) -> None:
    put(tmp_path, "m", data=OTHER)
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), step, MODEL.hex()]
    killed = subprocess.run(arguments, capture_output=True, text=True, timeout=50)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name[:9] for path in tmp_path.iterdir() if path.name != "m"]
    assert [info.problem for info in scan(tmp_path)] == [""] * (left is not None)
    with Upload.begin(tmp_path, "other", "1", LIMIT) as living:
        living.write(MODEL)
        clean_up(tmp_path)
        living.finish()
    assert content(tmp_path) == ({} if left is None else {"m/": b"", "m/1/": b"", "m/1/model.onnx": left})

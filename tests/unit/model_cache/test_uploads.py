"""Uploads and removals: checked, in place at once, and nothing left behind, whatever happens."""

from __future__ import annotations

import errno
import hashlib
import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndserve.errors import (
    BodyTooLargeError,
    ConflictError,
    DigestMismatchError,
    InvalidModelError,
    InvalidParameterError,
    NdserveError,
    StoreFullError,
)
from ndserve.model_cache.locked_folder import LOCK
from ndserve.model_cache.repository import scan, stamp_of
from ndserve.model_cache.uploads import GONE, UPLOAD, Upload, clean_up, remove_version
from ndserve.model_info import ModelInfo
from tests import onnx_models
from tests.e2e.models import external

MODEL: bytes = onnx_models.double().SerializeToString()
OTHER: bytes = onnx_models.double(("n", 5)).SerializeToString()
ROOMY = 1 << 30


def send(root: Path, content: bytes, name: str = "m", version: str = "1", **options: Any) -> bool:
    """An upload from its begin to its end; says whether the version is new."""
    with Upload.begin(root, name, version, options.get("max_bytes", ROOMY)) as upload:
        for start in range(0, len(content), 64):
            upload.write(content[start : start + 64])
        upload.finish(options.get("digest"))
        return upload.commit(replace=options.get("replace", False))


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def one(root: Path, version: str = "1") -> ModelInfo:
    (info,) = [info for info in scan(root) if info.version == version]
    return info


def test_an_upload_becomes_a_version_and_leaves_nothing_else(tmp_path: Path) -> None:
    assert send(tmp_path, MODEL, digest=hashlib.sha256(MODEL).digest())
    assert tree(tmp_path) == ["m", "m/1", "m/1/model.onnx"]
    assert (one(tmp_path).path.read_bytes(), one(tmp_path).problem) == (MODEL, "")


def test_nothing_can_be_found_before_it_is_put_into_its_place(tmp_path: Path) -> None:
    with Upload.begin(tmp_path, "m", "1", ROOMY) as upload:
        upload.write(MODEL)
        info = upload.finish(None)
        assert scan(tmp_path) == []
        assert (info.name, info.version, info.problem) == ("m", "1", "")
        upload.commit(replace=False)
    assert stamp_of(one(tmp_path).path) == info.stamp


def test_a_version_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    send(tmp_path, MODEL)
    with pytest.raises(ConflictError, match="replace=true"):
        send(tmp_path, OTHER)
    assert one(tmp_path).path.read_bytes() == MODEL
    assert tree(tmp_path) == ["m", "m/1", "m/1/model.onnx"]


@pytest.mark.parametrize("single", [True, False], ids=["one file", "in a folder"])
def test_a_version_is_replaced_where_it_lies_if_that_is_asked(tmp_path: Path, single: bool) -> None:
    if single:
        (tmp_path / "m.onnx").write_bytes(MODEL)
    else:
        send(tmp_path, MODEL)
    before = tree(tmp_path)
    assert not send(tmp_path, OTHER, replace=True)
    assert (one(tmp_path).path.read_bytes(), tree(tmp_path)) == (OTHER, before)


def test_the_external_data_of_what_was_replaced_goes(tmp_path: Path) -> None:
    path = tmp_path / "m" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(external("w.bin"))
    (path.parent / "w.bin").write_bytes(bytes(8))
    send(tmp_path, MODEL, replace=True)
    assert tree(tmp_path) == ["m", "m/1", "m/1/model.onnx"]


def test_an_upload_goes_beside_other_versions_and_takes_their_options(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "m", 1, options="pinned = true")
    with Upload.begin(tmp_path, "m", "2", ROOMY) as upload:
        upload.write(MODEL)
        assert upload.finish(None).options.pinned
        upload.commit(replace=False)
    assert tree(tmp_path) == ["m", "m/1", "m/1/model.onnx", "m/2", "m/2/model.onnx", "m/model.toml"]


def test_a_folder_without_a_model_is_no_version_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    assert send(tmp_path, MODEL)
    assert one(tmp_path).problem == ""


def zipped() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", MODEL)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (zipped(), "zip archive"),
        (b"<html><body>502 Bad Gateway</body></html>\n", "a text"),
        (b'{"model": "m"}', "a text"),
        (b"\x93NUMPY\x01\x00v\x00{", "NumPy array"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (MODEL[:-20], "cut off"),
        (external("../../secret"), "plain relative path"),
        (external("/etc/hostname"), "plain relative path"),
        (external("w.bin"), "an upload is one file"),
    ],
)
def test_what_is_no_model_is_refused_with_its_reason_and_goes(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(InvalidModelError, match=told) as caught:
        send(tmp_path, content)
    assert str(tmp_path) not in caught.value.message
    assert tree(tmp_path) == []


def test_a_link_that_lies_where_the_model_is_to_go_is_no_way_to_its_external_data(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "w.bin").symlink_to("/etc/hostname")
    with pytest.raises(InvalidModelError, match="an upload is one file"):
        send(tmp_path, external("w.bin"))


def test_a_wrong_digest_is_told_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatchError, match=hashlib.sha256(MODEL).hexdigest()):
        send(tmp_path, MODEL, digest=bytes(32))
    assert tree(tmp_path) == []


def test_a_model_that_is_too_large_is_refused_as_it_comes(tmp_path: Path) -> None:
    with pytest.raises(BodyTooLargeError, match=r"more than 64 bytes.*--max-model-bytes"):
        send(tmp_path, MODEL, max_bytes=64)
    assert tree(tmp_path) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFullError, match="No space left"):
        send(tmp_path, MODEL)
    monkeypatch.undo()
    assert tree(tmp_path) == []


def test_a_repository_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreFullError, match="takes no more"):
        Upload.begin(tmp_path / "missing", "m", "1", ROOMY)


@pytest.mark.parametrize("name", ["", ".", "..", ".m", "a/b", "../m", "a b", "ä", "m\n", "-m"])
def test_a_name_that_no_model_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameterError):
        Upload.begin(tmp_path, name, "1", ROOMY)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("version", ["", "01", "-1", "1.0", "x", "١", "1\n", "..", "9" * 19])
def test_a_version_is_a_whole_number_in_its_shortest_form(tmp_path: Path, version: str) -> None:
    with pytest.raises(InvalidParameterError):
        Upload.begin(tmp_path, "m", version, ROOMY)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("place", ["m", "m/1"])
def test_a_link_that_leads_out_of_the_repository_is_not_written_through(tmp_path: Path, place: str) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    (outside / "1").mkdir(parents=True)
    (root / place).parent.mkdir(parents=True)
    (root / place).symlink_to(outside)
    for replace in (True, False):
        with pytest.raises(ConflictError, match="leads out"):
            send(root, MODEL, replace=replace)
    assert tree(outside) == ["1"]


def test_what_a_killed_process_left_goes_at_the_next_start_and_what_is_under_way_stays(tmp_path: Path) -> None:
    for prefix in (UPLOAD, GONE):
        left = tmp_path / f"{prefix}left"
        (left / "m" / "1").mkdir(parents=True)
        (left / LOCK).touch()
    send(tmp_path, MODEL)
    with Upload.begin(tmp_path, "n", "1", ROOMY) as upload:
        clean_up(tmp_path)
        upload.write(MODEL)
        upload.finish(None)
        assert upload.commit(replace=False)
    assert [info.name for info in scan(tmp_path)] == ["m", "n"]
    assert tree(tmp_path) == ["m", "m/1", "m/1/model.onnx", "n", "n/1", "n/1/model.onnx"]


def test_a_removed_version_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    send(tmp_path, MODEL)
    onnx_models.save(onnx_models.double(), tmp_path, "m", 2, options="pinned = true")
    remove_version(tmp_path, one(tmp_path, "2"))
    assert tree(tmp_path) == ["m", "m/1", "m/1/model.onnx", "m/model.toml"]


def test_the_last_version_takes_its_folder_and_its_options_along(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "m", 2, options="pinned = true")
    remove_version(tmp_path, one(tmp_path, "2"))
    assert tree(tmp_path) == []


def test_other_files_in_a_models_folder_are_not_removed_with_its_last_version(tmp_path: Path) -> None:
    send(tmp_path, MODEL)
    (tmp_path / "m" / "README.md").write_text("ours")
    remove_version(tmp_path, one(tmp_path))
    assert tree(tmp_path) == ["m", "m/README.md"]


def test_a_model_of_one_file_is_removed_with_its_options(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(MODEL)
    (tmp_path / "m.toml").write_text("pinned = true")
    (tmp_path / "n.onnx").write_bytes(MODEL)
    remove_version(tmp_path, scan(tmp_path)[0])
    assert tree(tmp_path) == ["n.onnx"]


def test_what_lies_elsewhere_by_way_of_a_link_is_not_removed(tmp_path: Path) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    onnx_models.save(onnx_models.double(), outside, "m")
    root.mkdir()
    (root / "m").symlink_to(outside / "m")
    with pytest.raises(ConflictError, match="leads out"):
        remove_version(root, one(root))
    assert "m/1/model.onnx" in tree(outside)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(MODEL) - 1), tail=st.binary(max_size=3))
def test_no_model_that_is_cut_off_within_its_graph_gets_in(tmp_path: Path, cut: int, tail: bytes) -> None:
    content = MODEL[:cut] + tail
    try:
        send(tmp_path, content)
    except NdserveError:
        assert tree(tmp_path) == []
    else:  # what stands behind the graph may be missing here, and is found missing by the load
        info = one(tmp_path)
        assert info.problem == ""
        remove_version(tmp_path, info)

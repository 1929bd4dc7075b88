"""An upload: it becomes a model of the repository, whole and checked, or leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ndserve.errors import ConflictError, DigestMismatchError, InvalidInputError
from ndserve.model_cache.disk.repository import scan
from ndserve.model_cache.disk.uploads import MAX_NAME, Upload
from ndserve.model_info import ModelInfo
from tests import onnx_models
from tests.unit.model_cache.disk.test_repository import single

MODEL: bytes = onnx_models.double().SerializeToString()
OTHER: bytes = onnx_models.double(["batch", 5]).SerializeToString()
LIMIT = 1 << 20


def content(root: Path) -> dict[str, bytes]:
    """Every file below `root` and what is in it; folders end in a slash."""
    return {
        f"{path.relative_to(root)}{'/' * path.is_dir()}": b"" if path.is_dir() else path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def put(root: Path, name: str, version: str = "1", data: bytes = MODEL, *, replace: bool = False) -> Path:
    with Upload.begin(root, name, version, LIMIT) as upload:
        upload.write(data)
        upload.finish()
        return upload.commit(replace)


def by_version(root: Path, name: str) -> dict[str, ModelInfo]:
    return {info.version: info for info in scan(root, name)}


def test_an_upload_is_a_model_when_it_is_committed_and_not_before(tmp_path: Path) -> None:
    with Upload.begin(tmp_path, "m", "3", LIMIT) as upload:
        for byte in MODEL:
            upload.write(bytes([byte]))
        info = upload.finish(hashlib.sha256(MODEL).digest())
        assert scan(tmp_path) == []
        path = upload.commit()
    assert content(tmp_path) == {"m/": b"", "m/3/": b"", "m/3/model.onnx": MODEL}
    (found,) = scan(tmp_path)
    assert (found.path, found.problem, found.inputs, found.nbytes) == (path, "", info.inputs, len(MODEL))


def test_the_stamp_stays_when_the_file_comes_into_place(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "m", options="pinned = true")
    with Upload.begin(tmp_path, "m", "2", LIMIT) as upload:
        upload.write(MODEL)
        info = upload.finish()
        upload.commit()
    found = by_version(tmp_path, "m")["2"]
    assert (found.stamp, found.options.pinned) == (info.stamp, info.options.pinned) == (info.stamp, True)


def test_views_of_memory_are_written_as_bytes_are(tmp_path: Path) -> None:
    with Upload.begin(tmp_path, "m", "1", LIMIT) as upload:
        upload.write(memoryview(MODEL)[:10])
        upload.write(b"")
        upload.write(memoryview(MODEL)[10:])
        upload.finish()
        assert upload.commit().read_bytes() == MODEL


def test_others_may_read_what_is_in_place_and_not_what_is_under_way(tmp_path: Path) -> None:
    with Upload.begin(tmp_path, "m", "1", LIMIT) as upload:
        (staging,) = tmp_path.iterdir()
        assert (staging.name[0], staging.stat().st_mode & 0o077) == (".", 0)
        upload.write(MODEL)
        upload.finish()
        path = upload.commit()
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask
    assert path.parent.stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_version_more_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    put(tmp_path, "m", "2", OTHER)
    assert content(tmp_path / "m") == {"1/": b"", "1/model.onnx": MODEL, "2/": b"", "2/model.onnx": OTHER}


def test_a_version_that_is_there_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    put(tmp_path, "m")
    before = content(tmp_path)
    with pytest.raises(ConflictError, match=r"model 'm' has a version 1; replace it with \?replace=true"):
        put(tmp_path, "m", "1", OTHER)
    assert content(tmp_path) == before
    path = put(tmp_path, "m", "1", OTHER, replace=True)
    assert content(tmp_path / "m") == {"1/": b"", "1/model.onnx": OTHER}
    assert path == tmp_path / "m" / "1" / "model.onnx"


def test_a_version_that_is_not_there_may_be_replaced_as_well(tmp_path: Path) -> None:
    assert put(tmp_path, "m", replace=True).read_bytes() == MODEL


def test_a_broken_version_is_there_too_and_may_be_replaced(tmp_path: Path) -> None:
    put(tmp_path, "m").write_bytes(b"torn")
    with pytest.raises(ConflictError):
        put(tmp_path, "m")
    put(tmp_path, "m", replace=True)
    assert by_version(tmp_path, "m")["1"].problem == ""


def test_a_single_file_is_replaced_where_it_lies(tmp_path: Path) -> None:
    path = single(tmp_path, "m", "pinned = true")
    with pytest.raises(ConflictError):
        put(tmp_path, "m", "1", OTHER)
    with Upload.begin(tmp_path, "m", "1", LIMIT) as upload:
        upload.write(OTHER)
        assert upload.finish().options.pinned
        assert upload.commit(replace=True) == path
    assert content(tmp_path) == {"m.onnx": OTHER, "m.toml": b"pinned = true"}


def test_a_single_file_may_have_further_versions_in_a_folder(tmp_path: Path) -> None:
    single(tmp_path, "m")
    put(tmp_path, "m", "2", OTHER)
    assert list(by_version(tmp_path, "m")) == ["1", "2"]


def test_external_data_that_only_the_former_model_had_goes_with_it(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.with_external_weights("w.bin", "sub/v.bin", "model.onnx"), tmp_path, "m")
    (path.parent / "sub").mkdir()
    for name in ("w.bin", "sub/v.bin", "notes.txt"):
        (path.parent / name).write_bytes(b"x")
    put(tmp_path, "m", replace=True)
    assert content(path.parent) == {"model.onnx": MODEL, "notes.txt": b"x", "sub/": b""}


def test_external_data_that_another_single_file_uses_stays(tmp_path: Path) -> None:
    for name, locations in (("a", ["a.bin", "both.bin", "b.onnx", "c/1/w.bin"]), ("b", ["both.bin"])):
        (tmp_path / f"{name}.onnx").write_bytes(onnx_models.with_external_weights(*locations).SerializeToString())
    (tmp_path / "c" / "1").mkdir(parents=True)
    for file in ("a.bin", "both.bin", "c/1/w.bin"):
        (tmp_path / file).write_bytes(b"x")
    put(tmp_path, "a", replace=True)
    assert {name for name in content(tmp_path) if name[-1] != "/"} == {"a.onnx", "b.onnx", "both.bin", "c/1/w.bin"}


def test_nothing_else_goes_while_a_neighbour_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(onnx_models.with_external_weights("a.bin").SerializeToString())
    (tmp_path / "a.bin").write_bytes(b"x")
    (tmp_path / "b.onnx").write_bytes(b"half of a mod")
    put(tmp_path, "a", replace=True)
    assert (tmp_path / "a.bin").exists()


def test_a_link_in_place_of_the_model_is_replaced_and_not_followed(tmp_path: Path) -> None:
    kept = put(tmp_path, "kept")
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").symlink_to(kept)
    put(tmp_path, "m", "1", OTHER, replace=True)
    assert (kept.read_bytes(), by_version(tmp_path, "m")["1"].path.is_symlink()) == (MODEL, False)


def test_another_digest_is_told_with_both_and_leaves_nothing(tmp_path: Path) -> None:
    found, expected = hashlib.sha256(MODEL), hashlib.sha256(OTHER)
    with Upload.begin(tmp_path, "m", "1", LIMIT) as upload:
        upload.write(MODEL)
        with pytest.raises(DigestMismatchError) as caught:
            upload.finish(expected.digest())
    assert f"is {found.hexdigest()}, not {expected.hexdigest()}" in caught.value.message
    assert content(tmp_path) == {}


def test_an_upload_that_is_left_or_abandoned_twice_leaves_nothing(tmp_path: Path) -> None:
    upload = Upload.begin(tmp_path, "m", "1", LIMIT)
    upload.write(MODEL)
    upload.abandon()
    upload.abandon()
    assert content(tmp_path) == {}
    with pytest.raises(ValueError, match="closed"):
        upload.write(MODEL)


def test_what_was_not_found_to_be_a_model_cannot_be_committed(tmp_path: Path) -> None:
    with Upload.begin(tmp_path, "m", "1", LIMIT) as upload:
        upload.write(MODEL)
        with pytest.raises(AssertionError):
            upload.commit()
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../m", "a/b", "/m", ".ndserve-upload-x", ".hidden", "-m", "a b", "ä", "m\n", "m\0", "a\\b"),
        *("%2e%2e", "m" * (MAX_NAME + 1)),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="a model cannot be called"):
        Upload.begin(tmp_path, name, "1", LIMIT)
    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    "version", ["", "01", "00", "-1", "+1", "1.0", "1e3", "1_0", " 1", "1\n", "١", "v1", "..", "1/2", "1" * 19]
)
def test_a_version_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, version: str) -> None:
    with pytest.raises(InvalidInputError, match="a version cannot be called"):
        Upload.begin(tmp_path, "m", version, LIMIT)
    assert content(tmp_path) == {}


@pytest.mark.parametrize(("name", "version"), [("m" * MAX_NAME, "0"), ("a.onnx", "9" * 18), ("A-b_c.2", "10")])
def test_names_and_versions_at_their_limits_are_served(tmp_path: Path, name: str, version: str) -> None:
    put(tmp_path, name, version)
    assert [(info.name, info.version, info.problem) for info in scan(tmp_path)] == [(name, version, "")]

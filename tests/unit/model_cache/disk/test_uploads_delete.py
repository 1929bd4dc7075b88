"""Models that are taken out of the repository: all of theirs goes at once, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ndserve.errors import ConflictError, StoreFullError, UnknownTargetError
from ndserve.model_cache.disk.repository import scan
from ndserve.model_cache.disk.uploads import clean_up, remove_version
from tests import onnx_models
from tests.unit.model_cache.disk.test_repository import single
from tests.unit.model_cache.disk.test_uploads import MODEL, content, put
from tests.unit.model_cache.disk.test_uploads_hostile import full


def remove(root: Path, name: str, version: str = "1") -> None:
    remove_version(root, next(info for info in scan(root, name) if info.version == version))


def test_one_version_goes_and_the_others_stay_with_their_options(tmp_path: Path) -> None:
    put(tmp_path, "m", "1")
    put(tmp_path, "m", "2")
    (tmp_path / "m" / "model.toml").write_bytes(b"pinned = true")
    (tmp_path / "m" / "1" / "w.bin").write_bytes(b"x")
    remove(tmp_path, "m", "1")
    assert content(tmp_path / "m") == {"2/": b"", "2/model.onnx": MODEL, "model.toml": b"pinned = true"}


def test_the_last_version_takes_the_options_and_the_folder_with_it(tmp_path: Path) -> None:
    put(tmp_path, "other")
    put(tmp_path, "m")
    (tmp_path / "m" / "model.toml").write_bytes(b"pinned = true")
    remove(tmp_path, "m")
    assert content(tmp_path) == {"other/": b"", "other/1/": b"", "other/1/model.onnx": MODEL}


def test_what_somebody_keeps_beside_the_versions_stays(tmp_path: Path) -> None:
    put(tmp_path, "m")
    (tmp_path / "m" / "model.toml").write_bytes(b"")
    (tmp_path / "m" / "samples").mkdir()
    (tmp_path / "m" / "samples" / "x.npy").write_bytes(b"x")
    remove(tmp_path, "m")
    assert content(tmp_path) == {"m/": b"", "m/samples/": b"", "m/samples/x.npy": b"x"}


def test_a_version_without_a_model_keeps_the_options(tmp_path: Path) -> None:
    put(tmp_path, "m")
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "model.toml").write_bytes(b"")
    remove(tmp_path, "m")
    assert set(content(tmp_path / "m")) == {"2/", "model.toml"}


def test_a_single_file_goes_with_its_options_and_its_own_external_data(tmp_path: Path) -> None:
    for name, locations in (("a", ["a.bin", "both.bin"]), ("b", ["both.bin"])):
        (tmp_path / f"{name}.onnx").write_bytes(onnx_models.with_external_weights(*locations).SerializeToString())
        (tmp_path / f"{name}.toml").write_bytes(b"")
    for file in ("a.bin", "both.bin"):
        (tmp_path / file).write_bytes(b"x")
    remove(tmp_path, "a")
    assert set(content(tmp_path)) == {"b.onnx", "b.toml", "both.bin"}


def test_a_single_file_leaves_the_versions_in_the_folder(tmp_path: Path) -> None:
    single(tmp_path, "m")
    put(tmp_path, "m", "2")
    remove(tmp_path, "m", "1")
    assert [info.version for info in scan(tmp_path)] == ["2"]
    remove(tmp_path, "m", "2")
    assert content(tmp_path) == {}


def test_a_broken_model_can_be_deleted(tmp_path: Path) -> None:
    put(tmp_path, "m").write_bytes(b"torn")
    (tmp_path / "s.onnx").write_bytes(b"torn")
    remove(tmp_path, "m")
    remove(tmp_path, "s")
    assert content(tmp_path) == {}


@pytest.mark.parametrize("link", ["m/1", "m/1/model.onnx", "m.onnx"])
def test_of_a_link_only_the_link_goes(tmp_path: Path, link: str) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    path = onnx_models.save(onnx_models.double(), outside, "m")
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(path.parent if link == "m/1" else path)
    before = content(outside)
    if link == "m/1":
        with pytest.raises(ConflictError, match="does not lie in the model folder"):
            remove(root, "m")
    else:
        remove(root, "m")
        assert content(root) == {}
    assert content(outside) == before


def test_a_folder_elsewhere_is_not_touched(tmp_path: Path) -> None:
    root, outside = tmp_path / "models", tmp_path / "outside"
    onnx_models.save(onnx_models.double(), outside, "m")
    root.mkdir()
    (root / "m").symlink_to(outside / "m")
    before = content(outside)
    with pytest.raises(ConflictError, match="does not lie in the model folder"):
        remove(root, "m")
    assert content(outside) == before


def test_a_model_that_a_client_has_sent_lies_elsewhere(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path / "sent", "m")
    (info,) = scan(tmp_path / "sent")
    with pytest.raises(ConflictError, match="does not lie in the model folder"):
        remove_version(tmp_path, info)
    with pytest.raises(ConflictError):
        remove_version(tmp_path / "sent", replace(info, name="../sent/m"))
    assert info.path.exists()


def test_a_version_that_is_gone_already_is_unknown(tmp_path: Path) -> None:
    put(tmp_path, "m")
    single(tmp_path, "s")
    for info in scan(tmp_path):
        remove_version(tmp_path, info)
        with pytest.raises(UnknownTargetError, match="is no longer in the model folder"):
            remove_version(tmp_path, info)
    assert content(tmp_path) == {}


def test_a_deletion_that_fails_leaves_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "m")
    before = content(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", full)
        with pytest.raises(StoreFullError, match=r"cannot be written: No space left on device$"):
            remove(tmp_path, "m")
    assert content(tmp_path) == before


def test_a_clean_up_leaves_everything_that_is_not_left_over(tmp_path: Path) -> None:
    put(tmp_path, "m")
    for name in (".ndserve-upload", ".hidden", "ndserve-upload-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x")
    before = content(tmp_path)
    clean_up(tmp_path)
    assert content(tmp_path) == before
    clean_up(tmp_path / "nowhere")

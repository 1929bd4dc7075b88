"""`ndserve models --models DIR`: a folder without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.onnx_models import double, save
from tests.unit.cli.conftest import Ndserve
from tests.unit.cli.test_main import CLIENT_PACKAGES, without


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with versions 1 and 2 of `double`, and a file that is no model."""
    folder = tmp_path / "models"
    save(double(), folder, "double")
    save(double(), folder, "double", 2)
    (folder / "broken.onnx").write_bytes(b"hello\n")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "new.onnx"
    path.write_bytes(double((1, 4)).SerializeToString())
    return path


def places(root: Path) -> list[str]:
    """The model files, and whatever else has been left."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


BEFORE = ["broken.onnx", "double/1/model.onnx", "double/2/model.onnx"]


def test_the_list_shows_what_lies_there(ndserve: Ndserve, root: Path) -> None:
    done = ndserve("models", "--models", root)
    assert (done.code, done.err) == (0, "")
    broken, first, second = (line.split() for line in done.out.splitlines()[1:])
    assert broken[:3] == ["broken", "1", "FAILED"]
    assert broken[-1] == "text"
    assert (first[:3], second[:3]) == (["double", "1", "UNLOADED"], ["double", "2", "UNLOADED"])


def test_the_list_as_json_is_one_document(ndserve: Ndserve, root: Path) -> None:
    found = ndserve("models", "--models", root, "--json").document
    assert found.keys() == {"models"}
    broken, first, _ = found["models"]
    assert (broken["state"], first["state"], first["reason"]) == ("FAILED", "UNLOADED", None)
    assert first["bytes"] == {"file": (root / "double/1/model.onnx").stat().st_size}
    assert first["inputs"] == [{"name": "x", "dtype": "float32", "shape": [None, 4]}]


def test_a_file_becomes_the_next_version(ndserve: Ndserve, root: Path, file: Path) -> None:
    done = ndserve("models", "upload", "double", file, "--models", root)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1].split()[:3] == ["double", "3", "UNLOADED"]
    assert places(root) == [*BEFORE, "double/3/model.onnx"]
    assert (root / "double/3/model.onnx").read_bytes() == file.read_bytes()


def test_a_file_becomes_the_first_version_of_a_new_model(ndserve: Ndserve, root: Path, file: Path) -> None:
    assert ndserve("models", "upload", "new", file, "--models", root, "--json").document["version"] == "1"
    assert places(root) == [*BEFORE, "new/1/model.onnx"]


def test_a_version_that_is_there_stays(ndserve: Ndserve, root: Path, file: Path) -> None:
    done = ndserve("models", "upload", "double/2", file, "--models", root)
    assert done.code == 4
    assert "--replace" in done.err
    assert places(root) == BEFORE
    assert (root / "double/2/model.onnx").read_bytes() != file.read_bytes()


def test_a_version_is_replaced_where_that_is_asked_for(ndserve: Ndserve, root: Path, file: Path) -> None:
    assert ndserve("models", "upload", "double/2", file, "--replace", "--models", root).code == 0
    assert (root / "double/2/model.onnx").read_bytes() == file.read_bytes()


def test_a_file_that_is_no_model_is_refused_and_leaves_nothing(ndserve: Ndserve, root: Path) -> None:
    done = ndserve("models", "upload", "double", root / "broken.onnx", "--models", root, "--json")
    assert done.code == 4
    assert done.document["error"]["code"] == "invalid_model"
    assert places(root) == BEFORE


def test_a_file_that_is_not_there_ends_with_2(ndserve: Ndserve, root: Path) -> None:
    done = ndserve("models", "upload", "double", "none.onnx", "--models", root)
    assert (done.code, done.err) == (2, "ndserve: none.onnx: No such file or directory\n")


def test_a_version_is_deleted_after_a_question_that_names_the_folder(
    ndserve: Ndserve, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "y\n")
    done = ndserve("models", "delete", "double/1", "--models", root)
    assert done.code == 0
    assert f"delete double/1 from {root}?" in done.err
    assert places(root) == ["broken.onnx", "double/2/model.onnx"]


def test_a_model_is_deleted_with_all_its_versions(ndserve: Ndserve, root: Path) -> None:
    assert ndserve("models", "delete", "double", "--yes", "--models", root).code == 0
    assert places(root) == ["broken.onnx"]
    assert not (root / "double").exists()


@pytest.mark.parametrize("model", ["other", "double/7"])
def test_what_is_not_there_cannot_be_deleted(ndserve: Ndserve, root: Path, model: str) -> None:
    done = ndserve("models", "delete", model, "--yes", "--models", root)
    assert done.code == 4
    assert f"there is no {model}" in done.err
    assert places(root) == BEFORE


@pytest.mark.parametrize("action", ["load", "unload", "pin", "unpin"])
def test_what_needs_a_server_says_so(ndserve: Ndserve, root: Path, action: str) -> None:
    done = ndserve("models", action, "double", "--models", root)
    assert done.code == 2
    assert f"{action} needs a server" in done.err


def test_a_folder_that_is_not_there_ends_with_2(ndserve: Ndserve) -> None:
    done = ndserve("models", "--models", "none")
    assert (done.code, done.err) == (2, "ndserve: none: there is no such folder\n")


def test_a_folder_needs_no_client_to_be_changed(root: Path) -> None:
    done = without((*CLIENT_PACKAGES, "onnxruntime"), "models", "--models", str(root), "--json")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table_says_what_it_needs(root: Path) -> None:
    done = without(("rich",), "models", "--models", str(root))
    assert done.returncode == 2
    assert "pip install 'ndserve[client]'" in done.stderr

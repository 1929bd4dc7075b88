"""Links in the repository: to other places in it they are followed, out of it they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndserve.model_cache.disk import repository
from ndserve.model_cache.disk.repository import names, scan
from ndserve.model_info import ModelInfo
from tests import onnx_models


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A sound model beside the repository: `outside/m/1/model.onnx` and `outside/m/model.toml`."""
    onnx_models.save(onnx_models.double(), tmp_path / "outside", "m", options="pinned = true")
    return tmp_path / "outside"


@pytest.fixture(autouse=True)
def _unread(monkeypatch: pytest.MonkeyPatch, outside: Path) -> None:
    """No file outside is ever read."""
    for name in ("read_signature", "read_options"):
        kept = getattr(repository, name)

        def guarded(path: Path, kept: object = kept) -> object:
            assert not path.resolve().is_relative_to(outside)
            assert callable(kept)
            return kept(path)

        monkeypatch.setattr(repository, name, guarded)


def only(root: Path) -> ModelInfo:
    (info,) = scan(root)
    return info


TOLD = "is a link out of the model folder, or lies behind one; put the file itself there"


def test_a_model_file_outside_is_a_problem(root: Path, outside: Path) -> None:
    (root / "m" / "2").mkdir(parents=True)
    (root / "m" / "2" / "model.onnx").symlink_to(outside / "m" / "1" / "model.onnx")
    info = only(root)
    assert (info.version, info.problem) == ("2", f"model.onnx {TOLD}")
    assert (info.nbytes, info.inputs, info.stamp) == (0, (), ())


def test_a_single_file_outside_is_a_problem(root: Path, outside: Path) -> None:
    (root / "s.onnx").symlink_to(outside / "m" / "1" / "model.onnx")
    assert only(root).problem == f"s.onnx {TOLD}"


def test_a_version_outside_is_a_problem_and_the_others_are_served(root: Path, outside: Path) -> None:
    onnx_models.save(onnx_models.double(), root, "m")
    (root / "m" / "2").symlink_to(outside / "m" / "1")
    assert [(info.version, info.problem) for info in scan(root)] == [("1", ""), ("2", f"model.onnx {TOLD}")]


def test_a_folder_outside_is_one_version_with_a_problem_and_not_looked_into(root: Path, outside: Path) -> None:
    (outside / "m" / "1").rename(outside / "m" / "7")
    (root / "m").symlink_to(outside / "m")
    info = only(root)
    assert (info.version, info.problem) == ("1", f"model.onnx {TOLD}")


def test_options_outside_are_a_problem_and_not_told(root: Path, outside: Path) -> None:
    onnx_models.save(onnx_models.double(), root, "m")
    (root / "m" / "model.toml").symlink_to(outside / "m" / "model.toml")
    info = only(root)
    assert (info.problem, info.options.pinned) == (f"model.toml {TOLD}", False)


def test_a_relative_link_and_a_link_to_a_link_do_not_get_around(root: Path, outside: Path) -> None:
    (root / "first").symlink_to("../outside")
    (root / "m").symlink_to("first/m")
    problems = {info.name: info.problem for info in scan(root)}
    assert problems == dict.fromkeys(("first", "m"), f"model.onnx {TOLD}")


def test_a_link_to_another_place_in_the_repository_is_followed(root: Path) -> None:
    real = onnx_models.save(onnx_models.double(), root, "real", options="pinned = true")
    (root / "alias").symlink_to("real")
    (root / "real" / "2").symlink_to("1")
    (root / "one.onnx").symlink_to(real)
    found = [(info.name, info.version, info.problem, info.options.pinned) for info in scan(root)]
    assert found == [
        ("alias", "1", "", True),
        ("alias", "2", "", True),
        ("one", "1", "", False),
        ("real", "1", "", True),
        ("real", "2", "", True),
    ]


def test_the_repository_itself_may_be_a_link(tmp_path: Path, root: Path) -> None:
    onnx_models.save(onnx_models.double(), root, "m")
    (tmp_path / "link").symlink_to(root)
    info = only(tmp_path / "link")
    assert (info.problem, info.path) == ("", tmp_path / "link" / "m" / "1" / "model.onnx")


def test_a_link_that_leads_nowhere_is_ignored_and_one_that_leads_nowhere_outside_is_not(root: Path) -> None:
    for version, target in (("1", "nothing"), ("2", "/nothing/at/all")):
        (root / "m" / version).mkdir(parents=True)
        (root / "m" / version / "model.onnx").symlink_to(target)
    assert only(root).version == "2"


@pytest.mark.parametrize("name", [".ndserve-upload-abc", ".ndserve-gone-abc", ".hidden"])
def test_hidden_folders_are_never_listed(root: Path, name: str) -> None:
    onnx_models.save(onnx_models.double(), root, name)
    (root / f"{name}.onnx").write_bytes(onnx_models.double().SerializeToString())
    assert (scan(root), names(root)) == ([], [])


def test_a_version_of_more_than_18_digits_is_ignored(root: Path) -> None:
    onnx_models.save(onnx_models.double(), root, "m", 10**18 - 1)
    onnx_models.save(onnx_models.double(), root, "m", 10**18)
    assert only(root).version == "9" * 18

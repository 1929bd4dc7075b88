"""External data: plain files in the model's folder, looked at again right before a session is made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk.external import check_external, check_location, external_files
from ndserve.model_cache.disk.repository import scan
from ndserve.model_info import ModelInfo
from tests import onnx_models


def lay(root: Path, *locations: str) -> ModelInfo:
    """A model whose external data lie where they may."""
    path = onnx_models.save(onnx_models.with_external_weights(*locations), root, "m")
    for location in locations:
        (path.parent / location).parent.mkdir(exist_ok=True)
        (path.parent / location).write_bytes(bytes(8))
    (info,) = scan(root)
    assert info.problem == ""
    return info


@pytest.mark.parametrize(
    "location", ["w.bin", "model.onnx.data", "sub/w.bin", "a/b/c", "./w.bin", "..w", "w..", "ä b.bin"]
)
def test_a_plain_relative_path_is_a_location(location: str) -> None:
    assert str(check_location(location)) == location.removeprefix("./")


@pytest.mark.parametrize(
    "location",
    [
        *("", ".", "./", "/", "/etc/hostname", "//etc/hostname", "..", "../w.bin", "sub/../w.bin", "sub/..", "./../w"),
        *("w.bin\0", "\0", "..\\w.bin", "C:\\w.bin", "sub\\w.bin", "*/_ORT_MEM_ADDR_/*", "*", "sub/*"),
    ],
)
def test_any_other_location_is_refused_and_not_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    monkeypatch.setattr(Path, "lstat", None)
    with pytest.raises(ModelLoadError) as caught:
        external_files(tmp_path / "model.onnx", [location])
    assert caught.value.message == f"external data {location!r} is not a plain relative path inside the model's folder"


def test_onnxruntimes_address_in_memory_is_refused_even_where_a_file_has_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "*" / "_ORT_MEM_ADDR_"
    folder.mkdir(parents=True)
    (folder / "*").write_bytes(bytes(8))
    with pytest.raises(ModelLoadError, match="not a plain relative path"):
        external_files(tmp_path / "model.onnx", ["*/_ORT_MEM_ADDR_/*"])


@given(
    st.lists(st.sampled_from(["..", ".", "", "a", "b.bin", "/", "\\", "*", "\0", "~", "ä"]), max_size=6).map("/".join)
)
def test_a_location_that_is_taken_never_leads_out_of_the_folder(location: str) -> None:
    try:
        path = check_location(location)
    except ModelLoadError:
        return
    assert os.path.normpath(f"/models/m/1/{path}").startswith("/models/m/1/")
    assert os.path.normpath(f"/models/m/1/{location}") == f"/models/m/1/{path}"


@given(st.text(max_size=30))
def test_any_text_is_a_location_inside_or_refused(location: str) -> None:
    try:
        path = check_location(location)
    except ModelLoadError:
        return
    assert os.path.normpath(f"/m/{path}").startswith("/m/")


def test_a_long_location_is_cut_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        external_files(tmp_path / "model.onnx", ["w" * 5000])
    assert len(caught.value.message) < 200


def test_each_file_is_given_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_bytes(b"")
    assert external_files(tmp_path / "model.onnx", ["b", "a", "b", "./a"]) == (tmp_path / "a", tmp_path / "b")


def link(path: Path) -> str:
    """A file elsewhere, by a symbolic link."""
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to("../elsewhere")
    return "symbolic link"


def link_inside(path: Path) -> str:
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    return "symbolic link"


def link_in_a_circle(path: Path) -> str:
    path.unlink()
    path.symlink_to(path.name)
    return "symbolic link"


def hard_link(path: Path) -> str:
    path.parent.parent.joinpath("elsewhere").hardlink_to(path)
    return "2 names"


def remove(path: Path) -> str:
    path.unlink()
    return "missing"


def fifo(path: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return "not a regular file"


def folder(path: Path) -> str:
    path.unlink()
    path.mkdir()
    return "not a regular file"


SWAPS = [link, link_inside, link_in_a_circle, hard_link, remove, fifo, folder]


@pytest.mark.parametrize("swap", SWAPS)
def test_what_is_no_file_of_the_models_own_is_a_problem(tmp_path: Path, swap: Callable[[Path], str]) -> None:
    told = swap(lay(tmp_path, "w.bin").external[0])
    (info,) = scan(tmp_path)
    assert told in info.problem
    assert str(tmp_path) not in info.problem


@pytest.mark.parametrize("swap", SWAPS)
def test_what_is_swapped_in_after_the_scan_is_refused_before_the_session(
    tmp_path: Path, swap: Callable[[Path], str]
) -> None:
    info = lay(tmp_path, "w.bin")
    told = swap(info.external[0])
    with pytest.raises(ModelLoadError, match=told):
        check_external(info)


def test_a_folder_on_the_way_that_is_a_link_is_refused(tmp_path: Path) -> None:
    info = lay(tmp_path, "sub/w.bin")
    (info.path.parent / "sub").rename(tmp_path / "elsewhere")
    (info.path.parent / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelLoadError, match="lies behind one"):
        check_external(info)


def test_a_file_on_the_way_is_told_as_missing(tmp_path: Path) -> None:
    (tmp_path / "sub").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="missing"):
        external_files(tmp_path / "model.onnx", ["sub/w.bin"])


def test_what_has_not_changed_is_fit_for_a_session(tmp_path: Path) -> None:
    check_external(lay(tmp_path, "w.bin", "sub/v.bin"))
    check_external(lay(tmp_path / "other"))


def test_other_content_since_the_scan_is_refused(tmp_path: Path) -> None:
    info = lay(tmp_path, "v.bin", "w.bin")
    info.external[1].write_bytes(bytes(16))
    with pytest.raises(ModelLoadError, match="changed since it was read"):
        check_external(info)


def test_a_model_file_that_names_other_files_since_the_scan_is_refused(tmp_path: Path) -> None:
    info = lay(tmp_path, "v.bin")
    (info.path.parent / "w.bin").write_bytes(bytes(8))
    info.path.write_bytes(onnx_models.with_external_weights("w.bin").SerializeToString())
    with pytest.raises(ModelLoadError, match="changed since it was read"):
        check_external(info)
    info.path.write_bytes(onnx_models.with_external_weights("../../secret").SerializeToString())
    with pytest.raises(ModelLoadError, match="not a plain relative path"):
        check_external(info)


def test_a_model_file_that_is_gone_is_told_without_its_folder(tmp_path: Path) -> None:
    info = lay(tmp_path)
    info.path.unlink()
    with pytest.raises(ModelLoadError) as caught:
        check_external(info)
    assert caught.value.message == "the model's files cannot be read: No such file or directory"

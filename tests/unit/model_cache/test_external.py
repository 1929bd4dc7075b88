"""External data: a plain file in the model's folder, and nothing that leads anywhere else."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndserve.errors import ModelLoadError
from ndserve.model_cache.external import check_external, external_files
from ndserve.model_info import ModelInfo


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file with weights beside it, and a secret outside its folder."""
    folder = tmp_path / "m" / "1"
    (folder / "sub").mkdir(parents=True)
    (folder / "w.bin").write_bytes(bytes(8))
    (folder / "sub" / "v.bin").write_bytes(bytes(8))
    (tmp_path / "secret").write_bytes(b"secret")
    return folder / "model.onnx"


def info(model: Path, *external: Path) -> ModelInfo:
    return ModelInfo("m", "1", model, 8, (), (), external=external)


def test_files_in_and_below_the_folder_are_found_in_order_and_once(model: Path) -> None:
    folder = model.parent
    assert external_files(model, ["w.bin", "sub/v.bin", "w.bin"]) == (folder / "sub" / "v.bin", folder / "w.bin")


@pytest.mark.parametrize(
    "location",
    [
        *("../../secret", "..", "sub/../w.bin", "sub/../../../secret", "/etc/hostname", "//etc/hostname"),
        *("./w.bin", "sub//v.bin", "sub/./v.bin", "w.bin/", "", ".", "w.bin\0", "sub\\v.bin", "C:w.bin", "C:\\w.bin"),
        *("*/_ORT_MEM_ADDR_/*", "*/_ORT_MEM_ADDR_/w.bin", "file:w.bin"),
    ],
)
def test_a_location_that_is_no_plain_relative_path_is_refused(model: Path, location: str) -> None:
    with pytest.raises(ModelLoadError, match="plain relative path"):
        external_files(model, [location])


@pytest.mark.parametrize(("location", "told"), [("w.bin", "w.bin"), ("link/secret", "link")])
def test_a_symbolic_link_anywhere_on_the_way_is_refused(model: Path, location: str, told: str) -> None:
    folder = model.parent
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to(folder / "sub" / "v.bin")
    (folder / "link").symlink_to(folder.parent.parent)
    with pytest.raises(ModelLoadError, match=f"'{told}' is a symbolic link"):
        external_files(model, [location])


def test_a_link_in_a_circle_is_refused(model: Path) -> None:
    (model.parent / "odd").symlink_to("odd")
    with pytest.raises(ModelLoadError, match="symbolic link"):
        external_files(model, ["odd"])


def test_a_hard_link_is_refused(model: Path) -> None:
    os.link(model.parent.parent.parent / "secret", model.parent / "hard.bin")
    with pytest.raises(ModelLoadError, match="2 names"):
        external_files(model, ["hard.bin"])


def test_a_folder_and_what_is_not_there_are_refused(model: Path) -> None:
    for location, told in (("sub", "not a file"), ("missing.bin", "not there"), ("w.bin/x", "not there")):
        with pytest.raises(ModelLoadError, match=told):
            external_files(model, [location])


def test_a_name_that_no_file_can_have_is_refused(model: Path) -> None:
    with pytest.raises(ModelLoadError, match="not there"):
        external_files(model, ["w" * 5000])


def test_a_refusal_shows_no_folder_of_the_machine(model: Path) -> None:
    (model.parent / "w.bin").unlink()
    with pytest.raises(ModelLoadError) as caught:
        external_files(model, ["w.bin"])
    assert str(model.parent) not in caught.value.message


def test_what_was_swapped_for_a_link_since_it_was_found_is_refused_before_the_load(model: Path) -> None:
    external = external_files(model, ["w.bin"])
    check_external(info(model, *external))
    external[0].unlink()
    external[0].symlink_to(model.parent.parent.parent / "secret")
    with pytest.raises(ModelLoadError, match="symbolic link"):
        check_external(info(model, *external))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.sampled_from(["..", ".", "", "sub", "w.bin", "v.bin", "secret", "m", "1", "\\", "*"]), max_size=6).map(
        "/".join
    )
)
def test_no_location_leads_out_of_the_folder(model: Path, location: str) -> None:
    try:
        (file,) = external_files(model, [location])
    except ModelLoadError:
        return
    assert file.resolve().is_relative_to(model.parent.resolve())
    assert PurePosixPath(location).name in ("w.bin", "v.bin")

"""What models lie in a folder: both layouts, options, sizes, and the files that cannot be served."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ndserve.errors import ModelLoadError, StartupError
from ndserve.model_cache.disk.model_toml import read_options
from ndserve.model_cache.disk.repository import scan
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.types import TensorSpec
from tests import onnx_models

REPOSITORY = Path(__file__).parents[4] / "models"


def found(root: Path) -> list[tuple[str, str]]:
    return [(info.name, info.version) for info in scan(root)]


def by_name(root: Path) -> dict[str, ModelInfo]:
    return {info.name: info for info in scan(root)}


def single(root: Path, name: str, options: str = "") -> Path:
    """Write `<name>.onnx`, and `<name>.toml` where `options` is given."""
    path = root / f"{name}.onnx"
    path.write_bytes(onnx_models.double().SerializeToString())
    if options:
        (root / f"{name}.toml").write_text(options)
    return path


def test_a_folder_with_a_version_is_a_model(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.double(), tmp_path, "double", 3)
    spec = TensorSpec("x", np.dtype(np.float32), (None, 4))
    output = TensorSpec("y", np.dtype(np.float32), (None, 4))
    largest = onnx_models.double().graph.node[0].ByteSize()
    assert scan(tmp_path) == [ModelInfo("double", "3", path, path.stat().st_size, (spec,), (output,), largest=largest)]


def test_a_single_file_is_version_1_of_its_name(tmp_path: Path) -> None:
    path = single(tmp_path, "double.v2")
    assert [(info.name, info.version, info.path) for info in scan(tmp_path)] == [("double.v2", "1", path)]


def test_both_layouts_lie_side_by_side(tmp_path: Path) -> None:
    single(tmp_path, "b")
    onnx_models.save(onnx_models.double(), tmp_path, "a")
    onnx_models.save(onnx_models.double(), tmp_path, "c")
    assert found(tmp_path) == [("a", "1"), ("b", "1"), ("c", "1")]


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    for version in (10, 9, 2, 100):
        onnx_models.save(onnx_models.double(), tmp_path, "double", version)
    assert found(tmp_path) == [("double", version) for version in ("2", "9", "10", "100")]


@pytest.mark.parametrize("folder", ["samples", "v1", "01", "-1", "1.5", "1_0", "١", "1 "])
def test_a_folder_that_is_no_version_is_ignored(tmp_path: Path, folder: str) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "double")
    (tmp_path / "double" / "1").rename(tmp_path / "double" / folder)
    assert found(tmp_path) == []


def test_a_version_without_a_model_file_is_ignored(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "double")
    (tmp_path / "double" / "2").mkdir()
    (tmp_path / "double" / "3").write_text("a file")
    assert found(tmp_path) == [("double", "1")]


@pytest.mark.parametrize("name", [".hidden", "a b", "a:b", "-a", "ä", "a\nb"])
def test_what_cannot_be_named_in_a_url_is_ignored(tmp_path: Path, name: str) -> None:
    single(tmp_path, name)
    onnx_models.save(onnx_models.double(), tmp_path, name)
    assert found(tmp_path) == []


def test_other_files_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Models")
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    assert found(tmp_path) == []


def test_the_models_that_come_with_the_project_are_usable() -> None:
    assert [(info.name, info.version, info.problem) for info in scan(REPOSITORY)] == [("digits", "1", "")]


def test_a_clash_names_both_files(tmp_path: Path) -> None:
    paths = [single(tmp_path, "double"), onnx_models.save(onnx_models.double(), tmp_path, "double")]
    with pytest.raises(StartupError) as caught:
        scan(tmp_path)
    assert all(str(path) in caught.value.message for path in paths)


def test_the_two_layouts_may_hold_different_versions_of_a_model(tmp_path: Path) -> None:
    single(tmp_path, "double")
    onnx_models.save(onnx_models.double(), tmp_path, "double", 2)
    assert found(tmp_path) == [("double", "1"), ("double", "2")]


def test_the_size_includes_external_data_once(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.with_external_weights("w.bin", "w.bin", "sub/v.bin"), tmp_path, "large")
    (path.parent / "sub").mkdir()
    (path.parent / "w.bin").write_bytes(bytes(1000))
    (path.parent / "sub" / "v.bin").write_bytes(bytes(234))
    assert by_name(tmp_path)["large"].nbytes == path.stat().st_size + 1234


def test_the_files_of_external_data_are_listed_and_the_largest_weight_may_be_one(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.with_external_weights("w.bin", "v.bin"), tmp_path, "large")
    (path.parent / "w.bin").write_bytes(bytes(1000))
    (path.parent / "v.bin").write_bytes(bytes(2000))
    info = by_name(tmp_path)["large"]
    assert (info.external, info.largest) == ((path.parent / "v.bin", path.parent / "w.bin"), 2000)


def test_a_weight_is_not_taken_to_be_larger_than_the_files(tmp_path: Path) -> None:
    proto = onnx_models.with_external_weights("w.bin")
    proto.graph.initializer[-1].external_data.add(key="length", value="9" * 19)
    path = onnx_models.save(proto, tmp_path, "boasting")
    (path.parent / "w.bin").write_bytes(bytes(8))
    info = by_name(tmp_path)["boasting"]
    assert info.largest == info.nbytes == path.stat().st_size + 8


def test_external_data_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.with_external_weights("w.bin"), tmp_path, "large")
    assert by_name(tmp_path)["large"].problem == "external data 'w.bin' is missing from the model's folder"


@pytest.mark.parametrize("location", ["/etc/hostname", "../w.bin", "sub/../../w.bin", "sub/../w.bin", "w.bin\0"])
def test_external_data_elsewhere_is_a_problem(tmp_path: Path, location: str) -> None:
    onnx_models.save(onnx_models.with_external_weights(location), tmp_path, "bad")
    problem = by_name(tmp_path)["bad"].problem
    assert problem == f"external data {location!r} is not a plain relative path inside the model's folder"


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_a_file_that_is_no_model_has_a_problem_and_the_others_are_served(tmp_path: Path, content: bytes) -> None:
    single(tmp_path, "good")
    (tmp_path / "bad.onnx").write_bytes(content)
    problems = {name: bool(info.problem) for name, info in by_name(tmp_path).items()}
    assert problems == {"bad": True, "good": False}
    assert by_name(tmp_path)["bad"].nbytes == len(content)


def test_external_data_with_an_impossible_name_is_a_problem_and_the_others_are_served(tmp_path: Path) -> None:
    single(tmp_path, "good")
    onnx_models.save(onnx_models.with_external_weights("w" * 5000), tmp_path, "bad")
    assert {name: bool(info.problem) for name, info in by_name(tmp_path).items()} == {"bad": True, "good": False}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("max_batch_size = ", "not TOML"),
        ("\x00", "not TOML"),
        ("max_batch = 4", "max_batch"),
        ("max_batch_size = 0", "max_batch_size"),
        ("max_batch_size = 2.5", "max_batch_size"),
        ("max_batch_size = true", "max_batch_size"),
        ("max_wait_ms = -1", "max_wait_ms"),
        ("max_wait_ms = nan", "max_wait_ms"),
        ("max_wait_ms = inf", "max_wait_ms"),
        ("max_wait_ms = '5'", "max_wait_ms"),
        ("batching = 'on'", "batching"),
        ("batching = false", "batching"),
        ("pinned = 1", "pinned"),
        ("[pinned]", "pinned"),
        ("max_batch_size = 1000001", "max_batch_size"),
        ("max_batch_size = " + "9" * 5000, "not TOML"),
        ("a = " + "[" * 5000, "not TOML"),
    ],
)
def test_bad_options_are_the_models_problem_and_the_others_are_served(tmp_path: Path, options: str, told: str) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "bad", options=options)
    onnx_models.save(onnx_models.double(), tmp_path, "good")
    models = by_name(tmp_path)
    assert told in models["bad"].problem
    assert models["good"].problem == ""


def test_options_that_are_not_utf_8_are_a_problem(tmp_path: Path) -> None:
    single(tmp_path, "double")
    (tmp_path / "double.toml").write_bytes(b"batching = '\xff'")
    assert "not TOML" in by_name(tmp_path)["double"].problem


def test_a_problem_does_not_tell_where_the_file_lies(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "options", options="unknown = 1")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    assert not [info.problem for info in scan(tmp_path) if os.fspath(tmp_path) in info.problem]


def test_an_unknown_option_is_told_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text("max_batch = 4")
    with pytest.raises(ModelLoadError, match=r"model\.toml.*max_batch.*max_batch_size, max_wait_ms, batching, pinned"):
        read_options(tmp_path / "model.toml")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", ModelOptions()),
        ("# nothing but a remark", ModelOptions()),
        ("max_batch_size = 1", ModelOptions(max_batch_size=1)),
        ("max_wait_ms = 0", ModelOptions(max_wait_ms=0)),
        ("max_wait_ms = 2.5", ModelOptions(max_wait_ms=2.5)),
        ("batching = 'off'", ModelOptions(batching="off")),
        ("batching = 'auto'", ModelOptions(batching="auto")),
        ("pinned = true", ModelOptions(pinned=True)),
        ("max_batch_size = 8\nmax_wait_ms = 1\nbatching = 'off'\npinned = true", ModelOptions(8, 1, "off", True)),
    ],
)
def test_every_option_is_read(tmp_path: Path, options: str, expected: ModelOptions) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "double", options=options)
    assert by_name(tmp_path)["double"].options == expected


def test_options_hold_for_every_version(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.double(), tmp_path, "double", 1)
    onnx_models.save(onnx_models.double(), tmp_path, "double", 2, options="pinned = true")
    assert [info.options.pinned for info in scan(tmp_path)] == [True, True]


def test_a_single_file_has_its_options_beside_it(tmp_path: Path) -> None:
    single(tmp_path, "a", "max_batch_size = 3")
    single(tmp_path, "b")
    assert [info.options.max_batch_size for info in scan(tmp_path)] == [3, None]

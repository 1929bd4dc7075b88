"""`ndserve inspect`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ndserve.cli.model_parser import DEFAULT_MAX_BATCH
from ndserve.settings import Settings
from tests.onnx_models import add, double, identity, minus_batch_mean, model, save, tensor, upper_case
from tests.unit.cli.conftest import Ndserve
from tests.unit.cli.test_main import CLIENT_PACKAGES, SERVER_PACKAGES, without

ML_DOMAIN = "ai.onnx.ml"


def write(proto: Any, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def rows_of(out: str) -> dict[str, str]:
    """The lines by their titles; the last one where a title comes twice."""
    return {line[:16].rstrip(): line[16:] for line in out.splitlines()}


def test_a_model_is_described_line_by_line(ndserve: Ndserve, tmp_path: Path) -> None:
    proto = double()
    proto.producer_name, proto.producer_version = "pytorch", "2.9"
    path = write(proto, tmp_path / "double.onnx")
    done = ndserve("inspect", "double.onnx")
    assert (done.code, done.err) == (0, "")
    rows = rows_of(done.out)
    assert rows.pop("largest weight").startswith("at most ")
    assert rows == {
        "file": "double.onnx",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size": f"{path.stat().st_size} B",
        "producer": "pytorch 2.9",
        "IR version": "8",
        "opsets": "ai.onnx 17",
        "input": "x: float32[?, 4]",
        "output": "y: float32[?, 4]",
        "batching": "untested: a trial when it is loaded decides",
        "warm-up": "x [32, 4]",
    }


def test_a_model_as_json_is_one_document(ndserve: Ndserve, tmp_path: Path) -> None:
    path = write(add(), tmp_path / "add.onnx")
    found = ndserve("inspect", path, "--json").document
    assert found["inputs"] == [
        {"name": "a", "dtype": "float32", "shape": [None, 3]},
        {"name": "b", "dtype": "float32", "shape": [None, 3]},
    ]
    assert found["outputs"] == [{"name": "sum", "dtype": "float32", "shape": [None, 3]}]
    assert found["bytes"]["file"] == path.stat().st_size
    assert found["bytes"]["external"] == 0
    assert (found["ir_version"], found["opsets"]) == (8, {"ai.onnx": 17})
    assert found["warmup"] == [{"a": [1, 3], "b": [1, 3]}, {"a": [32, 3], "b": [32, 3]}]
    assert found["batching"] == {"mode": "untested", "reason": "a trial when it is loaded decides"}


def test_every_operator_set_is_named(ndserve: Ndserve, tmp_path: Path) -> None:
    proto = double()
    proto.opset_import.append(helper.make_opsetid(ML_DOMAIN, 3))
    write(proto, tmp_path / "model.onnx")
    assert rows_of(ndserve("inspect", "model.onnx").out)["opsets"] == f"ai.onnx 17, {ML_DOMAIN} 3"


def test_a_model_whose_axis_0_is_fixed_is_not_batched_and_warmed_up_with_one(ndserve: Ndserve, tmp_path: Path) -> None:
    write(double((1, 4)), tmp_path / "model.onnx")
    found = ndserve("inspect", "model.onnx", "--json").document
    assert found["batching"] == {"mode": "off", "reason": "axis 0 of x: float32[1, 4] is not free"}
    assert found["warmup"] == [{"x": [1, 4]}]


def test_a_model_with_other_free_axes_waits_for_its_first_request(ndserve: Ndserve, tmp_path: Path) -> None:
    write(double(("batch", "width")), tmp_path / "model.onnx")
    rows = rows_of(ndserve("inspect", "model.onnx").out)
    assert rows["batching"] == "untested: a trial with the shapes of the first request decides"
    assert rows["warm-up"].startswith("none: ")


def test_a_model_of_texts_waits_for_its_first_request(ndserve: Ndserve, tmp_path: Path) -> None:
    write(upper_case(), tmp_path / "model.onnx")
    assert "first request" in rows_of(ndserve("inspect", "model.onnx").out)["batching"]


def test_what_only_a_trial_can_tell_is_not_told(ndserve: Ndserve, tmp_path: Path) -> None:
    write(minus_batch_mean(), tmp_path / "model.onnx")
    assert rows_of(ndserve("inspect", "model.onnx").out)["batching"].startswith("untested: a trial")


def test_the_options_beside_a_model_count(ndserve: Ndserve, tmp_path: Path) -> None:
    path = save(double(), tmp_path, "double", options='batching = "off"\nwarmup = [[3, 4]]')
    found = ndserve("inspect", path, "--json").document
    assert found["batching"]["reason"] == 'model.toml says batching = "off"'
    assert found["warmup"] == [{"x": [3, 4]}]


def test_the_options_beside_a_single_file_count(ndserve: Ndserve, tmp_path: Path) -> None:
    write(double(), tmp_path / "double.onnx")
    (tmp_path / "double.toml").write_text("max_batch_size = 5")
    assert ndserve("inspect", "double.onnx", "--json").document["warmup"][-1] == {"x": [5, 4]}


def test_options_may_be_tried(ndserve: Ndserve, tmp_path: Path) -> None:
    path = save(double(), tmp_path, "double", options="max_batch_size = 5")
    (tmp_path / "other.toml").write_text("max_batch_size = 7")
    found = ndserve("inspect", path, "--model-toml", "other.toml", "--json").document
    assert found["warmup"][-1] == {"x": [7, 4]}


def test_the_servers_own_batch_size_may_be_told(ndserve: Ndserve, tmp_path: Path) -> None:
    write(double(), tmp_path / "double.onnx")
    assert ndserve("inspect", "double.onnx", "--max-batch-size", "9", "--json").document["warmup"][-1] == {"x": [9, 4]}


def test_the_batch_size_is_by_default_the_servers() -> None:
    assert Settings.model_fields["max_batch_size"].default == DEFAULT_MAX_BATCH


def test_external_data_is_counted_and_hashed(ndserve: Ndserve, tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    proto = model([node], [tensor("x", ["n", 64])], [tensor("y", ["n", 64])], w=np.ones((64, 64), np.float32))
    onnx.save_model(proto, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin")
    data = (tmp_path / "weights.bin").read_bytes()
    done = ndserve("inspect", "model.onnx", "--json")
    digest = hashlib.sha256(data).hexdigest()
    assert done.document["external_data"] == [{"name": "weights.bin", "bytes": len(data), "sha256": digest}]
    size = (tmp_path / "model.onnx").stat().st_size
    assert done.document["bytes"] == {"file": size, "external": len(data), "largest_weight": 64 * 64 * 4}
    assert rows_of(ndserve("inspect", "model.onnx").out)["size"].endswith("and 16.4 kB of external data in 1 file(s)")


def test_a_link_to_a_model_is_followed_to_its_data(ndserve: Ndserve, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    proto = model([node], [tensor("x", ["n", 64])], [tensor("y", ["n", 64])], w=np.ones((64, 64), np.float32))
    onnx.save_model(proto, tmp_path / "far" / "model.onnx", save_as_external_data=True, location="weights.bin")
    (tmp_path / "near.onnx").symlink_to(tmp_path / "far" / "model.onnx")
    assert ndserve("inspect", "near.onnx").code == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello\n", "text"),
        (b"PK\x03\x04" + bytes(30), "zip"),
        (b"\x00\x01\x02\xff", "not an ONNX model"),
        (double().SerializeToString()[:-20], "cut off"),
    ],
)
def test_a_broken_file_ends_with_2_and_one_line(ndserve: Ndserve, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "broken.onnx").write_bytes(content)
    done = ndserve("inspect", "broken.onnx")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("ndserve: broken.onnx: ")
    assert reason in done.err
    assert len(done.err.splitlines()) == 1


def test_a_broken_file_as_json_is_an_error_document(ndserve: Ndserve, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"")
    done = ndserve("inspect", "broken.onnx", "--json")
    assert done.code == 2
    assert done.document == {"error": {"code": "invalid_model", "message": "broken.onnx: the file is empty"}}


def test_a_model_with_tensors_that_are_not_served_says_which(ndserve: Ndserve, tmp_path: Path) -> None:
    write(identity(TensorProto.COMPLEX64), tmp_path / "model.onnx")
    done = ndserve("inspect", "model.onnx")
    assert done.code == 2
    assert "complex64" in done.err


@pytest.mark.parametrize("words", [["none.onnx"], ["."], ["model.onnx", "--model-toml", "none.toml"]])
def test_what_is_not_there_ends_with_2(ndserve: Ndserve, tmp_path: Path, words: list[str]) -> None:
    write(double(), tmp_path / "model.onnx")
    done = ndserve("inspect", *words)
    assert (done.code, done.out) == (2, "")
    assert words[-1] in done.err


def test_options_that_do_not_fit_are_told(ndserve: Ndserve, tmp_path: Path) -> None:
    path = save(double(), tmp_path, "double", options="max_batch = 5")
    done = ndserve("inspect", path)
    assert done.code == 2
    assert "max_batch_size" in done.err


def test_a_model_commands_no_terminal(ndserve: Ndserve, tmp_path: Path) -> None:
    proto = double()
    proto.producer_name = "\x1b[2Jgone"
    write(proto, tmp_path / "model.onnx")
    assert "\x1b" not in ndserve("inspect", "model.onnx").out


def test_neither_a_client_nor_a_runtime_is_needed(tmp_path: Path) -> None:
    path = write(double(), tmp_path / "model.onnx")
    done = without((*CLIENT_PACKAGES, *SERVER_PACKAGES), "inspect", str(path))
    assert (done.returncode, done.stderr) == (0, "")


def test_without_what_it_needs_one_line_says_what_to_install(tmp_path: Path) -> None:
    path = write(double(), tmp_path / "model.onnx")
    done = without(("ml_dtypes",), "inspect", str(path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'ndserve[cpu]'" in done.stderr


def test_help_shows_examples_and_exit_codes(ndserve: Ndserve) -> None:
    done = ndserve("inspect", "--help")
    assert "examples:\n  ndserve inspect model.onnx" in done.out
    assert "exit codes:\n  0  done" in done.out

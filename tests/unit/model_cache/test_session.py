"""A model on the CPU: what it computes, whose memory it uses, and what it refuses."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ndserve.devices.base import Provider
from ndserve.devices.cpu import CpuDevice
from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk.repository import scan
from ndserve.model_cache.session import Session, check_runtime
from ndserve.model_info import ModelInfo
from ndserve.types import HostArray, TensorSpec
from tests import onnx_models
from tests.onnx_models import tensor
from tests.unit.model_cache import graphs
from tests.unit.model_cache.graphs import node, open_model

X = np.arange(12, dtype=np.float32).reshape(3, 4)

DTYPES = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
]


def identity(dtype: str, axes: onnx_models.Axes) -> Any:
    elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return graphs.graph(node("Identity", ["x"], ["y"]), x=axes, y=axes, dtypes=(elem_type, elem_type))


def plainly(path: Path, **inputs: HostArray) -> list[HostArray]:
    """What onnxruntime gives without I/O binding."""
    results: list[HostArray] = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)
    return results


def assert_same(actual: list[HostArray], expected: list[HostArray]) -> None:
    assert [array.dtype for array in actual] == [array.dtype for array in expected]
    assert [array.shape for array in actual] == [array.shape for array in expected]
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def broken(folder: Path, data: bytes) -> ModelInfo:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return ModelInfo("broken", "7", path, len(data), (), ())


def without_its_weights(location: str) -> bytes:
    """A model whose weights lie in a file elsewhere."""
    proto = onnx_models.double()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    return bytes(proto.SerializeToString())


@pytest.mark.parametrize("rows", [1, 7, 0])
def test_a_model_gives_what_onnxruntime_gives_run_plainly(tmp_path: Path, rows: int) -> None:
    session = open_model(tmp_path, graphs.dense(np.float32, TensorProto.FLOAT))
    x = np.random.default_rng(0).standard_normal((rows, 64)).astype(np.float32)
    assert_same(list(session.run({"x": x}).values()), plainly(session.info.path, x=x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_as_it_went_in(tmp_path: Path, dtype: str) -> None:
    session = open_model(tmp_path, identity(dtype, ["n", "m"]))
    x = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    assert_same([session.run({"x": x})["y"]], [x])


def test_several_inputs_and_outputs_go_by_name(tmp_path: Path) -> None:
    nodes = [node("Sub", ["a", "b"], ["less"]), node("Add", ["a", "b"], ["more"])]
    inputs, outputs = [tensor("a", ["n"]), tensor("b", ["n"])], [tensor("more", ["n"]), tensor("less", ["n"])]
    session = open_model(tmp_path, onnx_models.model(nodes, inputs, outputs))
    got = session.run({"b": np.array([1, 2], np.float32), "a": np.array([5, 7], np.float32)})
    assert {name: array.tolist() for name, array in got.items()} == {"more": [6, 9], "less": [4, 5]}


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_an_array_without_elements_keeps_its_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    session = open_model(tmp_path, onnx_models.double(["n", "m"]))
    assert session.run({"x": np.zeros(shape, np.float32)})["y"].shape == shape


def test_a_scalar_input_stays_a_scalar(tmp_path: Path) -> None:
    session = open_model(tmp_path, identity("float32", []))
    assert_same([session.run({"x": np.array(3, np.float32)})["y"]], [np.array(3, np.float32)])


def test_a_scalar_goes_beside_an_array(tmp_path: Path) -> None:
    session = open_model(tmp_path, graphs.scaled_by_rate())
    assert_same([session.run({"x": X, "rate": np.array(3, np.float32)})["y"]], [X * 3])


@pytest.mark.parametrize(
    "x",
    [X[::2], X[:, ::-1], X[::-1], np.asfortranarray(X), np.broadcast_to(X[:1], (5, 4)), X.T.copy().T],
    ids=["strided", "reversed columns", "reversed rows", "fortran", "broadcast", "transposed"],
)
def test_the_layout_of_an_input_does_not_matter(tmp_path: Path, x: HostArray) -> None:
    session = open_model(tmp_path, onnx_models.double())
    np.testing.assert_array_equal(session.run({"x": x})["y"], x * 2)


def test_an_input_may_be_read_only_and_is_not_written_to(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.double())
    x = X.copy()
    x.flags.writeable = False
    session.run({"x": x})
    np.testing.assert_array_equal(x, X)


def test_results_outlive_their_session(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.double(["n", "m"]))
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    y = session.run({"x": x})["y"]
    del session
    gc.collect()
    other = open_model(tmp_path, onnx_models.double(["n", "m"]), "other")
    kept = [other.run({"x": np.zeros_like(x)}) for _ in range(20)]
    np.testing.assert_array_equal(y, x * 2)
    del kept


def test_a_result_is_not_changed_by_the_next_run(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.double())
    first = session.run({"x": X})["y"]
    session.run({"x": X + 100})
    np.testing.assert_array_equal(first, X * 2)


@pytest.mark.parametrize("step", [1, 2], ids=["dense", "strided"])
def test_an_input_passed_through_stays_in_memory(tmp_path: Path, step: int) -> None:
    session = open_model(tmp_path, graphs.passed_through())
    x = np.arange(3072, dtype=np.float32).reshape(1024, 3)
    expected = x[::step].tolist()
    y = session.run({"x": x[::step]})["x"]
    del x, session
    gc.collect()
    rubbish = [np.full((1024 // step, 3), np.nan, np.float32) for _ in range(100)]
    assert y.tolist() == expected
    del rubbish


def test_an_input_passed_through_is_as_read_only_as_it_was(tmp_path: Path) -> None:
    device = CpuDevice()
    session = open_model(tmp_path, graphs.passed_through())
    body = bytes(24)
    x = device.to_device([np.frombuffer(body, np.float32).reshape(2, 3)])
    y = session.run({"x": x})["x"]
    assert not (y.flags.writeable and np.shares_memory(x, y)), "a process can write to the request's bytes"


def test_an_output_may_be_written_to(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.double())
    assert session.run({"x": X})["y"].flags.writeable


@pytest.mark.parametrize("dtype", ["<U3", "V8", ">f4", "datetime64[s]"])
def test_a_dtype_that_onnx_lacks_is_told_with_the_name_of_the_input(tmp_path: Path, dtype: str) -> None:
    session = open_model(tmp_path, onnx_models.double())
    with pytest.raises(RuntimeError, match=r"input 'x' has dtype .*, which ONNX does not have"):
        session.run({"x": np.zeros((1, 4), dtype)})


def test_a_session_keeps_its_device_alive(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.double(), tmp_path, "double")
    device = CpuDevice()
    session = Session.open(ModelInfo("double", "1", path, 1, (), ()), device, 1)
    kept = weakref.ref(device)
    del device
    gc.collect()
    assert kept() is not None
    del session
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": X.astype(np.float64)},
        {"x": X.astype(str)},
        {"x": X[:, :3]},
        {"x": X[0]},
        {},
        {"z": X},
        {"x": X, "z": X},
    ],
    ids=["dtype", "text", "shape", "rank", "none", "name", "surplus"],
)
def test_wrong_inputs_are_a_runtimeerror_and_the_session_goes_on(tmp_path: Path, inputs: dict[str, HostArray]) -> None:
    session = open_model(tmp_path, onnx_models.double())
    with pytest.raises(RuntimeError):
        session.run(inputs)
    np.testing.assert_array_equal(session.run({"x": X})["y"], X * 2)


def test_an_operator_that_fails_is_a_runtimeerror_and_the_session_goes_on(tmp_path: Path) -> None:
    session = open_model(tmp_path, graphs.embedding(3))
    with pytest.raises(RuntimeError, match="indices element out of data bounds"):
        session.run({"x": np.full((1, 5), 9)})
    assert session.run({"x": np.full((1, 5), 2)})["y"].shape == (1, 5, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a model",
        onnx_models.double().SerializeToString()[:-20],
        onnx_models.double().SerializeToString().replace(b"Mul", b"Mux"),
        without_its_weights("weights.bin"),
        without_its_weights("../weights.bin"),
        without_its_weights("/etc/hostname"),
    ],
    ids=["empty", "text", "cut off", "unknown operator", "no weights", "weights outside", "absolute path"],
)
def test_a_file_that_onnxruntime_refuses_is_told_by_name_and_not_by_path(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    (tmp_path / "7").mkdir()
    with pytest.raises(ModelLoadError, match=r"'broken' version 7") as caught:
        Session.open(broken(tmp_path / "7", data), CpuDevice(), 1)
    assert str(tmp_path) not in caught.value.message


def test_a_relative_path_is_not_told_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelLoadError) as caught:
        Session.open(broken(Path(), without_its_weights("weights.bin")), CpuDevice(), 1)
    assert str(tmp_path) not in caught.value.message


def test_a_path_with_blanks_is_not_told_either(tmp_path: Path) -> None:
    folder = tmp_path / "my own models"
    folder.mkdir()
    with pytest.raises(ModelLoadError, match=r'"weights\.bin"') as caught:
        Session.open(broken(folder, without_its_weights("weights.bin")), CpuDevice(), 1)
    assert "own" not in caught.value.message


def test_the_name_of_an_operator_is_told_although_it_looks_like_a_path(tmp_path: Path) -> None:
    proto = graphs.graph(node("Relu", ["x"], ["y"], name="/encoder/layer 0/activation"))
    with pytest.raises(ModelLoadError, match="/encoder/layer 0/activation"):
        Session.open(broken(tmp_path, proto.SerializeToString().replace(b"Relu", b"Rexu")), CpuDevice(), 1)


def test_nothing_is_sent_or_kept_for_the_makers_of_onnxruntime(tmp_path: Path) -> None:
    """The runtime would write a device id and its queue of reports; the environment lacks `CI`, which stops it too."""
    environment = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    source = (
        "from ndserve.devices.cpu import CpuDevice\n"
        "from ndserve.model_cache.session import check_runtime\n"
        "check_runtime(CpuDevice())"
    )
    subprocess.run([sys.executable, "-c", source], env=environment, check=True, timeout=50)
    assert list(tmp_path.rglob("*")) == []


def test_a_file_that_has_gone_is_a_modelloaderror(tmp_path: Path) -> None:
    info = broken(tmp_path, b"")
    info.path.unlink()
    with pytest.raises(ModelLoadError, match=r"'broken' version 7"):
        Session.open(info, CpuDevice(), 1)


class ElsewhereDevice(CpuDevice):
    """Asks for a provider that no Linux build of onnxruntime has."""

    def providers(self) -> list[Provider]:
        return ["CoreMLExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_silent_fallback_to_another_provider_is_found_out(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.double(), tmp_path, "double")
    with pytest.raises(ModelLoadError, match="CoreMLExecutionProvider could not be loaded"):
        Session.open(ModelInfo("double", "1", path, 1, (), ()), ElsewhereDevice(), 1)


def test_the_runtime_can_use_the_cpu() -> None:
    check_runtime(CpuDevice())


def test_a_file_that_was_changed_after_it_was_read_is_not_loaded(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.double(), tmp_path, "m")
    (info,) = scan(tmp_path)
    path.write_bytes(path.read_bytes() + b"\x72\x00")  # an empty metadata entry
    with pytest.raises(ModelLoadError, match="changed since it was read"):
        Session.open(info, CpuDevice(), 1)


def test_outputs_of_another_type_than_the_file_was_read_to_have_are_never_read_from_memory(tmp_path: Path) -> None:
    path = onnx_models.save(identity("uint8", ["n", 4]), tmp_path, "m")
    spec = TensorSpec("y", np.dtype(np.float32), (None, 4))
    with pytest.raises(ModelLoadError, match="uint8"):
        Session.open(ModelInfo("m", "1", path, 1, (), (spec,)), CpuDevice(), 1)

"""Sessions of optimised graphs: they give what the models give, bit by bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ndserve.devices.base import Device, Provider
from ndserve.devices.cpu import CpuDevice
from ndserve.errors import ModelLoadError
from ndserve.model_cache import optimized, session
from ndserve.model_cache.on_host import host_run
from ndserve.model_cache.optimized import OptimizedModels
from ndserve.model_cache.session import Session
from ndserve.model_cache.warm_up import inputs_for
from ndserve.model_info import ModelInfo
from tests import onnx_models
from tests.onnx_alone import assert_same
from tests.unit.model_cache import graphs as made
from tests.unit.model_cache.graphs import node
from tests.unit.model_cache.optimizable import MODELS, convolutions, on_disk

MIB = 1 << 20


@pytest.fixture
def graphs(tmp_path: Path) -> OptimizedModels:
    return OptimizedModels(tmp_path / "graphs", 10 * MIB)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How each session was asked for."""
    ways: list[str] = []
    plain = session._open

    def noted(*args: Any, optimize: bool = True, save: Path | None = None) -> Any:
        ways.append("save" if save else "plain" if optimize else "ready")
        return plain(*args, optimize=optimize, save=save)

    monkeypatch.setattr(session, "_open", noted)
    return ways


def opened(info: ModelInfo, graphs: OptimizedModels | None, device: Device | None = None) -> Session:
    return Session.open(info, device or CpuDevice(), 1, graphs, "abc")


def outputs(session: Session) -> dict[str, Any]:
    """What the model gives for five rows."""
    shapes = {spec.name: tuple(axis or 5 for axis in spec.shape or ()) for spec in session.info.inputs}
    return dict(host_run(CpuDevice(), session.run)(inputs_for(session.info, shapes)))


@pytest.mark.parametrize("outside", [None, 0, 1024], ids=["inside", "all outside", "large ones outside"])
@pytest.mark.parametrize("name", MODELS)
def test_an_optimised_graph_gives_the_same_bits(
    tmp_path: Path, graphs: OptimizedModels, ways: list[str], name: str, outside: int | None
) -> None:
    info = on_disk(tmp_path, MODELS[name](), outside=outside)
    expected = outputs(opened(info, None))
    assert_same(outputs(opened(info, graphs)), expected)
    assert_same(outputs(opened(info, graphs)), expected)
    assert ways[:3] == ["plain", "save", "ready"]  # and "plain" where a graph does not load: 1.24 had a bug in branches


def test_the_graph_that_is_kept_is_the_optimised_one(tmp_path: Path, graphs: OptimizedModels) -> None:
    info = on_disk(tmp_path, convolutions())
    opened(info, graphs)
    (graph,) = (tmp_path / "graphs").glob(f"*/{optimized.GRAPH}")
    assert b"BatchNormalization" in info.path.read_bytes()
    assert b"BatchNormalization" not in graph.read_bytes()


def test_an_optimised_graph_needs_none_of_the_models_weights(
    tmp_path: Path, graphs: OptimizedModels, ways: list[str]
) -> None:
    info = on_disk(tmp_path, convolutions(), outside=0)
    expected = outputs(opened(info, graphs))
    info.external[0].unlink()
    assert_same(outputs(opened(info, graphs)), expected)
    assert ways == ["save", "ready"]


def test_without_a_digest_nothing_is_kept(tmp_path: Path, graphs: OptimizedModels) -> None:
    Session.open(on_disk(tmp_path, convolutions()), CpuDevice(), 1, graphs)
    assert not (tmp_path / "graphs").exists()


@pytest.mark.parametrize("harm", ["graph gone", "weights gone", "weights cut off", "no graph"])
def test_a_kept_graph_that_is_broken_is_removed_and_harms_nobody(
    tmp_path: Path, graphs: OptimizedModels, ways: list[str], harm: str
) -> None:
    info = on_disk(tmp_path, made.dense(np.float32, TensorProto.FLOAT))
    expected = outputs(opened(info, graphs))
    (kept,) = (tmp_path / "graphs").iterdir()
    match harm:
        case "graph gone":
            (kept / optimized.GRAPH).unlink()
        case "weights gone":
            (kept / optimized.WEIGHTS).unlink()
        case "weights cut off":
            (kept / optimized.WEIGHTS).write_bytes((kept / optimized.WEIGHTS).read_bytes()[:100])
        case _:
            (kept / optimized.GRAPH).write_bytes(b"not a graph")
    assert_same(outputs(opened(info, graphs)), expected)
    assert not kept.exists()
    assert ways == ["save", "ready", "plain"]


def test_a_graph_of_another_model_is_not_taken_for_this_ones(
    tmp_path: Path, graphs: OptimizedModels, ways: list[str]
) -> None:
    """Its outputs would be read from memory as what they are not."""
    opened(on_disk(tmp_path / "a", onnx_models.identity(TensorProto.UINT8)), graphs)
    info = on_disk(tmp_path / "b", onnx_models.identity(TensorProto.FLOAT))
    assert outputs(opened(info, graphs))["y"].dtype == np.float32
    assert ways == ["save", "ready", "plain"]


def test_a_model_that_does_not_load_is_told_as_ever(tmp_path: Path, graphs: OptimizedModels) -> None:
    info = on_disk(tmp_path, convolutions())
    info.path.write_bytes(info.path.read_bytes()[:-20])
    with pytest.raises(ModelLoadError, match="'model' version 1 does not load") as caught:
        opened(info, graphs)
    assert str(tmp_path) not in caught.value.message
    assert list((tmp_path / "graphs").iterdir()) == []


class OtherDevice(CpuDevice):
    """The CPU with an option that decides how graphs are optimised, or with none."""

    def __init__(self, **options: str) -> None:
        self.options = options

    def providers(self) -> list[Provider]:
        return [("CPUExecutionProvider", dict(self.options))]


def test_other_options_of_a_provider_make_another_graph(
    tmp_path: Path, graphs: OptimizedModels, ways: list[str]
) -> None:
    info = on_disk(tmp_path, convolutions())
    for options in ({}, {"prefer_nhwc": "1"}, {"prefer_nhwc": "1"}):
        opened(info, graphs, OtherDevice(**options))
    assert ways == ["save", "save", "ready"]


def test_another_stream_of_a_device_does_not(tmp_path: Path, graphs: OptimizedModels, ways: list[str]) -> None:
    info = on_disk(tmp_path, convolutions())
    for stream in ("4096", "8192"):
        opened(info, graphs, OtherDevice(user_compute_stream=stream))
    assert ways == ["save", "ready"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from ndserve.devices.cpu import CpuDevice
from ndserve.model_cache.optimized import OptimizedModels
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo

model, folder = map(Path, sys.argv[1:])
info = ModelInfo("model", "1", model, model.stat().st_size, (), ())
graphs = OptimizedModels(folder, 10 << 20)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file can be longer
Session.open(info, CpuDevice(), 1, graphs, "abc")
print("loaded", list(folder.iterdir()))
"""


def test_a_disk_that_fills_up_is_logged_and_does_no_harm(tmp_path: Path) -> None:
    scaled = node("Mul", ["x", "w"], ["y"])
    info = on_disk(tmp_path, made.graph(scaled, x=["n", 4000], y=["n", 4000], w=np.ones(4000, np.float32)))
    command = [sys.executable, "-c", FULL_DISK, str(info.path), str(tmp_path / "graphs")]
    child = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert child.stdout == "loaded []\n", child.stderr
    assert "the optimised graph of model model/1 is not kept" in child.stderr

"""Models that ask for the providers that they run on."""

from __future__ import annotations

from pathlib import Path

import array_api_strict
import numpy as np
import pytest
from onnx import TensorProto

from ndserve import byte_strings
from ndserve.devices.cpu import CpuDevice
from ndserve.errors import ModelLoadError
from ndserve.model_cache.on_host import host_run
from ndserve.model_cache.session import Session
from tests import onnx_models
from tests.contract.foreign_device import FOREIGN, ForeignDevice
from tests.onnx_alone import alone, assert_same, values
from tests.unit.model_cache import graphs
from tests.unit.model_cache.optimizable import on_disk

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_a_model_made_for_a_gpu_runs_where_there_is_none(tmp_path: Path) -> None:
    info = on_disk(tmp_path, onnx_models.double(), providers=("tensorrt", "cuda", "cpu"))
    session = Session.open(info, CpuDevice(), 1)
    assert session._session.get_providers() == ["CPUExecutionProvider"]
    np.testing.assert_array_equal(session.run({"x": X})["y"], X * 2)


def test_a_model_of_the_cpu_gives_arrays_of_the_device(tmp_path: Path) -> None:
    device = ForeignDevice()
    session = Session.open(on_disk(tmp_path, onnx_models.double(), providers=("cpu",)), device, 1)
    y = session.run({"x": device.to_device([X])})["y"]
    assert isinstance(y, type(array_api_strict.asarray(0)))
    assert y.device == FOREIGN
    np.testing.assert_array_equal(device.to_host(y), X * 2)


@pytest.mark.parametrize("elem_type", [TensorProto.INT64, TensorProto.BOOL, TensorProto.BFLOAT16])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)], ids=str)
def test_every_array_goes_to_the_host_and_back(tmp_path: Path, elem_type: int, shape: tuple[int, ...]) -> None:
    info = on_disk(tmp_path, onnx_models.identity(elem_type, [f"axis {number}" for number in range(len(shape))]))
    device = ForeignDevice()
    session = Session.open(info, device, 1)
    assert info.inputs[0].dtype is not None
    x = values(info.inputs[0].dtype, *shape)
    (spec,) = info.outputs
    y = host_run(device, session.run)({"x": x})["y"]
    assert (spec.dtype, y.shape, y.tobytes()) == (x.dtype, x.shape, x.tobytes())


@pytest.mark.parametrize("proto", [onnx_models.upper_case(), onnx_models.words_of_numbers("a", "b")])
def test_texts_go_by_the_host_as_ever(tmp_path: Path, proto: object) -> None:
    info = on_disk(tmp_path, proto, providers=("cpu",))
    session = Session.open(info, ForeignDevice(), 1)
    texts = info.inputs[0].dtype == np.dtype(object)
    x = byte_strings.of([b"a", b"b"], (2,)) if texts else np.array([0, 1])
    assert_same(host_run(ForeignDevice(), session.run)({"x": x}), alone(proto, {"x": x}))


def test_the_devices_array_is_not_changed_by_a_model_that_hands_it_through(tmp_path: Path) -> None:
    device = ForeignDevice()
    session = Session.open(on_disk(tmp_path, graphs.passed_through()), device, 1)
    x = device.to_device([X[:, :3]])
    y = session.run({"x": x})["x"]
    y += 1
    np.testing.assert_array_equal(device.to_host(x), X[:, :3])


def test_an_option_that_no_model_may_have_is_a_modelloaderror(tmp_path: Path) -> None:
    options = (("tensorrt", (("trt_extra_plugin_lib_paths", "/tmp/evil.so"),)),)
    info = on_disk(tmp_path, onnx_models.double(), provider_options=options)
    with pytest.raises(ModelLoadError, match=r"tensorrt\.trt_extra_plugin_lib_paths is refused: it would load a"):
        Session.open(info, CpuDevice(), 1)


def test_an_operator_that_only_a_library_of_the_users_has_does_not_load(tmp_path: Path) -> None:
    proto = onnx_models.double()
    proto.graph.node[0].domain = "my.own"
    proto.opset_import.add(domain="my.own", version=1)
    with pytest.raises(ModelLoadError, match=r"my\.own"):
        Session.open(on_disk(tmp_path, proto), CpuDevice(), 1)

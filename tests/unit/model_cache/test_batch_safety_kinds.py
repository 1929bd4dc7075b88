"""The probe on narrow floats, which agree within few bits, and on texts, which agree or do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ndserve import byte_strings
from ndserve.devices.cpu import CpuDevice
from ndserve.dtypes import NARROW, TEXT, is_narrow
from ndserve.model_cache import batch_safety
from ndserve.model_cache.disk.onnx_file import DTYPES
from ndserve.model_cache.on_host import host_run
from ndserve.model_info import Batching, ModelInfo
from ndserve.types import HostArray, Tensors, TensorSpec
from tests import onnx_models
from tests.onnx_models import tensor
from tests.unit.model_cache.graphs import node, open_model

NARROW_TYPES = [number for number, dtype in DTYPES.items() if is_narrow(dtype)]


def at_load(folder: Path, proto: Any) -> Batching:
    session = open_model(folder, proto)
    return batch_safety.at_load(host_run(CpuDevice(), session.run), session.info)


def with_request(folder: Path, proto: Any, *elements: bytes) -> Batching:
    session = open_model(folder, proto)
    x = byte_strings.of(elements, (len(elements),))
    verdict = batch_safety.with_request(host_run(CpuDevice(), session.run), {"x": x}, session.info.outputs)
    assert verdict is not None
    return verdict


def info(dtype: np.dtype[Any], *axes: int) -> ModelInfo:
    specs = (TensorSpec("x", dtype, (None, *axes)),)
    return ModelInfo("m", "1", Path("m.onnx"), 1, specs, specs)


def first_text_of_all() -> Any:
    """Gives the first row's text to every row: not safe to batch."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["x", "zero"], ["first"]),
        node("Expand", ["first", "shape"], ["y"]),
    ]
    x, y = tensor("x", ["n"], TensorProto.STRING), tensor("y", ["n"], TensorProto.STRING)
    return onnx_models.model(nodes, [x], [y], zero=np.array([0]))


@pytest.mark.parametrize("elem_type", NARROW_TYPES, ids=lambda number: DTYPES[number].name)
@pytest.mark.parametrize("model", [onnx_models.identity, onnx_models.doubled_as_float])
def test_a_model_of_narrow_floats_is_judged_when_it_is_loaded(tmp_path: Path, elem_type: int, model: Any) -> None:
    assert at_load(tmp_path, model(elem_type)).mode == "on"


@pytest.mark.parametrize(
    ("name", "error", "mode"),
    [
        ("bfloat16", 0.01, "on"),
        ("bfloat16", 0.1, "off"),
        ("float8_e4m3fn", 0.1, "on"),
        ("float8_e4m3fn", 0.4, "off"),
        ("float8_e4m3fnuz", 0.1, "on"),
        ("float8_e5m2", 0.2, "on"),
        ("float8_e5m2", 0.6, "off"),
        ("float8_e5m2fnuz", 0.6, "off"),
    ],
)
def test_rounding_of_a_narrow_float_is_allowed_and_more_is_not(name: str, error: float, mode: str) -> None:
    dtype = NARROW[name]

    def run(inputs: Tensors) -> Tensors:
        x = inputs["x"].astype(np.float32)
        return {"x": (x + error * 4 * (len(x) == 2)).astype(dtype)}

    x = np.array([[1.0, 2.0, 3.0, 4.0]], dtype)
    verdict = batch_safety.with_request(run, {"x": x}, info(dtype, 4).outputs)
    assert verdict is not None
    assert verdict.mode == mode


def test_the_bits_of_narrow_outputs_are_compared_as_what_they_stand_for() -> None:
    dtype = NARROW["bfloat16"]

    def run(inputs: Tensors) -> Tensors:
        x = inputs["x"].astype(np.float32) * (1 + 0.005 * (len(inputs["x"]) == 2))
        return {"x": x.astype(dtype).view(np.uint16)}

    assert batch_safety.at_load(run, info(dtype, 64)).mode == "on"


def test_floats_of_one_byte_need_as_many_rounds_as_integers() -> None:
    runs = 0

    def run(inputs: Tensors) -> Tensors:
        nonlocal runs
        runs += 1
        return inputs

    assert batch_safety.at_load(run, info(NARROW["float8_e5m2"], 64)).mode == "on"
    assert runs == 3 * len(batch_safety._SCALES)


def test_no_texts_are_made_up_when_a_model_is_loaded() -> None:
    def unused(inputs: Tensors) -> Tensors:
        raise AssertionError("the model was run")

    assert batch_safety.at_load(unused, info(TEXT)).mode == "untested"


@pytest.mark.parametrize("elements", [(b"one", b"two"), (b"one",), ("é1".encode(),)], ids=["two", "one", "unicode"])
def test_a_request_of_texts_judges_a_model(tmp_path: Path, elements: tuple[bytes, ...]) -> None:
    assert with_request(tmp_path, onnx_models.upper_case(), *elements).mode == "on"


def test_a_model_that_mixes_texts_is_found_out(tmp_path: Path) -> None:
    verdict = with_request(tmp_path, first_text_of_all(), b"one")
    assert (verdict.mode, "other texts" in verdict.reason) == ("off", True)


def test_a_text_that_is_the_same_from_either_end_cannot_tell(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.upper_case())
    x = byte_strings.of([b"level"], (1,))
    assert batch_safety.with_request(host_run(CpuDevice(), session.run), {"x": x}, session.info.outputs) is None


def test_texts_that_are_all_unknown_to_the_model_cannot_tell(tmp_path: Path) -> None:
    assert with_request(tmp_path, onnx_models.numbers_of_words(one=1), b"two").mode == "untested"


def test_a_text_that_is_not_utf_8_is_turned_by_bytes() -> None:
    seen: list[HostArray] = []

    def run(inputs: Tensors) -> Tensors:
        seen.append(inputs["x"])
        return inputs

    batch_safety.with_request(run, {"x": byte_strings.of([b"\xffa"], (1,))}, info(TEXT).outputs)
    assert [x.tolist() for x in seen] == [[b"\xffa"], [b"a\xff"], [b"\xffa", b"a\xff"]]

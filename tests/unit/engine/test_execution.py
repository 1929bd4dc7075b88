"""What goes between tasks and array code: texts stay on the host, narrow floats travel as their bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ndserve import byte_strings
from ndserve.devices.base import Device
from ndserve.devices.cpu import CpuDevice
from ndserve.dtypes import NARROW
from ndserve.engine.admission import admit
from ndserve.engine.execution import execute
from ndserve.engine.target import BatchDefaults, Target, model_target, process_target
from ndserve.model_cache.session import Session
from ndserve.model_info import Batching, ModelInfo
from ndserve.processes.base import process
from ndserve.types import Batch, HostArray, Task, Tensors
from tests import onnx_models
from tests.contract.foreign_device import ForeignDevice
from tests.unit.model_cache.graphs import open_model

BFLOAT16 = NARROW["bfloat16"]


def texts(*elements: bytes) -> HostArray:
    return byte_strings.of(elements, (len(elements),))


def run(
    target: Target, *arrays: Tensors, device: Device | None = None, sessions: Mapping[str, Session] | None = None
) -> list[Tensors]:
    """The results of one batch of these tasks."""
    tasks = []
    for number, inputs in enumerate(arrays):
        admitted = admit(target, inputs, {})
        tasks.append(Task(str(number), admitted.key, admitted.inputs, admitted.rows, admitted.single, 0.0))
    batch = Batch(tasks[0].key, tasks)
    return execute(device or CpuDevice(), target, sessions or {}, batch, batch.parts()).results


def target_of(function: Callable[..., Any], models: Mapping[str, ModelInfo] | None = None) -> Target:
    made = process("made", batched=True, models=tuple(models or ()))(function)
    return process_target(made, models or {}, BatchDefaults())


def model_of(session: Session) -> Target:
    target = model_target(session.info, BatchDefaults())
    target.batching = Batching("on", "the test says so")
    return target


@pytest.mark.parametrize("device", [CpuDevice(), ForeignDevice()], ids=["cpu", "foreign"])
def test_texts_reach_a_process_as_byte_strings_on_the_host(device: Device) -> None:
    seen: list[Any] = []

    def upper(xp: Any, x: Any) -> Any:
        seen.append(x)
        return byte_strings.of([text.upper() for text in x.flat], x.shape)

    results = run(target_of(upper), {"x": texts(b"a", b"b")}, {"x": texts(b"c", b"d")}, device=device)
    assert [result["output"].tolist() for result in results] == [[b"A", b"B"], [b"C", b"D"]]
    assert [(type(x), x.shape, x.flags.writeable) for x in seen] == [(np.ndarray, (2, 2), False)]


def test_a_lone_text_is_not_to_be_written_to() -> None:
    def writes(xp: Any, x: Any) -> Any:
        x[...] = b"mine"
        return x

    with pytest.raises(ValueError, match="read-only"):
        run(target_of(writes), {"x": texts(b"a")})


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.array(["é", "b"]),
        lambda: np.array(["é", "b"], object),
        lambda: np.array(["é".encode(), b"b"]),
        lambda: np.array(["é", "b"], np.dtypes.StringDType()),
    ],
    ids=["U", "objects", "S", "StringDType"],
)
def test_strings_that_a_process_returns_become_byte_strings(make: Callable[[], HostArray]) -> None:
    (result,) = run(target_of(lambda xp, x: make()[np.newaxis]), {"x": np.ones(2)})
    assert result["output"].tolist() == ["é".encode(), b"b"]


def test_other_objects_are_refused_by_the_name_of_the_output() -> None:
    target = target_of(lambda xp, x: {"odd": np.array([{}], object)})
    with pytest.raises(TypeError, match=r"'odd' is an array of Python objects, .*: an element is of type dict"):
        run(target, {"x": np.ones(2)})


def test_a_text_that_is_no_unicode_is_refused_by_the_name_of_the_output() -> None:
    target = target_of(lambda xp, x: {"odd": np.array(["\ud800"], object)})
    with pytest.raises(ValueError, match="output 'odd' holds a text that is no Unicode"):
        run(target, {"x": np.ones(2)})


@pytest.mark.parametrize("rows", [1, 2])
def test_a_model_gets_and_gives_narrow_floats(tmp_path: Path, rows: int) -> None:
    session = open_model(tmp_path, onnx_models.doubled_as_float(TensorProto.BFLOAT16))
    arrays = [{"x": np.full((1, 3), number, BFLOAT16)} for number in range(rows)]
    results = run(model_of(session), *arrays, sessions={"model": session})
    assert [result["y"].dtype for result in results] == [BFLOAT16] * rows
    assert [result["y"].tolist() for result in results] == [[[2.0 * number] * 3] for number in range(rows)]


def test_unsigned_integers_of_a_model_stay_integers(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.identity(TensorProto.UINT16))
    (result,) = run(model_of(session), {"x": np.ones((1, 3), np.uint16)}, sessions={"model": session})
    assert result["y"].dtype == np.uint16


def test_a_process_calls_a_narrow_model_with_bits(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.doubled_as_float(TensorProto.BFLOAT16))
    target = target_of(lambda xp, x, models: models["model"](x), {"model": session.info})
    bits = np.ones(3, BFLOAT16).view(np.uint16)
    (result,) = run(target, {"x": bits}, sessions={"model": session})
    assert result["output"].dtype == np.uint16
    assert result["output"].view(BFLOAT16).tolist() == [2, 2, 2]


def test_a_process_calls_a_model_of_texts_with_byte_strings(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.upper_case())
    target = target_of(lambda xp, x, models: models["model"](x[0])[None], {"model": session.info})
    (result,) = run(target, {"x": texts(b"a", b"b")}, sessions={"model": session})
    assert result["output"].tolist() == [b"A", b"B"]


def test_a_process_that_keeps_its_array_changes_no_result_that_it_has_given() -> None:
    kept = np.zeros(3)

    def accumulate(xp: Any, x: Any) -> Any:
        np.add(kept, x[0], out=kept)
        return kept[np.newaxis]

    def same(xp: Any, x: Any) -> Any:
        kept[:] = x[0]
        return kept.reshape(1, 3)

    for function in (accumulate, same):
        target = target_of(function)
        (first,) = run(target, {"x": np.ones(3)})
        given = first["output"].tolist()
        run(target, {"x": np.full(3, 5.0)})
        assert first["output"].tolist() == given


def test_an_output_in_another_byte_order_comes_in_the_machines_own() -> None:
    (result,) = run(target_of(lambda xp, x: x.astype(">f4")), {"x": np.arange(3.0)})
    assert result["output"].dtype == np.dtype(np.float32)
    assert result["output"].tolist() == [0, 1, 2]


def test_a_process_that_gives_nothing_fails() -> None:
    with pytest.raises(TypeError, match="no array"):
        run(target_of(lambda xp, x: {}), {"x": np.ones(3)})

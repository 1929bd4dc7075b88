"""What a model is run on before its first request."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndserve.byte_strings import MAX_TEXTS
from ndserve.devices.cpu import CpuDevice
from ndserve.dtypes import NARROW, PLAIN, TEXT
from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk.onnx_file import DTYPES
from ndserve.model_cache.on_host import host_run
from ndserve.model_cache.random_inputs import MAX_RANDOM
from ndserve.model_cache.session import Session
from ndserve.model_cache.warm_up import inputs_for, shapes_to_run, warm_up
from ndserve.model_info import ModelInfo, ModelOptions, Shapes
from ndserve.types import Tensors, TensorSpec
from tests import onnx_models
from tests.unit.model_cache import graphs
from tests.unit.model_cache.optimizable import on_disk

Shape = tuple[int | None, ...] | None

FLOAT = PLAIN["float32"]
EVERY = sorted({*DTYPES.values(), *PLAIN.values()}, key=str)


def model(*shapes: Shape, dtype: np.dtype[Any] = FLOAT, warmup: tuple[Shapes, ...] | None = None) -> ModelInfo:
    """A model of inputs a, b, ... of those shapes."""
    inputs = tuple(TensorSpec(name, dtype, shape) for name, shape in zip("abcdefgh", shapes, strict=False))
    return ModelInfo("model", "3", Path("model.onnx"), 1, inputs, (), ModelOptions(warmup=warmup))


class Runs:
    """Takes the shapes that it is run on, and fails on those of some rows."""

    def __init__(self, *failing: int) -> None:
        self.failing = failing
        self.shapes: list[dict[str, tuple[int, ...]]] = []

    def __call__(self, inputs: Tensors) -> Tensors:
        self.shapes.append({name: array.shape for name, array in inputs.items()})
        if any(array.shape[0] in self.failing for array in inputs.values()):
            raise RuntimeError("the rows do not suit\nthe operator")
        return {}


@pytest.mark.parametrize(
    ("shapes", "stacks", "expected"),
    [
        ([(None, 4)], True, [[(1, 4)], [(8, 4)]]),
        ([(None, 4)], False, [[(1, 4)]]),
        ([(None, 4), (None, 2, 3)], True, [[(1, 4), (1, 2, 3)], [(8, 4), (8, 2, 3)]]),
        ([(1, 4)], True, [[(1, 4)]]),
        ([(5, 4)], True, [[(5, 4)]]),
        ([(None, 4), (1, 4)], True, [[(1, 4), (1, 4)]]),
        ([(None, 4), ()], True, [[(1, 4), ()]]),
        ([(None,)], True, [[(1,)], [(8,)]]),
        ([(None, None)], True, []),
        ([(None, 4), (None, None)], True, []),
        ([None], True, []),
        ([], True, []),
    ],
)
def test_a_model_whose_shapes_are_known_is_run_on_its_smallest_and_largest_batch(
    shapes: list[Shape], stacks: bool, expected: list[list[tuple[int, ...]]]
) -> None:
    got = shapes_to_run(model(*shapes), 8, stacks)
    assert [list(each.values()) for each in got] == expected


def test_a_batch_of_one_is_run_once() -> None:
    assert shapes_to_run(model((None, 4)), 1, True) == [{"a": (1, 4)}]


@pytest.mark.parametrize(("dtype", "most"), [(FLOAT, MAX_RANDOM), (TEXT, MAX_TEXTS)], ids=["numbers", "texts"])
def test_a_batch_of_very_many_elements_is_left_out(dtype: np.dtype[Any], most: int) -> None:
    rows = 16
    info = model((None, most // rows), dtype=dtype)
    assert [each["a"][0] for each in shapes_to_run(info, rows, True)] == [1, rows]
    assert [each["a"][0] for each in shapes_to_run(info, rows + 1, True)] == [1]
    assert shapes_to_run(model((None, most + 1), dtype=dtype), 1, True) == []


def test_declared_shapes_stand_in_for_all_others() -> None:
    info = model((None, None), (None,), warmup=((("a", (2, 7)), ("b", (2,))), (("a", (4, 9)), ("b", (4,)))))
    assert shapes_to_run(info, 8, True) == [{"a": (2, 7), "b": (2,)}, {"a": (4, 9), "b": (4,)}]


def test_an_empty_list_of_shapes_asks_for_none() -> None:
    assert shapes_to_run(model((None, 4), warmup=()), 8, True) == []


@pytest.mark.parametrize("dtype", EVERY, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 2), (3, 2)], ids=str)
def test_inputs_have_the_dtype_and_the_shape(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    array = inputs_for(model((None, 2), dtype=dtype), {"a": shape})["a"]
    assert (array.dtype, array.shape) == (dtype, shape)


@pytest.mark.parametrize("dtype", NARROW.values(), ids=str)
def test_narrow_floats_are_finite_and_differ(dtype: np.dtype[Any]) -> None:
    values = inputs_for(model((None,), dtype=dtype), {"a": (100,)})["a"].astype(float)
    assert np.isfinite(values).all()
    assert len(np.unique(values)) > 10


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_whole_numbers_are_0_and_1(dtype: str) -> None:
    values = inputs_for(model((None,), dtype=PLAIN[dtype]), {"a": (100,)})["a"]
    assert np.unique(values).tolist() == [0, 1]


def test_texts_are_numbers_too() -> None:
    assert inputs_for(model((None,), dtype=TEXT), {"a": (2,)})["a"].tolist() == [b"0", b"0"]


def test_inputs_are_the_same_each_time() -> None:
    one, other = (inputs_for(model((None,)), {"a": (9,)})["a"] for _ in range(2))
    assert one.tolist() == other.tolist()


def test_each_shape_is_run() -> None:
    runs = Runs()
    warm_up(runs, model((None, 4)), 8, True)
    assert runs.shapes == [{"a": (1, 4)}, {"a": (8, 4)}]


def test_a_declared_shape_that_fails_is_told_with_the_reason() -> None:
    info = model((None, None), warmup=((("a", (1, 7)),), (("a", (2, 7)),)))
    with pytest.raises(ModelLoadError) as caught:
        warm_up(Runs(2), info, 8, True)
    assert caught.value.message == (
        "model 'model' version 3 does not run on the shapes that its warmup declares, a [2, 7]:"
        " the rows do not suit the operator; correct model.toml or remove warmup"
    )


def test_a_declared_input_that_the_model_lacks_is_told_with_those_that_it_has() -> None:
    with pytest.raises(ModelLoadError, match=r"z \[1\]: there is no input 'z', only 'a', 'b'; correct model.toml"):
        warm_up(Runs(), model((None,), (None,), warmup=((("z", (1,)),),)), 8, True)


def test_a_declared_shape_that_no_memory_holds_is_told() -> None:
    with pytest.raises(ModelLoadError, match=r"a \[1, 4611686018427387904\]: "):
        warm_up(Runs(), model((None, None), warmup=((("a", (1, 2**62)),),)), 8, True)


def test_a_likely_shape_that_fails_is_logged_for_whoever_looks(caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs(1)
    with caplog.at_level(logging.DEBUG):
        warm_up(runs, model((None, 4)), 8, True)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "model model/3 is not warmed up with a [1, 4]: the rows do not suit the operator" in caplog.text
    assert len(runs.shapes) == 2


def warmed(folder: Path, proto: Any, **options: Any) -> None:
    session = Session.open(on_disk(folder, proto, **options), CpuDevice(), 1)
    warm_up(host_run(CpuDevice(), session.run), session.info, 4, True)


@pytest.mark.parametrize(
    "proto",
    [
        graphs.embedding(2),
        onnx_models.upper_case(),
        *(onnx_models.doubled_as_float(number) for number, dtype in DTYPES.items() if dtype in NARROW.values()),
    ],
    ids=["indices", "texts", *(name for name in NARROW)],
)
def test_made_up_inputs_suit_real_models(tmp_path: Path, proto: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        warmed(tmp_path, proto)
    assert caplog.records == []


def test_a_declared_shape_that_the_runtime_refuses_is_a_modelloaderror(tmp_path: Path) -> None:
    warmup = ((("x", (1, 4)),), (("x", (1, 5)),))
    with pytest.raises(ModelLoadError, match=r"its warmup declares, x \[1, 5\]: .*Got: 5 Expected: 4"):
        warmed(tmp_path, onnx_models.double(), warmup=warmup)

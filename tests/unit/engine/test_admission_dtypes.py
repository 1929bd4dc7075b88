"""What is let in of dtypes beyond NumPy's own: narrow floats and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndserve import byte_strings
from ndserve.codecs.base import UNNAMED
from ndserve.dtypes import NARROW, TEXT
from ndserve.engine.admission import Admitted, admit
from ndserve.engine.target import BatchDefaults, Target, model_target, process_target
from ndserve.errors import InvalidInputError
from ndserve.model_info import ModelInfo
from ndserve.processes.base import process
from ndserve.types import HostArray, TensorSpec

BFLOAT16 = NARROW["bfloat16"]
WORDS = byte_strings.of([b"a", b"b"], (2,))


@process("free", batched=True)
def free(xp: Any, x: Any) -> Any:
    return x


def model(dtype: np.dtype[Any], *axes: int | None) -> Target:
    specs = (TensorSpec("x", dtype, (None, *axes)),)
    return model_target(ModelInfo("m", "3", Path("m.onnx"), 1, specs, specs), BatchDefaults())


def let_in(target: Target, array: HostArray, *, cast: bool = False) -> Admitted:
    return admit(target, {UNNAMED: array}, {}, cast=cast)


def refusal(target: Target, array: HostArray, *, cast: bool = False) -> str:
    with pytest.raises(InvalidInputError) as caught:
        let_in(target, array, cast=cast)
    return caught.value.message


@pytest.mark.parametrize("dtype", NARROW.values(), ids=str)
def test_a_model_takes_its_own_narrow_floats(dtype: np.dtype[Any]) -> None:
    assert let_in(model(dtype, 3), np.ones((2, 3), dtype)).inputs["x"].dtype == dtype


def test_another_narrow_float_is_refused_by_both_names() -> None:
    message = refusal(model(NARROW["float8_e4m3fn"], 3), np.ones((2, 3), NARROW["float8_e4m3fnuz"]))
    assert "input 'x' is float8_e4m3fnuz, not float8_e4m3fn" in message


@pytest.mark.parametrize("dtype", NARROW.values(), ids=str)
def test_a_narrow_float_does_not_go_to_a_process(dtype: np.dtype[Any]) -> None:
    target = process_target(free, {}, BatchDefaults())
    message = refusal(target, np.ones(3, dtype))
    assert f"input 'x' is {dtype.name}: array code cannot compute with it; send float32" in message


@pytest.mark.parametrize("source", ["float32", "float64", "int64", "bool"])
def test_numbers_are_cast_to_narrow_floats(source: str) -> None:
    admitted = let_in(model(BFLOAT16, 3), np.array([[0, 1, 1]], source), cast=True)
    assert admitted.inputs["x"].dtype == BFLOAT16
    assert admitted.inputs["x"].tolist() == [[0, 1, 1]]


def test_narrow_floats_are_cast_to_wide_ones() -> None:
    admitted = let_in(model(np.dtype("float32"), 2), np.array([[1.5, 2]], BFLOAT16), cast=True)
    assert admitted.inputs["x"].tolist() == [[1.5, 2]]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_a_number_beyond_a_narrow_float_is_not_cast(name: str) -> None:
    assert "cannot hold" in refusal(model(NARROW[name], 1), np.array([[1e6]]), cast=True)


def test_narrow_floats_are_not_cast_to_integers() -> None:
    assert "cannot hold" in refusal(model(np.dtype("int32"), 1), np.ones((1, 1), BFLOAT16), cast=True)


def test_texts_go_to_a_model_that_takes_texts() -> None:
    admitted = let_in(model(TEXT), WORDS)
    assert (admitted.rows, admitted.inputs["x"].tolist()) == (2, [b"a", b"b"])


@pytest.mark.parametrize(
    ("target", "array", "message"),
    [
        (model(TEXT), np.ones(2), "input 'x' is float64, not bytes: send that dtype;"),
        (model(np.dtype("float32")), WORDS, "input 'x' is bytes, not float32: send that dtype;"),
    ],
    ids=["numbers", "texts"],
)
@pytest.mark.parametrize("cast", [False, True])
def test_texts_and_numbers_are_never_cast_into_one_another(
    target: Target, array: HostArray, message: str, cast: bool
) -> None:
    told = refusal(target, array, cast=cast)
    assert ("cannot hold" if cast else message) in told


def test_a_text_is_an_item_of_a_process() -> None:
    admitted = let_in(process_target(free, {}, BatchDefaults()), WORDS)
    assert (admitted.single, admitted.inputs["x"].tolist()) == (True, [[b"a", b"b"]])

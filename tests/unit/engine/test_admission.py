"""What is let in: names, dtypes, the batch axis and rows of arrays, by example. Parameters have a file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndserve.codecs.base import UNNAMED
from ndserve.engine.admission import Admitted, admit
from ndserve.engine.target import BatchDefaults, Target, model_target, process_target
from ndserve.errors import InvalidInputError
from ndserve.model_info import ModelInfo
from ndserve.processes.base import process
from ndserve.types import HostArray, Tensors, TensorSpec

FLOAT, INT = np.dtype("float32"), np.dtype("int64")


def model(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = ()) -> Target:
    outputs = outputs or (TensorSpec("y", FLOAT, (None, 2)),)
    return model_target(ModelInfo("m", "3", Path("m.onnx"), 1, inputs, outputs), BatchDefaults())


def one_input(dtype: Any = "float32", axes: tuple[int | None, ...] = (None, 3)) -> Target:
    return model(TensorSpec("x", np.dtype(dtype), axes))


TWO = model(TensorSpec("a", FLOAT, (None, 3)), TensorSpec("b", INT, (None, 2)))


@process("free", batched=True)
def free(xp: Any, x: Any, y: Any) -> Any:
    return x


@process("whole", batched=False)
def whole(xp: Any, x: Any) -> Any:
    return x


def let_in(target: Target, inputs: Tensors | HostArray, *, cast: bool = False) -> Admitted:
    return admit(target, {UNNAMED: inputs} if isinstance(inputs, np.ndarray) else inputs, {}, cast=cast)


def refusal(target: Target, inputs: Tensors | HostArray, *, cast: bool = False) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        let_in(target, inputs, cast=cast)
    return caught.value


def floats(*shape: int) -> HostArray:
    return np.zeros(shape, np.float32)


# names


def test_an_unnamed_array_goes_to_the_only_input() -> None:
    assert list(let_in(one_input(), floats(3)).inputs) == ["x"]


def test_an_unnamed_array_is_refused_where_there_are_several_inputs() -> None:
    assert "name the inputs" in refusal(TWO, floats(3)).message


def test_missing_and_surplus_inputs_are_listed() -> None:
    message = refusal(TWO, {"a": floats(3), "c": floats(1), "d": floats(1)}).message
    assert "missing inputs: b;" in message
    assert "surplus inputs: c, d;" in message


def test_a_surplus_input_alone_is_refused() -> None:
    message = refusal(one_input(), {"x": floats(3), "z": floats(3)}).message
    assert "missing inputs: none; surplus inputs: z;" in message


def test_a_missing_input_alone_is_refused() -> None:
    assert "missing inputs: b; surplus inputs: none;" in refusal(TWO, {"a": floats(3)}).message


def test_a_refusal_carries_the_expected_specs() -> None:
    error = refusal(TWO, {"a": floats(3)})
    assert error.details["expected"] == ["a: float32[?, 3]", "b: int64[?, 2]"]
    assert "a: float32[?, 3], b: int64[?, 2]" in error.message


def test_the_order_in_which_inputs_come_makes_no_other_batch() -> None:
    a, b = floats(3), np.zeros(2, np.int64)
    assert let_in(TWO, {"a": a, "b": b}).key == let_in(TWO, {"b": b, "a": a}).key


# dtypes


def test_another_dtype_is_refused_with_a_hint() -> None:
    message = refusal(one_input(), np.zeros(3, np.float64)).message
    assert "input 'x' is float64, not float32" in message
    assert "?cast=true" in message


def test_a_cast_brings_the_native_byte_order() -> None:
    array = let_in(one_input(), np.arange(3, dtype=">f4"), cast=True).inputs["x"]
    assert array.dtype.isnative
    assert array.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1.5, 0.1], "float32"),
        ([np.nan, np.inf, -np.inf], "float32"),
        ([1, 2], "float32"),
        ([2**53 + 1, 3], "float32"),  # rounding is allowed
        ([True, False], "int64"),
        ([127, -128], "int8"),
        ([1.5, 2.5], "complex64"),
        (np.array([255, 1], np.uint8), "int16"),
    ],
)
def test_a_safe_cast_keeps_the_values_within_rounding(values: Any, wanted: str) -> None:
    given = np.asarray(values)
    admitted = let_in(one_input(wanted, (None, len(given))), given, cast=True)
    assert admitted.inputs["x"].dtype == wanted
    np.testing.assert_allclose(admitted.inputs["x"][0], given, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1.5, 2.0], "int64"),  # floats to integers
        ([1 + 1j, 0], "float32"),  # complex to real
        ([128, 0], "int8"),  # an integer that wraps
        (np.array([2**63, 0], np.uint64), "int64"),
        ([1e300, 0.0], "float32"),  # a float that becomes infinite
        ([1e300, np.inf], "float32"),
        ([70_000, 0], "float16"),  # an integer that becomes infinite
        ([1e300 + 0j, 0], "complex64"),
        ([2, 0], "bool"),
    ],
)
def test_a_cast_that_changes_a_value_is_refused(values: Any, wanted: str) -> None:
    error = refusal(one_input(wanted, (None, 2)), np.asarray(values), cast=True)
    assert f"values that {wanted} cannot hold" in error.message


def test_an_input_without_a_dtype_takes_every_dtype_and_keeps_them_apart() -> None:
    target = model(TensorSpec("x", None, (None, 3)))
    first, second = let_in(target, floats(3)), let_in(target, np.zeros(3, np.int8))
    assert second.inputs["x"].dtype == np.int8
    assert first.key != second.key


# the batch axis


def test_an_array_of_one_axis_less_is_one_item_and_gets_the_axis() -> None:
    admitted = let_in(one_input(), floats(3))
    assert (admitted.inputs["x"].shape, admitted.rows, admitted.single) == ((1, 3), 1, True)


def test_an_array_with_the_batch_axis_is_taken_as_it_is() -> None:
    array = floats(5, 3)
    admitted = let_in(one_input(), array)
    assert (admitted.rows, admitted.single) == (5, False)
    assert admitted.inputs["x"] is array


def test_a_batch_of_one_is_not_an_item() -> None:
    assert not let_in(one_input(), floats(1, 3)).single


def test_a_batch_and_its_items_may_share_a_batch() -> None:
    assert let_in(one_input(), floats(3)).key == let_in(one_input(), floats(5, 3)).key


def test_an_item_beside_a_batch_is_refused() -> None:
    message = refusal(TWO, {"a": floats(4, 3), "b": np.zeros(2, np.int64)}).message
    assert "input 'b' has shape [2], which is neither a batch nor one item of it" in message


@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (1, 2, 3)])
def test_an_array_that_is_neither_item_nor_batch_is_refused_by_its_own_shape(shape: tuple[int, ...]) -> None:
    assert f"has shape {list(shape)}, which is neither" in refusal(one_input(), floats(*shape)).message


def test_a_free_axis_takes_every_length_and_keeps_them_apart() -> None:
    target = one_input(axes=(None, None, 3))
    first, second = let_in(target, floats(7, 3)), let_in(target, floats(8, 3))
    assert first.inputs["x"].shape == (1, 7, 3)
    assert first.key != second.key


def test_an_item_without_axes_fits_where_only_the_batch_axis_is_expected() -> None:
    admitted = let_in(one_input(axes=(None,)), floats())
    assert (admitted.inputs["x"].shape, admitted.single) == ((1,), True)


@pytest.mark.parametrize("shape", [(), (3,), (5, 3)])
def test_every_array_for_a_batched_process_without_shapes_is_one_item(shape: tuple[int, ...]) -> None:
    target = process_target(free, {}, BatchDefaults())
    admitted = let_in(target, {"x": floats(*shape), "y": floats(2)})
    assert admitted.inputs["x"].shape == (1, *shape)
    assert (admitted.rows, admitted.single) == (1, True)


def test_an_unbatched_process_gets_arrays_as_they_are() -> None:
    array = floats(5, 3)
    admitted = let_in(process_target(whole, {}, BatchDefaults()), array)
    assert admitted.inputs["x"] is array
    assert (admitted.rows, admitted.single) == (1, False)


def test_an_unbatched_process_takes_an_array_without_axes() -> None:
    assert let_in(process_target(whole, {}, BatchDefaults()), floats()).inputs["x"].shape == ()


def test_a_model_without_a_batch_axis_gets_arrays_as_they_are() -> None:
    target = model(TensorSpec("x", FLOAT, (5, 3)), outputs=(TensorSpec("y", FLOAT, (5,)),))
    admitted = let_in(target, floats(5, 3))
    assert (admitted.rows, admitted.single) == (1, False)


def test_a_model_without_a_batch_axis_refuses_an_array_without_its_first_axis() -> None:
    target = model(TensorSpec("x", FLOAT, (5, 3)), outputs=(TensorSpec("y", FLOAT, (5,)),))
    assert "has shape [3], which does not fit" in refusal(target, floats(3)).message


def test_a_model_whose_first_axis_is_one_takes_an_item() -> None:
    target = model(TensorSpec("x", FLOAT, (1, 3)), outputs=(TensorSpec("y", FLOAT, (1, 2)),))
    assert let_in(target, floats(3)).single
    refusal(target, floats(2, 3))


# rows


def test_inputs_of_different_lengths_are_refused() -> None:
    message = refusal(TWO, {"a": floats(4, 3), "b": np.zeros((5, 2), np.int64)}).message
    assert "different lengths along axis 0: {'a': 4, 'b': 5}" in message


def test_no_rows_at_all_are_let_in() -> None:
    admitted = let_in(one_input(), floats(0, 3))
    assert (admitted.rows, admitted.inputs["x"].shape) == (0, (0, 3))


# the key


def test_the_key_names_the_target_and_its_version() -> None:
    key = let_in(one_input(), floats(3)).key
    assert (key.target, key.version) == ("m", "3")


def test_arrays_that_cannot_be_laid_end_to_end_have_different_keys() -> None:
    target = process_target(free, {}, BatchDefaults())
    keys = {let_in(target, {"x": x, "y": floats(1)}).key for x in (floats(3), floats(4), np.zeros(3), floats(3, 1))}
    assert len(keys) == 4

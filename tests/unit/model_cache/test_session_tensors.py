"""Every tensor that onnxruntime runs: narrow floats, texts, no axes, no elements, many inputs, outputs left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ndserve import byte_strings
from ndserve.dtypes import carried, carrier, is_narrow, uncarried
from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk.onnx_file import DTYPES
from ndserve.model_cache.session import Session
from ndserve.types import HostArray, Tensors
from tests import onnx_models
from tests.onnx_alone import alone, assert_same, values
from tests.unit.model_cache.graphs import open_model

NARROW = {number: dtype for number, dtype in DTYPES.items() if is_narrow(dtype)}
LONG = b"x" * 100_000

every_type = pytest.mark.parametrize("elem_type", DTYPES, ids=lambda number: TensorProto.DataType.Name(number).lower())
every_narrow_type = pytest.mark.parametrize("elem_type", NARROW, ids=lambda number: NARROW[number].name)


def run(session: Session, inputs: Tensors) -> dict[str, HostArray]:
    """The outputs, with the bits of narrow floats on the way in and out."""
    outputs = session.run({name: carried(array) for name, array in inputs.items()})
    return {spec.name: uncarried(outputs[spec.name], spec.dtype) for spec in session.info.outputs}


def assert_as_alone(folder: Path, proto: Any, **inputs: HostArray) -> None:
    assert_same(run(open_model(folder, proto), inputs), alone(proto, inputs))


def texts(*elements: bytes) -> HostArray:
    return byte_strings.of(elements, (len(elements),))


@every_type
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 3), (2, 0, 3)], ids=str)
def test_every_type_goes_through_in_every_shape(tmp_path: Path, elem_type: int, shape: tuple[int, ...]) -> None:
    axes = [f"axis {number}" for number in range(len(shape))]
    assert_as_alone(tmp_path, onnx_models.identity(elem_type, axes), x=values(DTYPES[elem_type], *shape))


@every_narrow_type
def test_narrow_floats_are_computed_with(tmp_path: Path, elem_type: int) -> None:
    x = values(NARROW[elem_type], 2, 3)
    proto = onnx_models.doubled_as_float(elem_type)
    assert_as_alone(tmp_path, proto, x=x)
    assert run(open_model(tmp_path, proto, "again"), {"x": x})["y"].astype(float).max() > 0


@every_narrow_type
def test_every_bit_pattern_of_a_narrow_float_is_kept(tmp_path: Path, elem_type: int) -> None:
    bits = np.arange(1 << 8 * NARROW[elem_type].itemsize, dtype=carrier(NARROW[elem_type]))
    session = open_model(tmp_path, onnx_models.identity(elem_type, ["n"]))
    np.testing.assert_array_equal(session.run({"x": bits})["y"], bits)


@every_narrow_type
def test_a_narrow_input_does_not_take_other_numbers(tmp_path: Path, elem_type: int) -> None:
    session = open_model(tmp_path, onnx_models.identity(elem_type))
    with pytest.raises(RuntimeError, match=r"input 'x' has dtype float32, which .* the input does not take"):
        session.run({"x": np.zeros((2, 3), np.float32)})


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_a_model_takes_up_to_thirty_inputs(tmp_path: Path, count: int) -> None:
    inputs = {f"x{number}": np.full((2, 3), number, np.float32) for number in range(count)}
    assert_as_alone(tmp_path, onnx_models.sum_of(count), **inputs)


@pytest.mark.parametrize("count", [2, 30])
def test_many_inputs_may_all_be_empty(tmp_path: Path, count: int) -> None:
    inputs = {f"x{number}": np.zeros((0, 3), np.float32) for number in range(count)}
    assert_as_alone(tmp_path, onnx_models.sum_of(count), **inputs)


def test_an_empty_part_of_another_input_is_told_from_it(tmp_path: Path) -> None:
    whole = np.ones((2, 3), np.float32)
    proto = onnx_models.sum_of(2, ["n", "m"])
    assert_as_alone(tmp_path, proto, x0=whole[:0], x1=whole[:0])


def test_many_inputs_may_have_no_axes(tmp_path: Path) -> None:
    inputs = {f"x{number}": np.array(number, np.float32) for number in range(7)}
    assert_as_alone(tmp_path, onnx_models.sum_of(7, []), **inputs)


@pytest.mark.parametrize("mask", [False, True])
def test_an_output_that_an_operator_may_leave_out_is_given_where_the_graph_has_it(tmp_path: Path, mask: bool) -> None:
    session = open_model(tmp_path, onnx_models.dropout(mask=mask))
    outputs = session.run({"x": values(np.dtype(np.float32), 2, 3)})
    assert list(outputs) == (["y", "mask"] if mask else ["y"])
    assert_same(outputs, alone(onnx_models.dropout(mask=mask), {"x": values(np.dtype(np.float32), 2, 3)}))


def test_an_output_has_the_rank_that_it_has_not_the_one_that_the_file_declares(tmp_path: Path) -> None:
    proto = onnx_models.identity(TensorProto.FLOAT)
    proto.graph.output[0].type.tensor_type.shape.dim.add(dim_value=1)
    assert run(open_model(tmp_path, proto), {"x": values(np.dtype(np.float32), 2, 3)})["y"].shape == (2, 3)


def test_a_default_that_callers_could_override_is_not_asked_of_them(tmp_path: Path) -> None:
    proto = onnx_models.double(["n", 3])
    proto.graph.input.append(onnx_models.tensor("two", []))
    session = open_model(tmp_path, proto)
    assert [spec.name for spec in session.info.inputs] == ["x"]
    x = values(np.dtype(np.float32), 2, 3)
    assert_same(session.run({"x": x}), alone(proto, {"x": x}))


# texts


@pytest.mark.parametrize(
    "elements",
    [(b"",), (b"\0",), (b"a\0b", b"", b"ab\0"), (LONG, b"short"), ("日本 é \U0001f600".encode(), b"plain")],
    ids=["empty", "nul", "nuls within", "long", "unicode"],
)
def test_texts_of_any_length_and_content_come_back(tmp_path: Path, elements: tuple[bytes, ...]) -> None:
    session = open_model(tmp_path, onnx_models.identity(TensorProto.STRING, ["n"]))
    assert session.run({"x": texts(*elements)})["y"].tolist() == list(elements)


def test_texts_are_computed_with(tmp_path: Path) -> None:
    proto = onnx_models.upper_case()
    assert_as_alone(tmp_path, proto, x=texts(b"one", b"two"))
    assert run(open_model(tmp_path, proto, "again"), {"x": texts(b"one")})["y"].tolist() == [b"ONE"]


def test_texts_become_numbers(tmp_path: Path) -> None:
    assert_as_alone(tmp_path, onnx_models.numbers_of_words(one=1, two=2), x=texts(b"two", b"three", b"one"))


@pytest.mark.parametrize("numbers", [[1, 0, 1], []], ids=["some", "none"])
def test_numbers_become_texts(tmp_path: Path, numbers: list[int]) -> None:
    proto = onnx_models.words_of_numbers("zero", "one")
    assert_as_alone(tmp_path, proto, x=np.array(numbers, np.int64))


def test_texts_go_beside_narrow_floats(tmp_path: Path) -> None:
    narrow = values(DTYPES[TensorProto.BFLOAT16], 8)[::2]
    assert_as_alone(tmp_path, onnx_models.texts_and_narrow(), x=texts(b"a"), b=narrow)


def test_texts_beside_narrow_outputs_are_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"takes texts and gives c: bfloat16\[\?\]"):
        open_model(tmp_path, onnx_models.texts_and_narrow(gives=TensorProto.BFLOAT16))


def test_a_text_that_is_not_utf_8_is_refused_by_the_names_of_input_and_element(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.identity(TensorProto.STRING, ["n"]))
    with pytest.raises(RuntimeError, match=r"^input 'x': element 1 is not UTF-8, as ONNX strings are$"):
        session.run({"x": texts(b"good", b"\xff", b"good")})


def test_objects_that_are_no_bytes_are_refused_by_name(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.identity(TensorProto.STRING, ["n"]))
    with pytest.raises(RuntimeError, match="input 'x' holds something else than bytes"):
        session.run({"x": np.array([{}], object)})


@pytest.mark.parametrize("inputs", [{}, {"z": texts(b"a")}, {"x": np.ones(2)}], ids=["none", "name", "dtype"])
def test_wrong_inputs_of_a_model_of_texts_are_a_runtimeerror(tmp_path: Path, inputs: dict[str, HostArray]) -> None:
    session = open_model(tmp_path, onnx_models.identity(TensorProto.STRING, ["n"]))
    with pytest.raises(RuntimeError):
        session.run(inputs)
    assert session.run({"x": texts(b"a")})["y"].tolist() == [b"a"]


def test_texts_do_not_go_to_an_input_of_numbers(tmp_path: Path) -> None:
    session = open_model(tmp_path, onnx_models.double(["n"]))
    with pytest.raises(RuntimeError, match="input 'x' has dtype object"):
        session.run({"x": texts(b"1")})

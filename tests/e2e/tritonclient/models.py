"""The models that Triton's clients are tried on: one for each thing that a client can send or ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper

from tests.onnx_models import Axes, double, identity, minus_batch_mean, model, save, tensor


class Kind(NamedTuple):
    """One datatype: what NumPy and ONNX call it, and a row of its extremes."""

    dtype: Any
    elem_type: int
    row: Sequence[Any]


def _integers(dtype: Any, elem_type: int) -> Kind:
    return Kind(dtype, elem_type, [np.iinfo(dtype).min, np.iinfo(dtype).max, 1])


def _floats(dtype: Any, elem_type: int) -> Kind:
    return Kind(dtype, elem_type, [np.finfo(dtype).min, np.finfo(dtype).tiny, -0.1])


KINDS = {
    "BOOL": Kind(np.bool_, TensorProto.BOOL, [True, False, True]),
    "INT8": _integers(np.int8, TensorProto.INT8),
    "INT16": _integers(np.int16, TensorProto.INT16),
    "INT32": _integers(np.int32, TensorProto.INT32),
    "INT64": _integers(np.int64, TensorProto.INT64),
    "UINT8": _integers(np.uint8, TensorProto.UINT8),
    "UINT16": _integers(np.uint16, TensorProto.UINT16),
    "UINT32": _integers(np.uint32, TensorProto.UINT32),
    "UINT64": _integers(np.uint64, TensorProto.UINT64),
    "FP16": _floats(np.float16, TensorProto.FLOAT16),
    "FP32": _floats(np.float32, TensorProto.FLOAT),
    "FP64": _floats(np.float64, TensorProto.DOUBLE),
}
"""Datatype -> what it is."""

PAIRS = 5


def write_models(folder: Path) -> None:
    """All of them, as a model repository."""
    save(double(), folder, "double", options="max_batch_size = 8\n")
    save(times(2), folder, "versioned", 1)
    save(times(3), folder, "versioned", 2)
    save(minus_batch_mean(), folder, "unbatched")
    save(same(("batch", 6)), folder, "scores")
    save(same(("batch", 4), TensorProto.INT32), folder, "counts")
    save(double([5]), folder, "fixed")
    save(double([]), folder, "scalar")
    save(two_kinds(), folder, "two_kinds")
    save(ten_to_five(), folder, "ten_to_five")
    for datatype, kind in KINDS.items():
        save(same(("batch", 3), kind.elem_type), folder, f"same_{datatype.lower()}")
    for name, elem_type in (("texts", TensorProto.STRING), ("bf16", TensorProto.BFLOAT16)):
        save(identity(elem_type), folder, f"same_{name}")
    broken = folder / "broken" / "1" / "model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no model at all")


def times(factor: float, axes: Axes = ("batch", 4)) -> Any:
    """The model y = factor * x."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    return model([node], [tensor("x", axes)], [tensor("y", axes)], factor=np.array(factor, np.float32))


def same(axes: Axes, elem_type: int = TensorProto.FLOAT) -> Any:
    """The model y = x."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [tensor("x", axes, elem_type)], [tensor("y", axes, elem_type)])


def two_kinds() -> Any:
    """Two inputs and two outputs, each of another datatype: doubled = 2 * a, and next = b + 1."""
    nodes = [helper.make_node("Add", ["a", "a"], ["doubled"]), helper.make_node("Add", ["b", "one"], ["next"])]
    inputs = [tensor("a", ["n", 3]), tensor("b", ["n", 2], TensorProto.INT64)]
    outputs = [tensor("doubled", ["n", 3]), tensor("next", ["n", 2], TensorProto.INT64)]
    return model(nodes, inputs, outputs, one=np.array(1, np.int64))


def ten_to_five() -> Any:
    """Ten inputs and five outputs: out0 = in0 + in1, out1 = in2 + in3, and so on."""
    nodes = [helper.make_node("Add", [f"in{2 * i}", f"in{2 * i + 1}"], [f"out{i}"]) for i in range(PAIRS)]
    inputs = [tensor(f"in{i}", ["batch", 2]) for i in range(2 * PAIRS)]
    return model(nodes, inputs, [tensor(f"out{i}", ["batch", 2]) for i in range(PAIRS)])

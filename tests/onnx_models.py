"""Small ONNX models for the tests, made with onnx's own helpers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Axes = Sequence[int | str | None]


def tensor(name: str, axes: Axes | None, elem_type: int = TensorProto.FLOAT) -> Any:
    """A ValueInfoProto; names and None are free axes, and `axes` None leaves the shape unknown."""
    return helper.make_tensor_value_info(name, elem_type, axes)


def model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **weights: np.ndarray[Any, Any]) -> Any:
    """A checked ModelProto of these nodes; keyword arguments are weights by name."""
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto


def save(proto: Any, folder: Path, name: str, version: int = 1, options: str = "") -> Path:
    """Write `<folder>/<name>/<version>/model.onnx`, and a model.toml where `options` is given; gives the file."""
    path = folder / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(proto.SerializeToString())
    if options:
        (folder / name / "model.toml").write_text(options)
    return path


def double(axes: Axes = ("batch", 4)) -> Any:
    """The model y = 2x, row by row: safe to batch."""
    node = helper.make_node("Mul", ["x", "two"], ["y"])
    return model([node], [tensor("x", axes)], [tensor("y", axes)], two=np.array(2, np.float32))


def add() -> Any:
    """The model sum = a + b, rows of three: two inputs."""
    node = helper.make_node("Add", ["a", "b"], ["sum"])
    return model([node], [tensor("a", ["n", 3]), tensor("b", ["n", 3])], [tensor("sum", ["n", 3])])


def minus_batch_mean() -> Any:
    """The model y = x less its mean over axis 0, as batch normalisation in training does: not safe to batch."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return model(nodes, [tensor("x", ["batch", 4])], [tensor("y", ["batch", 4])])

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
    return _model(nodes, inputs, outputs, 17, **weights)


def _model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], opset: int, **weights: Any) -> Any:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", opset)]
    if any(node.domain for node in nodes):
        opsets.append(helper.make_opsetid("ai.onnx.ml", 3))
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 19 else 9)
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


def with_external_weights(*locations: str) -> Any:
    """The model `double` with weights of two numbers each besides, which lie in these files."""
    proto = double()
    for number, location in enumerate(locations):
        weight = proto.graph.initializer.add(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[2])
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
    return proto


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


def identity(elem_type: int, axes: Axes = ("n", 3)) -> Any:
    """The model y = x for any element type."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return _model([node], [tensor("x", axes, elem_type)], [tensor("y", axes, elem_type)], 19)


def doubled_as_float(elem_type: int, axes: Axes = ("n", 3)) -> Any:
    """The model y = 2x by way of float32, for the floats with which onnxruntime does not compute on the CPU."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["wide", "wide"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=elem_type),
    ]
    return _model(nodes, [tensor("x", axes, elem_type)], [tensor("y", axes, elem_type)], 19)


def sum_of(count: int, axes: Axes = ("n", 3)) -> Any:
    """The model of `count` inputs x0, x1, ... and two outputs: their sum, and the last one."""
    names = [f"x{number}" for number in range(count)]
    nodes = [helper.make_node("Sum", names, ["sum"]), helper.make_node("Identity", names[-1:], ["last"])]
    return model(nodes, [tensor(name, axes) for name in names], [tensor("sum", axes), tensor("last", axes)])


def dropout(*, mask: bool) -> Any:
    """The model y = x by an operator whose second output, a mask of bools, may be left out."""
    outputs = [tensor("y", ["n", 3]), tensor("mask", ["n", 3], TensorProto.BOOL)][: 1 + mask]
    node = helper.make_node("Dropout", ["x"], [value.name for value in outputs])
    return model([node], [tensor("x", ["n", 3])], outputs)


def upper_case() -> Any:
    """Gives texts in capitals. The locale is one that every machine has."""
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="UPPER", locale="C")
    axes = ["n"]
    return model([node], [tensor("x", axes, TensorProto.STRING)], [tensor("y", axes, TensorProto.STRING)])


def numbers_of_words(**numbers: int) -> Any:
    """Gives the number of each word, and -1 for others."""
    keys, values = list(numbers), list(numbers.values())
    node = helper.make_node(
        "LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_strings=keys, values_int64s=values, default_int64=-1
    )
    return model([node], [tensor("x", ["n"], TensorProto.STRING)], [tensor("y", ["n"], TensorProto.INT64)])


def words_of_numbers(*words: str) -> Any:
    """Gives the word of each number from 0 on."""
    node = helper.make_node(
        "LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", keys_int64s=range(len(words)), values_strings=words
    )
    return model([node], [tensor("x", ["n"], TensorProto.INT64)], [tensor("y", ["n"], TensorProto.STRING)])


def texts_and_narrow(*, gives: int = TensorProto.FLOAT) -> Any:
    """Gives texts as they are, beside bfloat16 as another type."""
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Cast", ["b"], ["c"], to=gives)]
    inputs = [tensor("x", ["n"], TensorProto.STRING), tensor("b", ["n"], TensorProto.BFLOAT16)]
    return _model(nodes, inputs, [tensor("y", ["n"], TensorProto.STRING), tensor("c", ["n"], gives)], 19)

"""ONNX models whose behaviour when stacked is known, and a way to open any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from ndserve.devices.cpu import CpuDevice
from ndserve.model_cache.disk.onnx_file import read_signature
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo
from tests.onnx_models import Axes, model, save, tensor

ROWS = ("batch", 4)
ONES = np.ones(4, np.float32)

node = helper.make_node


def open_model(folder: Path, proto: Any, name: str = "model") -> Session:
    """The model as a session on the CPU."""
    path = save(proto, folder, name)
    signature = read_signature(path)
    info = ModelInfo(name, "1", path, path.stat().st_size, signature.inputs, signature.outputs)
    return Session.open(info, CpuDevice(), 1)


def graph(*nodes: Any, x: Axes = ROWS, y: Axes = ROWS, dtypes: tuple[int, int] = (1, 1), **weights: Any) -> Any:
    """A model from `x` to `y`; `dtypes` are their ONNX element types."""
    return model(nodes, [tensor("x", x, dtypes[0])], [tensor("y", y, dtypes[1])], **weights)


def less_batch_mean(*before: Any, x: Axes = ROWS, **weights: Any) -> Any:
    """Gives v less its mean over axis 0, where the nodes `before` make v of x: not safe to batch."""
    mean = node("ReduceMean", ["v"], ["mean"], axes=[0], keepdims=1)
    return graph(*before, mean, node("Sub", ["v", "mean"], ["y"]), x=x, y=x, **weights)


def dense(dtype: type[np.generic], elem_type: int) -> Any:
    """Gives relu(x w + b) with weights that never change."""
    generator = np.random.default_rng(1)
    weights = {"w": generator.standard_normal((64, 32)).astype(dtype), "b": generator.standard_normal(32).astype(dtype)}
    nodes = [node("MatMul", ["x", "w"], ["xw"]), node("Add", ["xw", "b"], ["z"]), node("Relu", ["z"], ["y"])]
    return graph(*nodes, x=["n", 64], y=["n", 32], dtypes=(elem_type, elem_type), **weights)


def embedding(rows: int, width: int | None = 5) -> Any:
    """Gives table[x] for ids x."""
    table = np.random.default_rng(1).standard_normal((rows, 3)).astype(np.float32)
    lookup = node("Gather", ["table", "x"], ["y"])
    return graph(lookup, x=["n", width], y=["n", width, 3], dtypes=(TensorProto.INT64, TensorProto.FLOAT), table=table)


def threshold(least: float) -> Any:
    """Gives relu(x - least): zeros where values are smaller."""
    return graph(node("Sub", ["x", "least"], ["v"]), node("Relu", ["v"], ["y"]), least=np.float32(least))


def batch_norm(*, training: bool) -> Any:
    outputs = ["y", "mean_out", "var_out"] if training else ["y"]
    normalize = node("BatchNormalization", ["x", "scale", "bias", "mean", "var"], outputs, training_mode=int(training))
    return graph(normalize, scale=ONES, bias=ONES, mean=ONES, var=ONES)


def of_unknown_shape() -> Any:
    """Gives relu(x); the exporter did not know its shape."""
    proto = graph(node("Relu", ["x"], ["y"]))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


def point_cloud() -> Any:
    """Each point less the largest of all points; axis 0 is points."""
    return graph(node("ReduceMax", ["x"], ["top"], axes=[0], keepdims=1), node("Sub", ["x", "top"], ["y"]))


def global_feature() -> Any:
    """One row for a whole cloud of points."""
    return graph(node("ReduceMax", ["x"], ["y"], axes=[0], keepdims=1))


def gru(x: Axes, state: Axes, layers: int = 1) -> Any:
    """A recurrent layer, its state given and returned: state and y_h are [layers, batch, hidden]."""
    hidden, features = 128, 2
    generator = np.random.default_rng(1)
    weights: dict[str, Any] = {
        "w": generator.standard_normal((layers, 3 * hidden, features)).astype(np.float32),
        "r": generator.standard_normal((layers, 3 * hidden, hidden)).astype(np.float32) / hidden,
    }
    direction = "bidirectional" if layers == 2 else "forward"
    layer = node("GRU", ["x", "w", "r", "", "", "state"], ["", "y"], hidden_size=hidden, direction=direction)
    return model([layer], [tensor("x", x), tensor("state", state)], [tensor("y", state)], **weights)


def audio_gate() -> Any:
    """A voice detector's shapes: samples [batch, n], a state [2, batch, 128] and a scalar rate."""
    nodes = [
        node("Mul", ["x", "rate"], ["y"]),
        node("Identity", ["state"], ["next"]),
    ]
    state: Axes = [2, "batch", 128]
    inputs = [tensor("x", ["batch", "n"]), tensor("state", state), tensor("rate", [])]
    return model(nodes, inputs, [tensor("y", ["batch", "n"]), tensor("next", state)])


def scaled_by_rate() -> Any:
    """Gives x times rate, with a scalar rate."""
    inputs = [tensor("x", ROWS), tensor("rate", [])]
    return model([node("Mul", ["x", "rate"], ["y"])], inputs, [tensor("y", ROWS)])


def one_row_only() -> Any:
    """Gives x as one row of four: fails for two rows."""
    return graph(node("Reshape", ["x", "shape"], ["y"]), shape=np.array([1, 4]))


def passed_through() -> Any:
    """The input is the output: onnxruntime hands the same memory back."""
    x = tensor("x", ["n", 3])
    return helper.make_model(
        helper.make_graph([], "graph", [x], [x]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )

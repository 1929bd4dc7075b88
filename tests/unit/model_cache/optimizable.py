"""Models that onnxruntime turns into others when it optimises them, each in its own way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ndserve.model_cache.disk.onnx_file import read_signature
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.types import HostArray
from tests import onnx_models
from tests.onnx_models import tensor
from tests.unit.model_cache import graphs
from tests.unit.model_cache.graphs import graph, node

Axes = onnx_models.Axes


def weights(*shape: int) -> HostArray:
    return (np.random.default_rng(1).standard_normal(shape) / 8).astype(np.float32)


def convolutions() -> Any:
    """Two layers whose normalisation is folded into them, and whose weights are laid out for the processor."""
    nodes: list[Any] = []
    arrays: dict[str, Any] = {}
    x = "x"
    for layer, channels in enumerate((3, 32)):
        arrays |= {f"w{layer}": weights(32, channels, 3, 3)}
        arrays |= {f"{name}{layer}": np.abs(weights(32)) + 1 for name in ("scale", "bias", "mean", "var")}
        norm = [f"c{layer}", *(f"{name}{layer}" for name in ("scale", "bias", "mean", "var"))]
        nodes += [
            node("Conv", [x, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]),
            node("BatchNormalization", norm, [f"n{layer}"]),
            node("Relu", [f"n{layer}"], [f"r{layer}"]),
        ]
        x = f"r{layer}"
    axes: Axes = ["n", 3, 8, 8]
    return graph(*nodes, node("GlobalAveragePool", [x], ["y"]), x=axes, y=["n", 32, 1, 1], **arrays)


def choice() -> Any:
    """Two branches, each with weights of its own and with one from outside."""

    def branch(name: str, sign: float) -> Any:
        nodes = [node("Mul", ["scaled", f"{name}_w"], [f"{name}_m"]), node("Add", [f"{name}_m", "b"], [name])]
        own = [onnx.numpy_helper.from_array(sign * weights(600), f"{name}_w")]
        return helper.make_graph(nodes, name, [], [tensor(name, ["n", 600])], own)

    nodes = [
        node("Mul", ["x", "one"], ["scaled"]),
        node("ReduceSum", ["x"], ["total"], keepdims=0),
        node("Greater", ["total", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], then_branch=branch("yes", 1), else_branch=branch("no", -1)),
    ]
    return graph(*nodes, x=["n", 600], y=["n", 600], one=np.float32(1), zero=np.float32(0), b=weights(600))


def quantized() -> Any:
    """A product of quantised numbers, written as onnxruntime's tools write it."""
    scale, zero = np.float32(0.05), np.uint8(128)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        node("MatMul", ["xd", "wd"], ["m"]),
        node("QuantizeLinear", ["m", "s", "z"], ["mq"]),
        node("DequantizeLinear", ["mq", "s", "z"], ["y"]),
    ]
    wq = np.random.default_rng(1).integers(0, 255, (64, 32)).astype(np.uint8)
    return graph(*nodes, x=["n", 64], y=["n", 32], s=scale, z=zero, wq=wq)


MODELS: dict[str, Callable[[], Any]] = {
    "float32": lambda: graphs.dense(np.float32, TensorProto.FLOAT),
    "float16": lambda: graphs.dense(np.float16, TensorProto.FLOAT16),
    "bfloat16": lambda: onnx_models.doubled_as_float(TensorProto.BFLOAT16),
    "convolutions": convolutions,
    "recurrent": lambda: graphs.gru(["t", "n", 2], [1, "n", 128]),
    "choice": choice,
    "quantized": quantized,
    "texts": onnx_models.upper_case,
    "table": lambda: graphs.embedding(500),
}


def on_disk(folder: Path, proto: Any, *, outside: int | None = None, **options: Any) -> ModelInfo:
    """The model in that folder; its weights of `outside` bytes and more lie in a file beside it."""
    path = onnx_models.save(proto, folder, "model")
    if outside is not None:
        onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=outside)
    external = tuple(path.parent.glob("weights.bin"))  # none where no weights are so large
    signature = read_signature(path)
    nbytes = sum(each.stat().st_size for each in (path, *external))
    return ModelInfo(
        "model", "1", path, nbytes, signature.inputs, signature.outputs, ModelOptions(**options), external=external
    )

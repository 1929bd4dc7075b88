"""What the protocol tells of the server and its models: metadata, configuration, statistics.

Configuration is Triton's (https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto),
as far as it means something here; perf_analyzer reads some of its keys, and all of the statistics', without a check.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ndserve import __version__
from ndserve.codecs.open_inference.datatypes import DATATYPES
from ndserve.engine.statistics import Statistics
from ndserve.engine.target import Target
from ndserve.types import TensorSpec

EXTENSIONS = (
    *("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters", "statistics"),
)
"""Of Triton's extensions those that work here; clients look for them."""


def server_metadata() -> dict[str, Any]:
    return {"name": "ndserve", "version": __version__, "extensions": list(EXTENSIONS)}


def version_of(target: Target) -> str:
    """A target's version for the protocol, which has no models without: a process has version 1."""
    return target.version or "1"


def model_metadata(target: Target, versions: list[str]) -> dict[str, Any]:
    """The tensors with their batch axis, where they have one. The outputs of a process are not known before it runs."""
    return {
        "name": target.name,
        "versions": versions,
        "platform": _platform(target),
        "inputs": [{"name": spec.name, "datatype": datatype(spec), "shape": shape(spec)} for spec in target.inputs],
        "outputs": [{"name": spec.name, "datatype": datatype(spec), "shape": shape(spec)} for spec in target.outputs],
    }


def model_config(target: Target, device: str) -> dict[str, Any]:
    """The configuration, whose dimensions leave the batch axis out where `max_batch_size` is above 0."""
    batched = target.has_batch
    on_gpu, index = device != "cpu", device.partition(":")[2]
    instance = {"name": f"{target.name}_0", "count": 1, "kind": "KIND_GPU" if on_gpu else "KIND_CPU"}
    config: dict[str, Any] = {
        "name": target.name,
        "platform": _platform(target),
        "backend": "onnxruntime" if target.kind == "model" else "python",
        "version_policy": {"all": {}},
        "max_batch_size": target.max_batch_size if batched else 0,
        "input": [
            {**_config_tensor(spec, batched=batched), "optional": False, "format": "FORMAT_NONE"}
            for spec in target.inputs
        ],
        "output": [_config_tensor(spec, batched=batched) for spec in target.outputs],
        "instance_group": [{**instance, "gpus": [int(index or 0)] if on_gpu else []}],
        "default_model_filename": "model.onnx" if target.kind == "model" else "",
        "parameters": {name: {"string_value": str(default)} for name, default in target.parameters.items()},
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
    }
    if batched:
        config["dynamic_batching"] = {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": round(target.max_wait * 1e6),
        }
    return config


def statistics(target: Target, memory: int, device: str) -> dict[str, Any]:
    """One entry of `model_stats`; `memory` is what the model takes on the device, in bytes."""
    figures = target.statistics
    count = figures.success.count
    on_gpu, index = device != "cpu", device.partition(":")[2]
    return {
        "name": target.name,
        "version": version_of(target),
        "last_inference": round(figures.last * 1000),
        "inference_count": figures.inferences,
        "execution_count": figures.executions,
        "inference_stats": {
            "success": _duration(count, figures.success.ns),
            "fail": _duration(figures.fail.count, figures.fail.ns),
            "queue": _duration(count, figures.queue_ns),
            "compute_input": _duration(count, figures.input_ns),
            "compute_infer": _duration(count, figures.infer_ns),
            "compute_output": _duration(count, figures.output_ns),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "response_stats": {},
        "batch_stats": _batches(figures),
        "memory_usage": [{"type": "GPU" if on_gpu else "CPU", "id": int(index or 0), "byte_size": memory}]
        if memory
        else [],
    }


def datatype(spec: TensorSpec) -> str:
    """The datatype of a tensor; of an input that takes any, FP32, which it takes."""
    dtype = np.dtype(np.float32) if spec.dtype is None else spec.dtype
    return DATATYPES.get(dtype, dtype.name.upper())


def data_type(spec: TensorSpec) -> str:
    """The same as a configuration writes it."""
    name = datatype(spec)
    return "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"


def shape(spec: TensorSpec) -> list[int]:
    """The shape with -1 for free axes; of a tensor of any rank one free axis: there is no form for any."""
    return [-1] if spec.shape is None else [-1 if axis is None else axis for axis in spec.shape]


def _config_tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    dims = shape(spec)
    return {
        "name": spec.name,
        "data_type": data_type(spec),
        "dims": dims[1:] if batched else dims,
        "is_shape_tensor": False,
    }


def _platform(target: Target) -> str:
    return "onnxruntime_onnx" if target.kind == "model" else "python"


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _batches(figures: Statistics) -> list[dict[str, Any]]:
    return [
        {
            "batch_size": size,
            "compute_input": _duration(batch.count, batch.input_ns),
            "compute_infer": _duration(batch.count, batch.infer_ns),
            "compute_output": _duration(batch.count, batch.output_ns),
        }
        for size, batch in sorted(figures.batches.items())
    ]

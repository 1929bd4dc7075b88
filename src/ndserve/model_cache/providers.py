"""Which of onnxruntime's execution providers a model gets on a device, best first, and with which options.

https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#configuration-options
https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html#configurations
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from ndserve.devices.base import Device
from ndserve.model_info import ModelOptions

Providers: TypeAlias = list[tuple[str, dict[str, Any]]]
"""Names and options, as `onnxruntime.InferenceSession` takes them."""

TENSORRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

NAMES = {"tensorrt": TENSORRT, "cuda": CUDA, "cpu": CPU}
"""What `model.toml` calls a provider -> what onnxruntime calls it."""

_SHORT = {name: short for short, name in NAMES.items()}

_NEEDS = {
    TENSORRT: "is TensorRT installed, and are its libraries (libnvinfer) where the loader finds them?",
    CUDA: "are the CUDA and cuDNN libraries installed?",
}

OWN = frozenset({"device_id", "user_compute_stream", "has_user_compute_stream"})
"""Options that the device alone can know; a model's own values for them are ignored."""

_LIBRARY = "it would load a library into the server"
_ADDRESS = "it is an address in the server's memory"
_REPLAY = "a recorded CUDA graph reads its inputs where they lay when it was recorded, which gives wrong results here"

REFUSED = {
    "trt_extra_plugin_lib_paths": _LIBRARY,
    "trt_engine_decryption_lib_path": _LIBRARY,
    "gpu_external_alloc": _ADDRESS,
    "gpu_external_free": _ADDRESS,
    "gpu_external_empty_cache": _ADDRESS,
    "enable_cuda_graph": _REPLAY,
    "trt_cuda_graph_enable": _REPLAY,
}
"""Options that no model may have, and why."""


def chosen(device: Device, options: ModelOptions) -> Providers:
    """The providers of a model: those that it asks for and the device has, or else all that the device gives.

    What the device lacks is left out, so that one folder of models serves on machines with and without a GPU. The CPU
    is always among them, since onnxruntime runs there what no other provider can.

    Raises:
        ValueError: `model.toml` has an option that no model may have; says which and why.
    """
    offered = dict(each if isinstance(each, tuple) else (each, {}) for each in device.providers())
    names = list(offered)
    if CUDA in offered:  # on which TensorRT stands
        own = ("device_id", "user_compute_stream")  # of CUDA's; its Python binding refuses what it does not know
        offered[TENSORRT] = {key: value for key, value in offered[CUDA].items() if key in own}
    if options.providers is not None:
        names = [NAMES[short] for short in options.providers if NAMES[short] in offered]
        if CPU not in names:
            names.append(CPU)
    wanted = {short: dict(values) for short, values in options.provider_options}
    _check(wanted.items())
    return [(name, _merged(offered.get(name, {}), wanted.get(_SHORT.get(name, ""), {}))) for name in names]


def on_host(device: Device, providers: Providers) -> bool:
    """Whether the model runs on the host although the device's arrays lie elsewhere."""
    return device.name != "cpu" and providers[0][0] == CPU


def can_be_saved(providers: Providers) -> bool:
    """Whether onnxruntime can write the optimised graph: not where TensorRT has compiled parts of it."""
    return all(name != TENSORRT for name, _ in providers)


def of(device: Device, providers: Providers) -> str:
    """What of a device and its providers an optimised graph depends on.

    The number of the device and its stream are left out. The size of its memory tells one kind of GPU from another.
    """
    kind, _, index = device.name.partition(":")
    options = [
        (name, sorted((key, str(value)) for key, value in each.items() if key not in OWN)) for name, each in providers
    ]
    return f"{kind} {device.memory().total if index else 0} {options}"


def missing(providers: Providers, found: Iterable[str]) -> str:
    """What to say where onnxruntime has made a session without one of them, which it merely logs; else empty."""
    present = set(found)
    for name, _ in providers:
        if name not in present:
            return f"{name} could not be loaded; {_NEEDS.get(name, 'does this onnxruntime have it?')}"
    return ""


def _check(wanted: Iterable[tuple[str, dict[str, str]]]) -> None:
    for short, values in wanted:
        for key in values:
            if key in REFUSED:
                raise ValueError(f"provider option {short}.{key} is refused: {REFUSED[key]}; remove it from model.toml")


def _merged(device: dict[str, Any], model: dict[str, str]) -> dict[str, Any]:
    return {**device, **{key: value for key, value in model.items() if key not in OWN}}

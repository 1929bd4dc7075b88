"""A model configuration that a client sends with a load: what of it is taken, and what is refused.

What changes results or runs code, and is not done here, is refused; what only tunes Triton is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from ndserve.codecs.base import excerpt
from ndserve.errors import InvalidInputError
from ndserve.model_cache.disk.model_toml import MAX_BATCH
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.routes.open_inference.documents import data_type, shape
from ndserve.types import TensorSpec

_TUNING = frozenset(
    {
        *("optimization", "instance_group", "cc_model_filenames", "metric_tags", "parameters"),
        *("model_warmup", "runtime", "priority_levels"),
    }
)

_FIXED: dict[str, tuple[object, ...]] = {
    "platform": ("", "onnxruntime_onnx"),
    "backend": ("", "onnxruntime"),
    "default_model_filename": ("", "model.onnx"),
    "model_transaction_policy": ({}, {"decoupled": False}),
    "response_cache": ({}, {"enable": False}),
    "batch_input": ([],),
    "batch_output": ([],),
    "model_operations": ({}, {"op_library_filename": []}),
    "version_policy": ({}, {"latest": {"num_versions": 1}}, {"all": {}}),
}
"""Keys that may say what is so anyway."""

MAX_WAIT_US = 60_000_000


def read_config(text: str, name: str) -> Callable[[ModelInfo], ModelOptions]:
    """What a configuration for the model `name` makes of the options of one of its versions.

    `max_batch_size` 0 turns batching off; `dynamic_batching.max_queue_delay_microseconds` is ndserve's `max_wait_ms`.

    Raises:
        InvalidInputError: it is no JSON object, or a key is unknown, or asks for what is not done here.
    """
    try:
        config = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInputError(f"the config is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidInputError("the config is not a JSON object")
    if config.get("name", name) not in ("", name):
        raise InvalidInputError(f"the config is for {excerpt(config['name'])}, not for {name!r}")
    for key, value in config.items():
        if key in _FIXED and value not in _FIXED[key]:
            raise InvalidInputError(f"the config's {key} must be {_FIXED[key][-1]!r} here, or be left out")
        if key not in _FIXED and key not in _TUNING and key not in _READ:
            raise InvalidInputError(f"the config's key {excerpt(key)} is not supported")
    size = _whole(config, "max_batch_size", MAX_BATCH)
    batching = config.get("dynamic_batching", {})
    if not isinstance(batching, dict):
        raise InvalidInputError("the config's dynamic_batching must be an object")
    wait = _whole(batching, "max_queue_delay_microseconds", MAX_WAIT_US)

    def options(info: ModelInfo) -> ModelOptions:
        _check_tensors(config.get("input"), info.inputs, "input")
        _check_tensors(config.get("output"), info.outputs, "output")
        given = info.options
        return replace(
            given,
            max_batch_size=size or given.max_batch_size,
            max_wait_ms=given.max_wait_ms if wait is None else wait / 1000,
            batching="off" if size == 0 else given.batching,
        )

    return options


_READ = frozenset({"name", "max_batch_size", "dynamic_batching", "input", "output"})


def _whole(given: dict[str, Any], key: str, limit: int) -> int | None:
    value = given.get(key)
    if value is None:
        return None
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)  # protobuf writes integers of 64 bits as texts
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise InvalidInputError(f"the config's {key} must be a whole number from 0 to {limit}")
    return value


def _check_tensors(given: Any, specs: tuple[TensorSpec, ...], kind: str) -> None:
    """Refuse a list of tensors that are not the model's; it may leave some out, and of the rest the batch axis."""
    if given is None:
        return
    types = {spec.name: data_type(spec) for spec in specs}
    shapes = {spec.name: shape(spec) for spec in specs}
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise InvalidInputError(f"the config's {kind} must be a list of objects")
    for entry in given:
        name, asked = entry.get("name"), entry.get("data_type", "")
        if not isinstance(name, str) or name not in types:
            raise InvalidInputError(f"the config names the {kind} {excerpt(name)}; the model has {', '.join(types)}")
        if asked and asked != types[name]:
            raise InvalidInputError(f"the config has {excerpt(asked)} for the {kind} {name!r}, which is {types[name]}")
        if entry.get("dims", shapes[name]) not in (shapes[name], shapes[name][1:]):
            raise InvalidInputError(f"the config has other dims for the {kind} {name!r} than {shapes[name]}")
        for key in ("reshape", "allow_ragged_batch"):
            if entry.get(key):
                raise InvalidInputError(f"the config's {key} of the {kind} {name!r} is not supported")

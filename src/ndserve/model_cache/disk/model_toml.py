"""A model's own options, in the `model.toml` beside its versions."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from ndserve.errors import ModelLoadError
from ndserve.model_cache.providers import REFUSED
from ndserve.model_info import ModelOptions, ProviderOptions, Shapes
from ndserve.types import TensorSpec

MAX_BATCH = 1_000_000
MAX_WAIT_MS = 60_000
MAX_WARMUPS = 64
MAX_ELEMENTS = 1 << 31
"""Elements of one array in a warm-up."""

PROVIDERS = ("tensorrt", "cuda", "cpu")

_ONLY_INPUT = ""
"""Stands for a model's single input until its name is known. ONNX inputs always have a name."""

_SERVERS_OWN = re.compile(
    r"device_id|(has_)?user_compute_stream"  # the server's own device and stream
    r"|trt_extra_plugin_lib_paths|trt_engine_decryption_lib_path"  # libraries that would be loaded
    r"|gpu_external_(alloc|free|empty_cache)|default_memory_arena_cfg"  # addresses in the process's memory
    r"|trt_onnx_model_folder_path|trt_onnx_bytestream.*"  # other models, which nobody has checked
)
"""Options of onnxruntime's providers that no model may set.

https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html#configurations
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#configuration-options
"""

_Parser: TypeAlias = Callable[[Any], Any]
"""Gives a key's value as ModelOptions has it; raises ValueError with what it must be."""


def read_options(path: Path) -> ModelOptions:
    """The options in a `model.toml`; the defaults where there is none.

    Shapes of a warm-up without names are for `fit_warmup` to complete, which also sees whether the others fit.

    Raises:
        ModelLoadError: no TOML, an unknown key, or a value that cannot be.
    """
    if not path.is_file():
        return ModelOptions()
    try:
        values = tomllib.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of 5,000 digits, nested too deep
        raise ModelLoadError(f"{path.name} is not TOML: {error}") from None
    parsed = {}
    for key, value in values.items():
        if key not in _PARSERS:
            raise ModelLoadError(f"{path.name}: unknown key {key!r}; known are {', '.join(_PARSERS)}")
        try:
            parsed[key] = _PARSERS[key](value)
        except ValueError as error:
            raise ModelLoadError(f"{path.name}: {key} {error}") from None
    options = ModelOptions(**parsed)
    for provider, _ in options.provider_options:
        if options.providers is not None and provider not in options.providers:
            raise ModelLoadError(f"{path.name}: provider_options has {provider!r}, which is not among providers")
    return options


def fit_warmup(options: ModelOptions, inputs: Sequence[TensorSpec]) -> ModelOptions:
    """The options with a name for every shape of the warm-up, in the order of the model's inputs.

    Raises:
        ModelLoadError: an entry has other names, ranks or fixed axes than the model's inputs.
    """
    if not options.warmup:
        return options
    return replace(options, warmup=tuple(_fitted(dict(entry), inputs) for entry in options.warmup))


def _fitted(entry: dict[str, tuple[int, ...]], inputs: Sequence[TensorSpec]) -> Shapes:
    takes = ", ".join(map(str, inputs)) or "nothing"
    if _ONLY_INPUT in entry and len(inputs) == 1:
        entry = {inputs[0].name: entry[_ONLY_INPUT]}
    if _ONLY_INPUT in entry:
        raise ModelLoadError(
            f"warmup has the shape {list(entry[_ONLY_INPUT])} without an input's name, but the model takes {takes};"
            " write a table of shapes by input"
        )
    if entry.keys() != {spec.name for spec in inputs}:
        raise ModelLoadError(f"warmup has shapes for {', '.join(sorted(entry)) or 'nothing'}; the model takes {takes}")
    for spec in inputs:
        shape = entry[spec.name]
        if spec.shape is not None and not _is_of(shape, spec.shape):
            raise ModelLoadError(f"warmup has the shape {list(shape)} for {spec}")
    return tuple((spec.name, entry[spec.name]) for spec in inputs)


def _is_of(shape: tuple[int, ...], axes: tuple[int | None, ...]) -> bool:
    return len(shape) == len(axes) and all(axis in (None, size) for size, axis in zip(shape, axes, strict=True))


def _max_batch_size(value: Any) -> int:
    if not _is_whole(value) or not 1 <= value <= MAX_BATCH:
        raise ValueError(f"must be a whole number from 1 to {MAX_BATCH}, not {_shown(value)}")
    return int(value)


def _max_wait_ms(value: Any) -> float:
    if not (_is_whole(value) or isinstance(value, float)) or not 0 <= value <= MAX_WAIT_MS:
        raise ValueError(f"must be a number from 0 to {MAX_WAIT_MS}, not {_shown(value)}")
    return float(value)


def _batching(value: Any) -> str:
    if value not in ("auto", "off"):
        raise ValueError(f"must be 'auto' or 'off', not {_shown(value)}")
    return str(value)


def _pinned(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_shown(value)}")
    return value


def _warmup(value: Any) -> tuple[Shapes, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of shapes or of tables of shapes by input, not {_shown(value)}")
    if len(value) > MAX_WARMUPS:
        raise ValueError(f"has {len(value)} entries; at most {MAX_WARMUPS} are run")
    if any(isinstance(entry, dict) and _ONLY_INPUT in entry for entry in value):
        raise ValueError("has a table with a shape for an input without a name")
    tables = [entry if isinstance(entry, dict) else {_ONLY_INPUT: entry} for entry in value]
    return tuple(tuple((name, _shape(shape)) for name, shape in table.items()) for table in tables)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(_is_whole(size) and size > 0 for size in value):
        raise ValueError(f"must have shapes of positive whole numbers, not {_shown(value)}")
    if math.prod(value) > MAX_ELEMENTS:
        raise ValueError(f"has the shape {_shown(value)}; an array can have at most {MAX_ELEMENTS} elements")
    return tuple(value)


def _providers(value: Any) -> tuple[str, ...]:
    known = isinstance(value, list) and all(provider in PROVIDERS for provider in value)
    if not known or not value or len(set(value)) < len(value):
        raise ValueError(f"must be a list of different names out of {', '.join(PROVIDERS)}, not {_shown(value)}")
    return tuple(value)


def _provider_options(value: Any) -> ProviderOptions:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise ValueError(f"must be a table by provider of tables of options, not {_shown(value)}")
    for provider in value:
        if provider not in PROVIDERS:
            raise ValueError(f"has {_shown(provider)}; known are {', '.join(PROVIDERS)}")
    return tuple((provider, _options_of(provider, table)) for provider, table in value.items())


def _options_of(provider: str, table: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    for key, value in table.items():
        if _SERVERS_OWN.fullmatch(key):
            raise ValueError(f"cannot set {provider}.{key}: that is the server's own, or would load foreign code")
        if key in REFUSED:
            raise ValueError(f"cannot set {provider}.{key}: {REFUSED[key]}")
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"has {_shown(value)} for {provider}.{key}; it must be a text, a number, true or false")
    # onnxruntime takes texts alone, and 1 and 0 for true and false.
    return tuple((key, str(int(value) if isinstance(value, bool) else value)) for key, value in table.items())


_PARSERS: dict[str, _Parser] = {
    "max_batch_size": _max_batch_size,
    "max_wait_ms": _max_wait_ms,
    "batching": _batching,
    "pinned": _pinned,
    "warmup": _warmup,
    "providers": _providers,
    "provider_options": _provider_options,
}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}…"

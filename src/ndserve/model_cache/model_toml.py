"""A model's own options, as its `model.toml` has them."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ndserve.errors import ModelLoadError
from ndserve.model_cache.providers import NAMES, OWN, REFUSED
from ndserve.model_info import ModelOptions, ProviderOptions, Shapes
from ndserve.types import TensorSpec, join_names

MAX_BATCH = 1_000_000
MAX_WARMUPS = 64
MAX_ELEMENTS = 2**31


def read_options(path: Path) -> ModelOptions:
    """The options in a `model.toml`; the defaults where there is none.

    Raises:
        ModelLoadError: no TOML, an unknown key, or a value that cannot be.
    """
    if not path.is_file():
        return ModelOptions()
    try:
        values = tomllib.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of 5,000 digits, nested too deep
        raise ModelLoadError(f"{path.name} is not TOML: {error}") from None
    known = [field.name for field in fields(ModelOptions)]
    for key, value in values.items():
        if key not in known:
            raise ModelLoadError(f"{path.name}: unknown key {key!r}; known are {join_names(known)}")
        if not _fits(key, value):
            raise ModelLoadError(f"{path.name}: {key} cannot be {value!r:.200}")
    if "warmup" in values:
        values["warmup"] = tuple(_shapes(path, each) for each in values["warmup"])
    if "providers" in values:
        values["providers"] = tuple(values["providers"])
    if "provider_options" in values:
        values["provider_options"] = _provider_options(path, values["provider_options"], values.get("providers"))
    return ModelOptions(**values)


def named_warmup(options: ModelOptions, inputs: Sequence[TensorSpec], name: str) -> tuple[Shapes, ...] | None:
    """The shapes of `warmup` by input name, where they were given without for a model of one input.

    Raises:
        ModelLoadError: they do not fit the model's inputs.
    """
    if options.warmup is None:
        return None
    return tuple(_named(shapes, inputs, name) for shapes in options.warmup)


def _named(shapes: Shapes, inputs: Sequence[TensorSpec], name: str) -> Shapes:
    given = dict(shapes)
    if list(given) == [""] and len(inputs) == 1:
        given = {inputs[0].name: given[""]}
    specs = {spec.name: spec for spec in inputs}
    if given.keys() != specs.keys():
        raise ModelLoadError(f"{name}: warmup must give a shape for each of {join_names(specs)}")
    for input_name, shape in given.items():
        spec = specs[input_name]
        fits = spec.shape is None or (
            len(spec.shape) == len(shape)
            and all(want in (None, have) for want, have in zip(spec.shape, shape, strict=True))
        )
        if not fits:
            raise ModelLoadError(f"{name}: the warmup shape {list(shape)} does not fit {spec}")
    return tuple((spec.name, given[spec.name]) for spec in inputs)


def _fits(key: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match key:
        case "max_batch_size":
            return isinstance(value, int) and number and 1 <= value <= MAX_BATCH
        case "max_wait_ms":
            return number and 0 <= value <= 60_000
        case "batching":
            return value in ("auto", "off")
        case "warmup":
            return isinstance(value, list) and len(value) <= MAX_WARMUPS
        case "providers":
            distinct = isinstance(value, list) and all(value.count(each) == 1 for each in value)
            return distinct and len(value) > 0 and all(each in NAMES for each in value)
        case "provider_options":
            return isinstance(value, dict) and all(
                name in NAMES and isinstance(each, dict) for name, each in value.items()
            )
        case _:
            return isinstance(value, bool)


def _shapes(path: Path, given: Any) -> Shapes:
    """One entry of `warmup`: a shape, or a table of shapes by input name."""
    shapes = given if isinstance(given, dict) else {"": given}
    for name, shape in shapes.items():
        whole = isinstance(shape, list) and all(isinstance(axis, int) and not isinstance(axis, bool) for axis in shape)
        if not whole or any(axis < 1 for axis in shape) or math.prod(shape) > MAX_ELEMENTS:
            of = f" of {name!r}" if name else ""
            raise ModelLoadError(
                f"{path.name}: the warmup shape{of} must be a list of lengths from 1 up, for at most {MAX_ELEMENTS}"
                f" elements, not {shape!r:.200}"
            )
    return tuple((name, tuple(shape)) for name, shape in shapes.items())


def _provider_options(path: Path, given: dict[str, Any], providers: Sequence[str] | None) -> ProviderOptions:
    """As onnxruntime takes them: texts."""
    for provider, options in given.items():
        if providers is not None and provider not in providers:
            raise ModelLoadError(f"{path.name}: provider_options has {provider!r}, which providers does not name")
        for key, value in options.items():
            if key in OWN:
                raise ModelLoadError(f"{path.name}: {key} of {provider} is the server's to choose")
            if key in REFUSED:
                raise ModelLoadError(f"{path.name}: {key} of {provider} is refused: {REFUSED[key]}")
            if not isinstance(value, str | bool | int | float):
                raise ModelLoadError(f"{path.name}: {key} of {provider} must be a text, a number or true or false")
    return tuple(
        (provider, tuple((key, _text(value)) for key, value in options.items())) for provider, options in given.items()
    )


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)

"""May these arrays go to that target? Decided before queueing, so that one bad body never reaches a batch. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ndserve.codecs.base import UNNAMED
from ndserve.engine.targets import Target
from ndserve.errors import InvalidInputError, InvalidParameterError
from ndserve.types import BatchKey, HostArray, Parameter, Tensors, TensorSpec, join_names


class Admitted(NamedTuple):
    """Arrays that fit: with their batch axis, their rows along it, and whether it was added here."""

    key: BatchKey
    inputs: Tensors
    rows: int
    single: bool


def admit(target: Target, inputs: Tensors, parameters: Mapping[str, Parameter], *, cast: bool = False) -> Admitted:
    """Fit `inputs` to the target's specs.

    An unnamed array goes to the target's only input. Arrays whose rank is one less than the specs' are one item
    and get a batch axis of length 1; so does every array for a batched process that declares no shapes.

    Args:
        cast: convert other dtypes, where no value changes by more than rounding.

    Raises:
        InvalidInputError: names, dtypes or shapes do not fit; carries the expected specs.
        InvalidParameterError: the target has no such parameter.
    """
    named = _by_name(target, inputs)
    fitted = {spec.name: _fit_dtype(target, spec, named[spec.name], cast) for spec in target.inputs}
    single = _is_item(target, fitted)
    if single:
        fitted = {name: array[np.newaxis] for name, array in fitted.items()}
    for spec in target.inputs:
        _check_shape(target, spec, fitted[spec.name], single)
    rows = _rows(target, fitted)
    trailing = tuple((name, array.dtype, array.shape[1:]) for name, array in fitted.items())
    key = BatchKey(target.name, target.version, _parameters(target, parameters), trailing)
    return Admitted(key, fitted, rows, single)


def _parameters(target: Target, given: Mapping[str, Parameter]) -> tuple[tuple[str, Parameter], ...]:
    """Every parameter of the target with its value, in the target's order."""
    if not given:
        return tuple(target.parameters.items())
    for name in given:
        if name not in target.parameters:
            raise InvalidParameterError(
                f"{target.name!r} has no parameter {name!r}; it has {join_names(target.parameters)}"
            )
    return tuple(
        (name, _convert(name, given[name], default) if name in given else default)
        for name, default in target.parameters.items()
    )


def _convert(name: str, value: Parameter, default: Parameter) -> Parameter:
    """The value as the default's type; a query string knows only text."""
    kind = type(default)
    if type(value) is kind:
        return value
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        number = kind(value)
        if number == value or isinstance(value, str):
            return number
    except (ValueError, KeyError):
        pass
    raise InvalidParameterError(f"the parameter {name!r} takes a {kind.__name__}, not {value!r}")


def _refusal(target: Target, message: str) -> InvalidInputError:
    expected = [str(spec) for spec in target.inputs]
    return InvalidInputError(f"{message}; {target.name!r} takes {join_names(expected)}", expected=expected)


def _by_name(target: Target, inputs: Tensors) -> Tensors:
    names = [spec.name for spec in target.inputs]
    if inputs.keys() == {UNNAMED}:
        if len(names) != 1:
            raise _refusal(target, "one unnamed array came; name the inputs by .npz members or JSON keys")
        return {names[0]: inputs[UNNAMED]}
    missing = [name for name in names if name not in inputs]
    surplus = [name for name in inputs if name not in names]
    if missing or surplus:
        raise _refusal(target, f"missing inputs: {join_names(missing)}; surplus inputs: {join_names(surplus)}")
    return inputs


def _fit_dtype(target: Target, spec: TensorSpec, array: HostArray, cast: bool) -> HostArray:
    if spec.dtype is None or array.dtype == spec.dtype:
        return array
    if not cast:
        hint = "send that dtype, or add ?cast=true for a safe conversion"
        raise _refusal(target, f"input {spec.name!r} is {array.dtype.name}, not {spec.dtype.name}: {hint}")
    converted = _safe_cast(array, spec.dtype)
    if converted is None:
        raise _refusal(
            target, f"input {spec.name!r} is {array.dtype.name} with values that {spec.dtype.name} cannot hold"
        )
    return converted


def _safe_cast(array: HostArray, dtype: np.dtype[Any]) -> HostArray | None:
    """The array in another dtype, or None where a value would change by more than rounding."""
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        return None
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind in "fc":
        safe = np.array_equal(np.isfinite(converted), np.isfinite(array))
    else:
        safe = np.array_equal(converted, array)
    return converted if safe else None


def _is_item(target: Target, arrays: Tensors) -> bool:
    """Whether the arrays lack the batch axis."""
    if not target.stacks:
        return False
    shapes = [(spec.shape, arrays[spec.name].ndim) for spec in target.inputs]
    if any(shape is None for shape, _ in shapes):
        return True
    return all(rank == len(shape or ()) - 1 for shape, rank in shapes)


def _check_shape(target: Target, spec: TensorSpec, array: HostArray, single: bool) -> None:
    if spec.shape is None:
        return
    fits = array.ndim == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        shape = list(array.shape[1:] if single else array.shape)
        neither = ", which is neither a batch nor one item of it" if target.stacks else ", which does not fit"
        raise _refusal(target, f"input {spec.name!r} has shape {shape}{neither}")


def _rows(target: Target, arrays: Tensors) -> int:
    if not target.stacks:
        return 1
    lengths = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise _refusal(target, f"the inputs have different lengths along axis 0: {lengths}")
    rows: int = next(iter(lengths.values()))
    return rows

"""May these arrays go to that target? Decided before queueing, so that one bad body never reaches a batch. Pure.

What is decided depends on names, dtypes and shapes alone, so it is planned once for each combination and then
looked up: clients send many arrays of one kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ndserve.codecs.base import UNNAMED
from ndserve.dtypes import is_float, is_narrow
from ndserve.engine.target import Form, Plan, Target
from ndserve.errors import InvalidInputError, InvalidParameterError, UnavailableError
from ndserve.types import BatchKey, HostArray, Parameter, Tensors, TensorSpec, join_names, name_of

MAX_PLANS = 1024


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
        InvalidParameterError, UnavailableError: as for `fit`.
    """
    if cast:
        inputs = _cast(target, inputs)
    return fit(target, plan_for(target, form_of(inputs)), inputs, parameters)


def form_of(inputs: Tensors) -> Form:
    """What `plan_for` looks at."""
    return tuple([(name, array.dtype, array.shape) for name, array in inputs.items()])


def plan_for(target: Target, form: Form, *, whole: bool = False) -> Plan:
    """What becomes of arrays of that form.

    Args:
        whole: the arrays are as the specs say: refuse those that lack a batch axis, and offer no conversion.

    Raises:
        InvalidInputError: as for `admit`.
    """
    plan = target.plans.get(form)
    if plan is None:
        plan = _plan(target, form, whole=whole)
        if len(target.plans) >= MAX_PLANS:
            target.plans.clear()
        target.plans[form] = plan
    if whole and plan.single and target.specified:
        raise _refusal(target, "the batch axis is missing: send one item as a batch of one")
    return plan


def fit(target: Target, plan: Plan, inputs: Tensors, parameters: Mapping[str, Parameter]) -> Admitted:
    """The arrays as the plan for their form has them.

    Raises:
        InvalidParameterError: the target has no such parameter.
        UnavailableError: the target went while its caller was still reading the request.
    """
    if target.forgotten:
        raise UnavailableError(f"{target.name!r} was replaced or unloaded while the request came; send it again")
    key = plan.key
    if parameters:
        key = BatchKey(key.target, key.version, _parameters(target, parameters), key.signature, key.revision)
    if plan.single:
        fitted = {name: inputs[given][np.newaxis] for name, given in plan.names}
    else:
        fitted = {name: inputs[given] for name, given in plan.names}
    return Admitted(key, fitted, plan.rows, plan.single)


def _plan(target: Target, form: Form, *, whole: bool) -> Plan:
    """What becomes of arrays of that form.

    Raises:
        InvalidInputError: as for `admit`.
    """
    given = {name: (dtype, shape) for name, dtype, shape in form}
    names = _match_names(target, list(given))
    kinds = [(spec, *given[names[spec.name]]) for spec in target.inputs]
    for spec, dtype, _ in kinds:
        _check_dtype(target, spec, dtype, castable=not whole)
    single = _is_item(target, [(spec, len(shape)) for spec, _, shape in kinds])
    shapes = {spec.name: (1, *shape) if single else shape for spec, _, shape in kinds}
    for spec, _, shape in kinds:
        _check_shape(target, spec, shapes[spec.name], shape)
    rows = _rows(target, shapes)
    signature = tuple((spec.name, dtype, shapes[spec.name][1:]) for spec, dtype, _ in kinds)
    key = BatchKey(target.name, target.label, tuple(target.parameters.items()), signature, target.revision)
    return Plan(key, tuple(names.items()), rows, single)


def _check_dtype(target: Target, spec: TensorSpec, dtype: np.dtype[Any], *, castable: bool) -> None:
    if target.process is not None and is_narrow(dtype):
        hint = "array code cannot compute with it; send float32"
        raise _refusal(target, f"input {spec.name!r} is {dtype.name}: {hint}")
    if spec.dtype is not None and dtype != spec.dtype:
        castable = castable and not (dtype.hasobject or spec.dtype.hasobject)
        hint = "send that dtype, or add ?cast=true for a safe conversion" if castable else "send that dtype"
        raise _refusal(target, f"input {spec.name!r} is {name_of(dtype)}, not {name_of(spec.dtype)}: {hint}")


def _refusal(target: Target, message: str) -> InvalidInputError:
    expected = [str(spec) for spec in target.inputs]
    return InvalidInputError(f"{message}; {target.name!r} takes {join_names(expected)}", expected=expected)


def _match_names(target: Target, given: list[str]) -> dict[str, str]:
    """From each input of the target to the name under which its array came."""
    names = [spec.name for spec in target.inputs]
    if given == [UNNAMED]:
        if len(names) != 1:
            raise _refusal(target, "one unnamed array came; name the inputs by .npz members or JSON keys")
        return {names[0]: UNNAMED}
    missing = [name for name in names if name not in given]
    surplus = [name for name in given if name not in names]
    if missing or surplus:
        raise _refusal(target, f"missing inputs: {join_names(missing)}; surplus inputs: {join_names(surplus)}")
    return {name: name for name in names}


def _cast(target: Target, inputs: Tensors) -> Tensors:
    """The inputs with every dtype that differs from its spec's converted."""
    names = _match_names(target, list(inputs))
    return {names[spec.name]: _cast_array(target, spec, inputs[names[spec.name]]) for spec in target.inputs}


def _cast_array(target: Target, spec: TensorSpec, array: HostArray) -> HostArray:
    if spec.dtype is None or array.dtype == spec.dtype:
        return array
    converted = _safe_cast(array, spec.dtype)
    if converted is None:
        held = f"{name_of(array.dtype)} with values that {name_of(spec.dtype)} cannot hold"
        raise _refusal(target, f"input {spec.name!r} is {held}")
    return converted


def _safe_cast(array: HostArray, dtype: np.dtype[Any]) -> HostArray | None:
    """The array in another dtype, or None where a value would change by more than rounding."""
    integers = "biu"
    sources = {"f": integers + "f", "c": integers + "fc", "O": ""}.get(_kind(dtype), integers)
    if _kind(array.dtype) not in sources:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(dtype)
        if is_float(dtype):
            safe = np.array_equal(np.isfinite(converted), np.isfinite(array))
        else:
            safe = np.array_equal(converted, array)
    return converted if safe else None


def _kind(dtype: np.dtype[Any]) -> str:
    """NumPy's letter for the kind of numbers; to NumPy, narrow floats are of no kind."""
    return "f" if is_narrow(dtype) else dtype.kind


def _is_item(target: Target, ranks: list[tuple[TensorSpec, int]]) -> bool:
    """Whether the arrays lack the batch axis."""
    if not target.stacks:
        return False
    if any(spec.shape is None for spec, _ in ranks):
        return True
    return all(rank == len(spec.shape or ()) - 1 for spec, rank in ranks)


def _check_shape(target: Target, spec: TensorSpec, shape: tuple[int, ...], posted: tuple[int, ...]) -> None:
    if spec.shape is None:
        return
    fits = len(shape) == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        neither = ", which is neither a batch nor one item of it" if target.stacks else ", which does not fit"
        raise _refusal(target, f"input {spec.name!r} has shape {list(posted)}{neither}")


def _rows(target: Target, shapes: dict[str, tuple[int, ...]]) -> int:
    if not target.stacks:
        return 1
    lengths = {name: shape[0] for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1:
        raise _refusal(target, f"the inputs have different lengths along axis 0: {lengths}")
    return next(iter(lengths.values()))


def _parameters(target: Target, given: Mapping[str, Parameter]) -> tuple[tuple[str, Parameter], ...]:
    """Every parameter of the target with its value, in the target's order."""
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
    except (ValueError, KeyError, OverflowError):
        pass
    raise InvalidParameterError(f"the parameter {name!r} takes a {kind.__name__}, not {str(value)[:100]!r}")

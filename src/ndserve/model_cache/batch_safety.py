"""May this model's inputs be stacked? Found out by trying, because a graph does not tell.

Stacking is harmless when every input and output has a free axis 0 and two inputs give the same outputs apart and
stacked. Some models that look batchable and are not: batch normalisation left in training mode, a point cloud whose
axis 0 is points, recurrent state `[layers, batch, n]` exported with every axis free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ndserve import byte_strings
from ndserve.dtypes import TEXT, is_float, is_narrow, uncarried, widened
from ndserve.model_cache.random_inputs import MAX_RANDOM, clipped, random_array
from ndserve.model_info import Batching, ModelInfo
from ndserve.types import HostArray, Tensors, TensorSpec

Run = Callable[[Tensors], Tensors]
"""Host arrays in, host arrays out."""

ON = Batching("on", "two inputs gave the same outputs apart and stacked")

_SCALES = (1.0, 8.0, 1.0, 8.0, 64.0, 64.0)
"""Of the random inputs, round by round: some models mix rows, or come to life, only where values are large."""


_TOLERANCES = {
    "float16": 1e-2,
    "bfloat16": 2e-2,
    "float8_e4m3fn": 0.125,
    "float8_e4m3fnuz": 0.125,
    "float8_e5m2": 0.25,
    "float8_e5m2fnuz": 0.25,
}
"""Of the largest value, for floats of one and two bytes; those of one byte have two or three bits of mantissa."""


def before_loading(info: ModelInfo) -> Batching:
    """What the specs alone say: `off`, or `untested`."""
    if info.options.batching == "off":
        return Batching("off", 'model.toml says batching = "off"')
    if not info.inputs:
        return Batching("off", "the model has no inputs")
    for spec in (*info.inputs, *info.outputs):
        if _axis_0(spec) is not None or not _has_shape(spec, info):
            return Batching("off", f"axis 0 of {spec} is not free")
    return Batching("untested", "no request has come yet whose shapes the probe could take")


def has_batch_axis(info: ModelInfo) -> bool:
    """Whether axis 0 of every input and output may be a batch axis: free, or of length 1."""
    tensors = (*info.inputs, *info.outputs)
    return bool(info.inputs) and all(_has_shape(spec, info) and _axis_0(spec) in (None, 1) for spec in tensors)


def _has_shape(spec: TensorSpec, info: ModelInfo) -> bool:
    """An output's shape may be unknown to its exporter, which rules nothing out; a scalar has no axis 0."""
    return bool(spec.shape) or (spec.shape is None and spec in info.outputs)


def _axis_0(spec: TensorSpec) -> int | None:
    return spec.shape[0] if spec.shape else None


def at_load(run: Run, info: ModelInfo) -> Batching:
    """Probe with random inputs; stays `untested` where other axes than 0 are free, for texts, or where none suit."""
    verdict = before_loading(info)
    if verdict.mode == "off" or not all(map(_is_random, info.inputs)):
        return verdict
    generator = np.random.default_rng(0)
    # Two rounds do for real numbers; integers, such as the number of a class, and floats of a byte agree by chance.
    real = any(spec.dtype is not None and is_float(spec.dtype) and spec.dtype.itemsize > 1 for spec in info.outputs)
    enough = 2 if real else len(_SCALES)
    held = 0
    for scale in _SCALES:
        first, second = ({spec.name: _row(generator, spec, scale) for spec in info.inputs} for _ in range(2))
        verdict = _compare(run, first, second, info.outputs)
        held += verdict.mode == "on"
        if verdict.mode == "off" or held == enough:
            return verdict
    return ON if held else verdict


def with_request(run: Run, inputs: Tensors, outputs: Sequence[TensorSpec] = ()) -> Batching | None:
    """Probe with the first row of a real request and a perturbed copy of it; may stay `untested`.

    None where the request has nothing to perturb: it is constant or empty, and says nothing of the model.

    `outputs` are the model's specs, which tell the bits of narrow floats from integers.
    """
    generator = np.random.default_rng(0)
    first = {name: array[:1] for name, array in inputs.items()}
    second = {name: _perturbed(generator, array) for name, array in first.items()}
    if all(np.array_equal(first[name], second[name]) for name in first):
        return None
    return _compare(run, first, second, outputs)


def _compare(run: Run, first: Tensors, second: Tensors, outputs: Sequence[TensorSpec]) -> Batching:
    """One round: the inputs, of one row each, apart and stacked."""
    dtypes = {spec.name: spec.dtype for spec in outputs}
    try:
        apart = [_typed(run(inputs), dtypes) for inputs in (first, second)]
    except Exception as error:  # whatever the runtime raises, the inputs did not suit
        return Batching("untested", f"the probe's inputs do not suit the model: {error}")
    try:
        stacked = _typed(run({name: np.concatenate([first[name], second[name]]) for name in first}), dtypes)
    except Exception as error:
        return Batching("off", f"the model fails on stacked inputs: {error}")
    for name, together in stacked.items():
        alone = [outputs[name] for outputs in apart]
        if any(array.ndim == 0 or len(array) != 1 for array in alone) or len(together) != 2:
            return Batching("off", f"output {name!r} does not have one row for each row that goes in")
        for row, array in enumerate(alone):
            difference = _difference(together[row : row + 1], array)
            if difference is not None:
                return Batching("off", f"output {name!r} differs between stacked and apart: {difference}")
    if all(_equal(apart[0][name], apart[1][name]) for name in stacked):
        # Nothing could have leaked from row to row: a saturated model, or nothing but NaN.
        return Batching("untested", "the probe's inputs all gave the same outputs, which cannot tell")
    return ON


def _typed(outputs: Tensors, dtypes: Mapping[str, np.dtype[Any] | None]) -> Tensors:
    """The outputs with narrow floats as such, no more as their bits."""
    return {name: uncarried(array, dtypes.get(name)) for name, array in outputs.items()}


def _equal(one: HostArray, other: HostArray) -> bool:
    return np.array_equal(widened(one), widened(other), equal_nan=is_float(one.dtype))


def _difference(actual: HostArray, expected: HostArray) -> str | None:
    """None where the two agree within rounding: 1e-4 of the largest value, or more for floats of one or two bytes."""
    if actual.shape != expected.shape:
        return f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if not is_float(actual.dtype):
        others = "texts" if actual.dtype == TEXT else "integers"
        return None if np.array_equal(actual, expected) else f"other {others}"
    relative = _TOLERANCES.get(actual.dtype.name, 1e-4)
    actual, expected = widened(actual), widened(expected)
    finite = expected[np.isfinite(expected)]
    bound = relative * float(np.max(np.abs(finite), initial=0.0))
    if np.allclose(actual, expected, rtol=0, atol=bound, equal_nan=True):
        return None
    return f"by more than {bound:.3g}"


def _is_random(spec: TensorSpec) -> bool:
    """Whether a random row can be made: all its axes are known, and no larger than any memory."""
    if spec.dtype == TEXT or spec.shape is None or None in spec.shape[1:]:
        return False
    return math.prod(axis or 1 for axis in spec.shape[1:]) <= MAX_RANDOM


def _row(generator: np.random.Generator, spec: TensorSpec, scale: float) -> HostArray:
    """One random row for that spec."""
    assert spec.dtype is not None
    assert spec.shape is not None
    return random_array(generator, spec.dtype, (1, *(axis or 1 for axis in spec.shape[1:])), scale)


def _perturbed(generator: np.random.Generator, array: HostArray) -> HostArray:
    """The same values in another order, so that indices and masks stay valid.

    Floats are also moved a little, and texts turned around: often there is but one.
    """
    # A copy, because NumPy shuffles an empty array where it is.
    values = generator.permutation(array.reshape(-1).copy()).reshape(array.shape)
    if is_float(values.dtype):
        moved = widened(values) * generator.uniform(0.9, 1.1, values.shape)
        return clipped(moved, array.dtype) if is_narrow(array.dtype) else moved.astype(array.dtype)
    if values.dtype == TEXT:
        return byte_strings.of([_turned(text) for text in values.flat], array.shape)
    return values


def _turned(text: bytes) -> bytes:
    """The text from its end to its start, by characters where it is UTF-8."""
    try:
        return text.decode()[::-1].encode()
    except UnicodeDecodeError:
        return text[::-1]

"""May this model's inputs be stacked? Found out by trying, because a graph does not tell.

Stacking is harmless when every input and output has a free axis 0 and two inputs give the same outputs apart and
stacked. Some models that look batchable and are not: batch normalisation left in training mode, a point cloud whose
axis 0 is points, recurrent state `[layers, batch, n]` exported with every axis free.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ndserve.types import Batching, HostArray, ModelInfo, Tensors, TensorSpec

Run = Callable[[Tensors], Tensors]
"""Host arrays in, host arrays out."""

ON = Batching("on", "two inputs gave the same outputs apart and stacked")

_SCALES = (1.0, 8.0, 1.0, 8.0, 64.0, 64.0)
"""Of the random inputs, round by round: some models mix rows, or come to life, only where values are large."""


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
    """Probe with random inputs; stays `untested` where other axes than 0 are free or the inputs do not suit."""
    verdict = before_loading(info)
    if verdict.mode == "off" or any(spec.shape is None or None in spec.shape[1:] for spec in info.inputs):
        return verdict
    generator = np.random.default_rng(0)
    # Two rounds do for real numbers; integers, such as the number of a class, also agree by chance.
    enough = 2 if any(spec.dtype is not None and spec.dtype.kind in "fc" for spec in info.outputs) else len(_SCALES)
    held = 0
    for scale in _SCALES:
        first, second = ({spec.name: _random(generator, spec, scale) for spec in info.inputs} for _ in range(2))
        verdict = _compare(run, first, second)
        held += verdict.mode == "on"
        if verdict.mode == "off" or held == enough:
            return verdict
    return ON if held else verdict


def with_request(run: Run, inputs: Tensors) -> Batching:
    """Probe with the first row of a real request and a perturbed copy of it; may stay `untested`."""
    generator = np.random.default_rng(0)
    first = {name: array[:1] for name, array in inputs.items()}
    second = {name: _perturbed(generator, array) for name, array in first.items()}
    if all(np.array_equal(first[name], second[name]) for name in first):
        return Batching("untested", "the requests so far were constant, which cannot tell")
    return _compare(run, first, second)


def _compare(run: Run, first: Tensors, second: Tensors) -> Batching:
    """One round: the inputs, of one row each, apart and stacked."""
    try:
        apart = (run(first), run(second))
    except Exception as error:  # whatever the runtime raises, the inputs did not suit
        return Batching("untested", f"the probe's inputs do not suit the model: {error}")
    try:
        stacked = run({name: np.concatenate([first[name], second[name]]) for name in first})
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
    if all(np.array_equal(apart[0][name], apart[1][name], equal_nan=True) for name in stacked):
        # Nothing could have leaked from row to row: a saturated model, or nothing but NaN.
        return Batching("untested", "the probe's inputs all gave the same outputs, which cannot tell")
    return ON


def _difference(actual: HostArray, expected: HostArray) -> str | None:
    """None where the two agree within rounding: 1e-4 of the largest value, or 1e-2 for half precision."""
    if actual.shape != expected.shape:
        return f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if actual.dtype.kind not in "fc":
        return None if np.array_equal(actual, expected) else "other integers"
    relative = 1e-2 if actual.dtype.itemsize == 2 else 1e-4
    finite = expected[np.isfinite(expected)]
    bound = relative * float(np.max(np.abs(finite), initial=0.0))
    if np.allclose(actual, expected, rtol=0, atol=bound, equal_nan=True):
        return None
    return f"by more than {bound:.3g}"


def _random(generator: np.random.Generator, spec: TensorSpec, scale: float) -> HostArray:
    """One row for that spec: normal floats, or the integers 0 and 1, which are valid indices nearly everywhere."""
    assert spec.dtype is not None
    assert spec.shape is not None
    shape = (1, *(axis or 1 for axis in spec.shape[1:]))
    if spec.dtype.kind in "fc":
        return (generator.standard_normal(shape) * scale).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)


def _perturbed(generator: np.random.Generator, array: HostArray) -> HostArray:
    """The same values in another order, so that indices and masks stay valid; floats are also moved a little."""
    values = generator.permutation(array.reshape(-1)).reshape(array.shape)
    if values.dtype.kind in "fc":
        values = (values * generator.uniform(0.9, 1.1, values.shape)).astype(array.dtype)
    return values

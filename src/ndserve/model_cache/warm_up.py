"""Runs a model before its first request, which would else wait for what a runtime does when it sees a shape first.

That is memory for each shape, the choice of a convolution's algorithm on a GPU, and TensorRT's building of engines.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from textwrap import shorten

import numpy as np

from ndserve.byte_strings import MAX_TEXTS
from ndserve.dtypes import TEXT
from ndserve.errors import ModelLoadError
from ndserve.model_cache.batch_safety import Run
from ndserve.model_cache.random_inputs import MAX_RANDOM, random_array
from ndserve.model_info import ModelInfo
from ndserve.types import HostArray, Tensors, TensorSpec

logger = logging.getLogger(__name__)

MAX_REASON = 500
"""Characters of an exception's text that a caller gets."""


def warm_up(run: Run, info: ModelInfo, max_batch: int, stacks: bool) -> None:
    """Run the model on made-up inputs of the shapes that `shapes_to_run` gives.

    Raises:
        ModelLoadError: the model fails on a shape that its `model.toml` declares. A shape that is merely likely may
            fail: its values are made up.
    """
    for shapes in shapes_to_run(info, max_batch, stacks):
        try:
            run(inputs_for(info, shapes))
        except Exception as error:  # whatever the runtime raises
            told = f"{_told(shapes)}: {shorten(str(error), MAX_REASON)}"
            if info.options.warmup is not None:
                raise ModelLoadError(
                    f"model {info.name!r} version {info.version} does not run on the shapes that its warmup declares,"
                    f" {told}; correct model.toml or remove warmup"
                ) from None
            logger.debug("model %s/%s is not warmed up with %s", info.name, info.version, told)


def shapes_to_run(info: ModelInfo, max_batch: int, stacks: bool) -> list[dict[str, tuple[int, ...]]]:
    """The shapes of the inputs to warm up with, run by run.

    They are those that `model.toml` declares. Where it declares none, they are the smallest and the largest batch, if
    all that is free of the inputs' shapes is axis 0, and nothing where more is free, or where it is very large.

    Args:
        max_batch: rows of the largest batch.
        stacks: whether the model's inputs may be stacked.
    """
    if info.options.warmup is not None:
        return [dict(shapes) for shapes in info.options.warmup]
    if not info.inputs:
        return []
    batches = (1, max_batch) if stacks and all(map(_is_free, info.inputs)) else (1,)
    return [shapes for rows in dict.fromkeys(batches) if (shapes := _of_batch(info, rows)) is not None]


def inputs_for(info: ModelInfo, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Inputs of those shapes, the same each time; narrow floats as such, texts as byte strings.

    Raises:
        ValueError: a shape is that of no input.
    """
    generator = np.random.default_rng(0)
    dtypes = {spec.name: spec.dtype for spec in info.inputs}
    inputs: dict[str, HostArray] = {}
    for name, shape in shapes.items():
        dtype = dtypes.get(name)
        if dtype is None:
            raise ValueError(f"there is no input {name!r}, only {', '.join(map(repr, dtypes))}")
        inputs[name] = random_array(generator, dtype, shape)
    return inputs


def _is_free(spec: TensorSpec) -> bool:
    return spec.shape is not None and spec.shape[:1] == (None,)


def _of_batch(info: ModelInfo, rows: int) -> dict[str, tuple[int, ...]] | None:
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in info.inputs:
        if spec.shape is None or None in spec.shape[1:]:
            return None
        shape = tuple(rows if axis is None else axis for axis in spec.shape)
        if math.prod(shape) > (MAX_TEXTS if spec.dtype == TEXT else MAX_RANDOM):
            return None
        shapes[spec.name] = shape
    return shapes


def _told(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "without inputs"

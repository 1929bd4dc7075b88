"""Built-in processes where numbers run out, in NumPy. The suite for every device is in tests/contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ndserve.processes.base import builtin_processes
from ndserve.types import HostArray

PROCESSES = {process.name: process for process in builtin_processes()}


def run(name: str, items: HostArray, **parameters: Any) -> HostArray:
    return np.asarray(PROCESSES[name](np, items, **parameters))


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_resize_holds_64_bits_to_53(dtype: str) -> None:
    limits = np.iinfo(dtype)
    corners = np.array([[[limits.min, limits.max], [2**53 + 1, 2**62 + 1]]], dtype)
    assert run("resize", corners, height=2, width=2).tolist() == [[[limits.min, limits.max], [2**53, 2**62]]]


@pytest.mark.parametrize("side", [1, 3, 7, 100])
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_resize_never_leaves_the_range_of_64_bits(dtype: str, side: int) -> None:
    limits = np.iinfo(dtype)
    for value in (limits.min, limits.max):
        assert set(run("resize", np.full((1, 5, 6), value, dtype), height=side, width=side).flat) == {value}


def test_resize_of_booleans_takes_the_nearest() -> None:
    row = run("resize", np.array([[[False, True]]]), height=1, width=5)
    assert row.tolist() == [[[False, False, False, True, True]]]


def test_softmax_of_many_equal_scores_of_half_precision_adds_up_to_1() -> None:
    probabilities = run("softmax", np.zeros((1, 100_000), np.float16))
    assert probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities.astype(np.float64).sum(), 1, rtol=0.01)


def test_normalize_takes_the_largest_numbers_of_half_precision() -> None:
    assert run("normalize", np.array([[-65504, 65504]], np.float16)).tolist() == [[-1, 1]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normalize_takes_numbers_whose_squares_are_zero(dtype: str) -> None:
    tiny = np.finfo(dtype).tiny
    assert np.isfinite(run("normalize", np.array([[tiny, 2 * tiny]], dtype))).all()


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "float16"), ("float64", "float64"), ("int8", "float32")])
@pytest.mark.parametrize("shape", [(2, 0), (2, 3, 0), (0, 3)])
def test_normalize_leaves_an_item_of_nothing_empty(shape: tuple[int, ...], dtype: str, expected: str) -> None:
    output = run("normalize", np.empty(shape, dtype))
    assert (output.shape, output.dtype.name) == (shape, expected)

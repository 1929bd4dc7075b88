"""The largest values of an output, as texts: order, ties, NaN, and what has no classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ndserve import byte_strings
from ndserve.codecs.open_inference.classification import classified
from ndserve.dtypes import NARROW
from ndserve.errors import InvalidInputError
from ndserve.types import HostArray


def classes_of(values: Any, classes: int, dtype: Any = np.float32, rows: int | None = None) -> list[Any]:
    return [*classified("y", np.array(values, dtype), classes, rows).tolist()]


def test_the_largest_values_come_first_with_their_positions() -> None:
    assert classes_of([0.25, 1.5, -3], 2) == [b"1.500000:1", b"0.250000:0"]


def test_negative_numbers_are_ordered_as_numbers() -> None:
    assert classes_of([-3, -1, -2], 3) == [b"-1.000000:1", b"-2.000000:2", b"-3.000000:0"]


def test_of_equal_values_the_first_comes_first() -> None:
    assert classes_of([1, 2, 1, 2, 1], 5, np.int32) == [b"2:1", b"2:3", b"1:0", b"1:2", b"1:4"]
    assert [text.split(b":")[1] for text in classes_of([0.5] * 20, 20)] == [b"%d" % n for n in range(20)]


def test_nan_comes_last_in_its_own_order() -> None:
    values = [math.nan, 1, -math.inf, math.nan, math.inf]
    assert classes_of(values, 5) == [b"inf:4", b"1.000000:1", b"-inf:2", b"nan:0", b"nan:3"]


def test_nan_does_not_push_a_number_out() -> None:
    assert classes_of([math.nan, 1, math.nan], 1) == [b"1.000000:1"]


def test_integers_stay_exact() -> None:
    assert classes_of([2**63, 2**63 + 1], 2, np.uint64) == [b"9223372036854775809:1", b"9223372036854775808:0"]
    assert classes_of([-(2**63), 2**63 - 1], 2, np.int64) == [b"9223372036854775807:1", b"-9223372036854775808:0"]


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), *NARROW.values()], ids=lambda dtype: dtype.name)
def test_half_numbers_are_written_as_what_they_mean(dtype: np.dtype[Any]) -> None:
    assert classes_of([0.5, 2, -1], 2, dtype) == [b"2.000000:1", b"0.500000:0"]


def test_every_row_of_a_batch_has_its_own_classes() -> None:
    assert classes_of([[1, 2], [4, 3]], 1, np.int8, rows=2) == [[b"2:1"], [b"4:0"]]


def test_the_axes_behind_the_batch_axis_count_as_one() -> None:
    array: HostArray = np.arange(12, dtype=np.int16).reshape(2, 2, 3)
    assert classified("y", array, 1, 2).tolist() == [[b"5:5"], [b"11:5"]]


def test_without_a_batch_axis_all_axes_count_as_one() -> None:
    assert classes_of([[1, 2], [4, 3]], 3, np.int8) == [b"4:2", b"3:3", b"2:1"]


def test_a_scalar_is_one_class() -> None:
    assert classes_of(7, 3, np.int8) == [b"7:0"]


def test_more_classes_than_there_are_values_give_all_of_them() -> None:
    assert classified("y", np.zeros((2, 3)), 10, 2).shape == (2, 3)


@pytest.mark.parametrize(("shape", "rows"), [((0, 3), 0), ((2, 0), 2), ((0,), None)])
def test_where_there_are_no_values_there_are_no_classes(shape: tuple[int, ...], rows: int | None) -> None:
    given = classified("y", np.zeros(shape), 2, rows)
    assert (given.size, len(given)) == (0, rows or 0)


@pytest.mark.parametrize(
    "array", [np.zeros(2, np.bool), np.zeros(2, np.complex64), byte_strings.of([b"a"], (1,))], ids=["b", "c", "texts"]
)
def test_what_is_no_real_number_has_no_classes(array: HostArray) -> None:
    with pytest.raises(InvalidInputError, match="output 'y' has no classes"):
        classified("y", array, 1, None)

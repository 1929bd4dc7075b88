"""The checks that every wire format shares."""

from __future__ import annotations

import numpy as np
import pytest

from ndserve.codecs.base import DTYPES, MAX_RANK, checked_dtype, checked_shape
from ndserve.errors import InvalidInputError, MalformedBodyError
from tests.unit.codecs.bodies import names_every_dtype


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (1,) * MAX_RANK])
def test_a_shape_of_plain_lengths_is_kept(shape: tuple[int, ...]) -> None:
    assert checked_shape(list(shape)) == shape


@pytest.mark.parametrize("axis", [-1, True, False, 2.0, "2", None, [2], 1j, np.int64(2)])
def test_an_axis_of_anything_else_is_refused(axis: object) -> None:
    with pytest.raises(MalformedBodyError, match="non-negative integers"):
        checked_shape([3, axis])


def test_one_axis_too_many_is_refused_with_both_figures() -> None:
    with pytest.raises(MalformedBodyError, match=f"{MAX_RANK + 1} axes; at most {MAX_RANK}"):
        checked_shape([1] * (MAX_RANK + 1))


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_goes_by_its_numpy_name(name: str) -> None:
    assert checked_dtype(name).name == name


@pytest.mark.parametrize("name", ["object", "O", "f4", "<f4", "str", "datetime64", "longdouble", "", None, 3, ["int8"]])
def test_any_other_name_is_refused_with_those_that_are_read(name: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        checked_dtype(name)
    assert names_every_dtype(caught.value.message)

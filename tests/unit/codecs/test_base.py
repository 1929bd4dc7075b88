"""The checks that every wire format shares."""

from __future__ import annotations

import numpy as np
import pytest

from ndserve.codecs.base import DTYPES, MAX_RANK, Budget, blaming, checked_dtype, checked_shape, excerpt, wire_name
from ndserve.errors import BodyTooLargeError, InvalidInputError, MalformedBodyError, NotAcceptableError
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


@pytest.mark.parametrize("shape", [(2**59, 0), (1, 2**20, 0, 2**39)])
def test_every_shape_that_passes_is_one_that_numpy_can_make(shape: tuple[int, ...]) -> None:
    with pytest.raises(MalformedBodyError, match="larger than any memory"):
        checked_shape(shape)
    smaller = tuple(axis // 2 if axis > 2**30 else axis for axis in shape)
    assert np.empty(checked_shape(smaller), np.complex128).shape == smaller


@pytest.mark.parametrize("order", "<>=")
def test_an_outputs_dtype_has_the_same_name_in_either_byte_order(order: str) -> None:
    assert wire_name(np.dtype(f"{order}f8")) == "float64"


@pytest.mark.parametrize("dtype", ["O", "U3", "M8[s]", "V4", "f4,f4", np.longdouble])
def test_an_output_of_another_dtype_has_no_name(dtype: str) -> None:
    with pytest.raises(NotAcceptableError, match="no form on the wire"):
        wire_name(np.dtype(dtype))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a'b", '"a\'b"'),
        ("x" * 100, repr("x" * 100)),
        ("x" * 101, repr("x" * 100) + "…"),
        pytest.param(10**5000, "<int>", id="huge"),
    ],
)
def test_a_clients_text_is_quoted_only_so_far(value: object, shown: str) -> None:
    assert excerpt(value) == shown


def test_a_lists_depth_does_not_matter_to_its_excerpt() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert excerpt(nested) == "<list>"


def test_a_budget_holds_for_all_arrays_together() -> None:
    budget = Budget(10)
    budget.take(4)
    budget.take(6)
    with pytest.raises(BodyTooLargeError, match="more than 10 bytes") as caught:
        budget.take(1)
    assert caught.value.details == {"limit": 10}


@pytest.mark.parametrize("kind", [MalformedBodyError, InvalidInputError])
def test_a_refusal_keeps_its_kind_when_the_part_at_fault_is_named(
    kind: type[MalformedBodyError | InvalidInputError],
) -> None:
    with pytest.raises(kind, match=r"^left: too odd$"), blaming("left"):
        raise kind("too odd")

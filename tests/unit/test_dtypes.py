"""The dtypes beyond NumPy's own: their names, and the bits that devices see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ndserve.dtypes import NARROW, PLAIN, TEXT, carried, carrier, is_float, is_narrow, name_of, uncarried, widened
from ndserve.types import TensorSpec

every_narrow = pytest.mark.parametrize("dtype", NARROW.values(), ids=str)


@every_narrow
def test_the_bits_of_a_narrow_float_give_it_back(dtype: np.dtype[Any]) -> None:
    bits = np.arange(1 << 8 * dtype.itemsize, dtype=carrier(dtype)).reshape(4, -1)
    floats = uncarried(bits, dtype)
    assert (floats.dtype, carried(floats).dtype) == (dtype, bits.dtype)
    np.testing.assert_array_equal(carried(floats), bits)


@every_narrow
@pytest.mark.parametrize("shape", [(), (0,), (2, 0)], ids=str)
def test_the_bits_have_the_shape_of_the_floats(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    assert uncarried(carried(np.zeros(shape, dtype)), dtype).shape == shape


@pytest.mark.parametrize("dtype", [*PLAIN.values(), TEXT], ids=str)
def test_anything_else_is_its_own_carrier(dtype: np.dtype[Any]) -> None:
    array = np.zeros(2, dtype)
    assert carried(array) is array
    assert uncarried(array, dtype) is array
    assert widened(array) is array
    assert carrier(dtype) == dtype
    assert not is_narrow(dtype)


@every_narrow
def test_only_the_bits_become_narrow_floats(dtype: np.dtype[Any]) -> None:
    others = np.zeros(2, np.float32)
    assert uncarried(others, dtype) is others


@every_narrow
def test_every_narrow_float_keeps_its_value_as_a_wide_one(dtype: np.dtype[Any]) -> None:
    floats = np.arange(1 << 8 * dtype.itemsize, dtype=carrier(dtype)).view(dtype)
    wide = widened(floats)
    assert wide.dtype == np.float32
    finite = np.isfinite(wide)
    with np.errstate(invalid="ignore"):  # ml_dtypes warns of NaN of some bit patterns
        back = wide.astype(dtype)
        np.testing.assert_array_equal(finite, np.isfinite(floats))
    assert back[finite].tobytes() == floats[finite].tobytes()


@pytest.mark.parametrize(
    ("dtype", "real"),
    [(np.dtype("float16"), True), (np.dtype("complex64"), True), (np.dtype("uint16"), False), (TEXT, False)]
    + [(dtype, True) for dtype in NARROW.values()],
    ids=str,
)
def test_floats_are_told_from_other_dtypes(dtype: np.dtype[Any], real: bool) -> None:
    assert is_float(dtype) is real


@pytest.mark.parametrize(
    ("dtype", "name"), [(TEXT, "bytes"), (NARROW["bfloat16"], "bfloat16"), (np.dtype("<f4"), "float32")], ids=str
)
def test_callers_know_a_dtype_by_one_name(dtype: np.dtype[Any], name: str) -> None:
    assert name_of(dtype) == name
    assert str(TensorSpec("x", dtype, (None, 3))) == f"x: {name}[?, 3]"

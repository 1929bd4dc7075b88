"""The protocol's names of datatypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ndserve.codecs.open_inference.datatypes import DATATYPES, DTYPES, datatype_of, dtype_of
from ndserve.dtypes import NARROW, PLAIN, TEXT
from ndserve.errors import MalformedBodyError, NotAcceptableError


@pytest.mark.parametrize(
    ("name", "scalar"),
    [
        ("BOOL", np.bool),
        ("UINT8", np.uint8),
        ("UINT16", np.uint16),
        ("UINT32", np.uint32),
        ("UINT64", np.uint64),
        ("INT8", np.int8),
        ("INT16", np.int16),
        ("INT32", np.int32),
        ("INT64", np.int64),
        ("FP16", np.float16),
        ("FP32", np.float32),
        ("FP64", np.float64),
        ("BF16", ml_dtypes.bfloat16),
        ("BYTES", object),
    ],
)
def test_every_datatype_of_the_protocol_has_its_dtype(name: str, scalar: type) -> None:
    assert dtype_of(name) == np.dtype(scalar)
    assert datatype_of(np.dtype(scalar), "y") == name


def test_every_dtype_but_the_complex_ones_has_a_datatype() -> None:
    every = [*PLAIN.values(), *NARROW.values(), TEXT]
    assert [dtype.name for dtype in every if dtype not in DATATYPES] == ["complex64", "complex128"]


def test_no_two_dtypes_share_a_datatype() -> None:
    assert len(DATATYPES) == len(DTYPES)


@pytest.mark.parametrize("name", ["fp32", "float32", "INT4", "", None, 1, []])
def test_what_is_no_datatype_is_refused(name: object) -> None:
    with pytest.raises(MalformedBodyError, match="is unknown; use one of BOOL"):
        dtype_of(name)


@pytest.mark.parametrize("dtype", ["complex64", "M8[s]", "<U3", "f4,f4"])
def test_a_dtype_without_a_datatype_is_refused_with_the_tensors_name(dtype: str) -> None:
    with pytest.raises(NotAcceptableError, match="'y' is of dtype"):
        datatype_of(np.dtype(dtype), "y")

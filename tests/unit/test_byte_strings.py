"""Texts in arrays: laid end to end and read again, and damaged bytes refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndserve import byte_strings


@given(elements=st.lists(st.binary(max_size=20), max_size=8))
def test_texts_come_back_as_they_were_laid(elements: list[bytes]) -> None:
    array = byte_strings.of(elements, (1, len(elements)))
    again = byte_strings.unpack(byte_strings.pack(array), len(elements), (1, len(elements)))
    assert (again.shape, again.tolist()) == (array.shape, [elements])


def test_texts_are_laid_in_c_order_with_their_lengths() -> None:
    array = byte_strings.of([b"a", b"bc", b"", b"d"], (2, 2)).T
    assert byte_strings.pack(array) == b"\1\0\0\0a" + b"\0\0\0\0" + b"\2\0\0\0bc" + b"\1\0\0\0d"


@pytest.mark.parametrize(
    ("data", "count", "match"),
    [
        (b"", 1, "take at least 4 bytes, but there are 0"),
        (b"\1\0\0\0a", 10**9, "take at least 4000000000 bytes"),
        (b"\1\0\0\0a\0\0\0", 2, "element 1 of 2 is cut off"),
        (b"\5\0\0\0ab", 1, "element 0 of 1 has 5 bytes, of which 2 are there"),
        (b"\1\0\0\0ab", 1, "1 bytes are left"),
    ],
)
def test_bytes_that_hold_other_texts_are_refused(data: bytes, count: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        byte_strings.unpack(data, count, (count,))


@pytest.mark.parametrize(
    "array",
    [
        np.array(["é", "b"]),
        np.array(["é", "b"], object),
        np.array(["é".encode(), b"b"]),
        np.array(["é", "b"], np.dtypes.StringDType()),
    ],
    ids=["U", "objects", "S", "StringDType"],
)
def test_strings_of_every_kind_become_byte_strings(array: np.ndarray[Any, Any]) -> None:
    encoded = byte_strings.encoded(array)
    assert (encoded.dtype, encoded.tolist()) == (np.dtype(object), ["é".encode(), b"b"])


def test_other_objects_are_refused_by_their_type() -> None:
    with pytest.raises(TypeError, match="an element is of type dict"):
        byte_strings.encoded(np.array([b"a", {}], object))


def test_texts_without_axes_stay_so() -> None:
    scalar = byte_strings.of([b"a"], ())
    assert byte_strings.decoded(scalar).shape == byte_strings.encoded(np.array("a")).shape == ()


def test_a_text_that_is_not_utf_8_is_told_by_its_place() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        byte_strings.decoded(byte_strings.of([b"a", b"b", b"\xff"], (3,)))
    assert caught.value.reason == "element 2 is not UTF-8"

"""The JSON codec: which dtype an array takes, which values that dtype takes, and what is no array."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ndserve.codecs.json import JsonCodec
from ndserve.errors import InvalidInputError, MalformedBodyError
from ndserve.types import TensorSpec
from tests.unit.codecs.bodies import LIMIT, names_every_dtype, refused
from tests.unit.codecs.json_documents import ANY, BYTE, FLOAT, decode, the_one


@pytest.mark.parametrize("name", ["object", "str", "float128", "<f4", "f4", "", 4, {}, [], True])
def test_any_other_dtype_is_refused_with_those_that_are_read(name: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode({"array": [1], "dtype": name})
    assert names_every_dtype(caught.value.message)


@pytest.mark.parametrize(("value", "dtype"), [(1.5, "int32"), (1.0, "uint8"), (1, "bool"), (0.0, "bool")])
def test_values_of_a_wider_kind_are_refused_not_rounded(value: float, dtype: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{dtype} cannot hold exactly"):
        decode({"array": [value], "dtype": dtype})


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        *((256, "uint8"), (-1, "uint8"), (128, "int8"), (2**63, "int64"), (-1, "uint64")),
        *((70_000.0, "float16"), (70_000, "float16"), (1e39, "float32"), (-1e39, "float32"), (1e39, "complex64")),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_dtype(value: float, dtype: str) -> None:
    with pytest.raises(InvalidInputError, match=f"outside the range of {dtype}"):
        decode({"array": [0, value], "dtype": dtype})


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
def test_an_integer_beyond_64_bits_is_refused_for_integers(value: int) -> None:
    with pytest.raises(InvalidInputError):
        decode({"array": [value], "dtype": "int64"})


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_are_exact(dtype: str) -> None:
    info = np.iinfo(dtype)
    values = [info.min, info.max - 1, info.max, 1]
    assert the_one({"array": values, "dtype": dtype}).tolist() == values


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1, 2**63], "uint64"), ([2**64 - 1, 0], "uint64"), ([1, -(2**63)], "int64"), ([True, 2], "int64")],
)
def test_integers_without_a_dtype_are_exact(values: list[int], dtype: str) -> None:
    array = the_one(values, ANY)
    assert array.dtype == dtype
    assert array.tolist() == values


def test_integers_that_no_dtype_holds_together_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="outside the range"):
        decode([-1, 2**63], ANY)
    assert the_one({"array": [-1, 2**63], "dtype": "float64"}).tolist() == [-1, 2**63]


@pytest.mark.parametrize(("value", "dtype"), [([], "float64"), ([True], "bool"), ([True, 0.5], "float64")])
def test_any_other_value_without_a_dtype_takes_numpys_choice(value: object, dtype: str) -> None:
    assert the_one(value, ANY).dtype == np.array(value).dtype == dtype


@pytest.mark.parametrize("dtype", ["int8", "float32", "complex64"])
def test_booleans_become_zero_and_one(dtype: str) -> None:
    assert the_one({"array": [True, False], "dtype": dtype}).tolist() == [1, 0]


def test_null_is_read_as_nan() -> None:
    array = the_one([[1, None], [None, 4]], FLOAT)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.array([[1, np.nan], [np.nan, 4]], np.float32))


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_null_is_refused_where_nan_cannot_be(dtype: str) -> None:
    with pytest.raises(InvalidInputError):
        decode({"array": [1, None], "dtype": dtype})


def test_nan_and_infinity_are_written_as_null() -> None:
    payload = JsonCodec().encode({"y": np.array([np.nan, np.inf, 1.0])})
    assert json.loads(b"".join(payload.chunks)) == {"array": [None, None, 1.0], "dtype": "float64", "shape": [3]}


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[1e999]", "[-1e999]"])
def test_nan_and_infinity_have_no_text(text: str) -> None:
    with pytest.raises(MalformedBodyError, match="not JSON"):
        decode(text)


@pytest.mark.parametrize(
    "document", ["a", ["a"], ["1"], ["1.5", None], [1, "2"], [[1], ["2"]], ["nan"], "", [True, ""]]
)
@pytest.mark.parametrize("spec", [FLOAT, ANY], ids=str)
def test_strings_are_refused_even_where_they_look_like_numbers(document: object, spec: TensorSpec) -> None:
    with pytest.raises(MalformedBodyError):
        decode({"array": document}, spec)


def test_one_long_text_makes_no_room_for_many() -> None:
    """NumPy's own choice would be a text of the longest one's size in every place: 40 MB here."""
    body = json.dumps(["x" * 100_000] + [1] * 100).encode()
    refused(lambda: JsonCodec().decode(body, (), LIMIT), "something else than numbers")


@pytest.mark.parametrize("document", [[[1, 2], [3]], [[1], 2], [1, [2]], [[1, 2], None], [[], [1]], [[[1]], [2]]])
def test_ragged_lists_are_refused(document: object) -> None:
    with pytest.raises(MalformedBodyError, match="ragged"):
        decode(document)


@pytest.mark.parametrize("document", [[{"a": 1}], [{}, None], {"array": {"array": [1]}}, {"array": [[1], {}]}])
def test_an_object_among_the_values_is_refused(document: object) -> None:
    with pytest.raises(MalformedBodyError):
        decode(document)


@pytest.mark.parametrize("depth", [33, 64, 65, 500, 1024, 100_000])
@pytest.mark.parametrize("core", ["", "1", "null"])
def test_deep_nesting_is_refused(depth: int, core: str) -> None:
    with pytest.raises(MalformedBodyError):
        decode("[" * depth + core + "]" * depth)


def test_thirty_two_levels_are_read() -> None:
    assert the_one("[" * 32 + "1" + "]" * 32).shape == (1,) * 32


def test_an_empty_list_takes_the_targets_dtype() -> None:
    assert the_one([], BYTE).dtype == np.uint8


def test_a_dtype_nested_a_thousand_deep_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        decode('{"array": [1], "dtype": ' + "[" * 1000 + "]" * 1000 + "}")

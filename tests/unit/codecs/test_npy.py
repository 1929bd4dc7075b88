"""The .npy reader: versions, layouts, and headers that lie."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ndserve.codecs.npy import MAX_HEADER, SMALL, NpyCodec, is_view, read_npy, write_npy
from ndserve.errors import MalformedBodyError
from ndserve.types import HostArray
from tests.unit.codecs.bodies import LIMIT, REFUSALS, names_every_dtype, npy_file, npy_header, refused, saved

ARRAY: HostArray = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(version: tuple[int, int]) -> None:
    np.testing.assert_array_equal(read_npy(saved(ARRAY, version)), ARRAY)


@pytest.mark.parametrize("version", [0, 4, 255])
def test_an_unknown_version_is_refused_and_named(version: int) -> None:
    body = bytearray(saved(ARRAY))
    body[6] = version
    refused(lambda: read_npy(body), f"version {version} is unknown")


def test_big_endian_values_become_native() -> None:
    array = read_npy(saved(ARRAY.astype(">f4")))
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, ARRAY)


def test_a_big_endian_scalar_stays_a_scalar() -> None:
    array = read_npy(saved(np.array(258, ">i2")))
    assert (array.shape, array.item()) == ((), 258)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (6,), (0, 3), ()])
def test_fortran_order_is_read_as_the_same_array(shape: tuple[int, ...]) -> None:
    wanted = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    text = npy_header("'<i2'", str(shape), "True")
    array = read_npy(npy_file(text, wanted.tobytes(order="F")))
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, wanted)


def test_an_aligned_native_array_is_a_view_of_the_body() -> None:
    body = bytearray(saved(ARRAY))
    array = read_npy(body)
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))


def test_a_view_of_a_mutable_body_cannot_be_written() -> None:
    array = read_npy(bytearray(saved(ARRAY)))
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0


def test_an_unaligned_header_gives_an_aligned_array() -> None:
    text = npy_header("'<f8'")
    odd = text if (10 + len(text)) % 8 else " " + text
    array = read_npy(npy_file(odd, np.array([1.5, 2.5]).tobytes()))
    assert array.flags.aligned
    assert array.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_a_file_cut_off_anywhere_is_malformed(version: tuple[int, int]) -> None:
    body = saved(ARRAY, version)
    for length in range(len(body)):
        with pytest.raises(MalformedBodyError):
            read_npy(body[:length])


@pytest.mark.parametrize("extra", [-24, -1, 1, 1000])
def test_missing_and_trailing_bytes_are_named_with_both_figures(extra: int) -> None:
    body = saved(ARRAY)
    body = body + bytes(extra) if extra > 0 else body[:extra]
    refused(lambda: read_npy(body), rf"float32\[2, 3\], which is 24 bytes, but {24 + extra} follow it")


def test_two_files_end_to_end_are_refused() -> None:
    refused(lambda: read_npy(saved(ARRAY) * 2), "follow it")


def test_a_header_length_beyond_the_body_is_named_with_both_figures() -> None:
    body = npy_file(npy_header(), bytes(8), length=4000)
    refused(lambda: read_npy(body), f"header has 4000 bytes, but the body ends after {len(body)}")


@pytest.mark.parametrize(("version", "length"), [(1, MAX_HEADER + 1), (1, 0xFFFF), (2, 1 << 20), (3, 0xFFFFFFFF)])
def test_a_header_longer_than_any_honest_one_is_refused(version: int, length: int) -> None:
    body = npy_file(npy_header(), bytes(8), version, length)
    refused(lambda: read_npy(body), f"header has {length} bytes; at most {MAX_HEADER}")


@pytest.mark.parametrize("length", [0, 1, 20, 50])
def test_a_header_length_that_cuts_the_header_is_refused(length: int) -> None:
    body = npy_file(npy_header(), bytes(8), length=length)
    refused(lambda: read_npy(body), "not a dictionary")


def test_the_longest_header_is_read() -> None:
    body = npy_file(npy_header().strip().ljust(MAX_HEADER), bytes(8))
    assert read_npy(body).shape == (2,)


@pytest.mark.parametrize("shape", ["(300000000,)", f"({2**40},)", f"({2**62}, {2**62})", f"({10**300},)"])
def test_a_huge_shape_is_refused_before_anything_is_allocated(shape: str) -> None:
    body = npy_file(npy_header(shape=shape), bytes(8))
    refused(lambda: read_npy(body))


@pytest.mark.parametrize("shape", [f"(0, {2**62})", f"(0, {2**40}, {2**40})", f"({2**100}, 0)"])
def test_a_huge_shape_without_values_is_refused(shape: str) -> None:
    body = npy_file(npy_header(shape=shape))
    refused(lambda: NpyCodec().decode(body, (), LIMIT))


@pytest.mark.parametrize("place", ["shape", "negative shape", "descr"])
def test_an_integer_too_long_to_print_is_refused(place: str) -> None:
    digits = "0x" + "f" * 3800  # over the interpreter's limit on decimal digits
    text = {
        "shape": npy_header(shape=f"({digits},)"),
        "negative shape": npy_header(shape=f"(-{digits},)"),
        "descr": npy_header(descr=digits),
    }[place]
    body = npy_file(text)
    refused(lambda: read_npy(body))


@pytest.mark.parametrize("axis", ["-1", "True", "False", "'2'", "2.0", "None", "(2,)", "1j"])
def test_an_axis_that_is_no_plain_length_is_refused(axis: str) -> None:
    body = npy_file(npy_header(shape=f"({axis},)"), bytes(8))
    refused(lambda: read_npy(body), "non-negative integers")


def test_more_than_thirty_two_axes_are_refused_with_the_bound() -> None:
    body = npy_file(npy_header(shape=str((1,) * 33)), bytes(4))
    refused(lambda: read_npy(body), "33 axes; at most 32")


@pytest.mark.parametrize(("shape", "fortran"), [("[2]", "False"), ("2", "False"), ("(2,)", "0"), ("(2,)", "'C'")])
def test_a_shape_or_an_order_of_another_type_is_refused(shape: str, fortran: str) -> None:
    body = npy_file(npy_header("'<f4'", shape, fortran), bytes(8))
    refused(lambda: read_npy(body), "must be a bool and its shape a tuple")


@pytest.mark.parametrize(
    "descr",
    [
        *("|O", "O8", "M8[ns]", "m8[us]", "<U4", "|S4", "|V8", "f4,f4", "(2,)f4", "2f4", "<f16", "<c32", "a5", "", "<"),
        *("é", "(1,f4", "(2, 2", "x" * 3000),
    ],
)
def test_any_other_dtype_is_refused_with_those_that_are_read(descr: str) -> None:
    body = npy_file(npy_header(repr(descr)), bytes(8))
    message = refused(lambda: read_npy(body), "is not supported")
    assert names_every_dtype(message)
    assert len(message) < 500


@pytest.mark.parametrize(
    "descr", ["[('x', '<f4')]", "('<f4', (2,))", "None", "4", "{'names': ['a'], 'formats': ['f4']}"]
)
def test_a_structured_dtype_is_refused_with_those_that_are_read(descr: str) -> None:
    body = npy_file(npy_header(descr), bytes(8))
    assert names_every_dtype(refused(lambda: read_npy(body), "is not supported"))


def test_a_pickle_is_never_loaded() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    refused(lambda: read_npy(buffer.getvalue()), "never read")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 2000,
        "[" * 150 + "]" * 150,
        "-" * 4000 + "1",
        "not " * 1000 + "1",
        "{" * 90 + "}" * 90,
        "1" + "+1j" * 1300,
        "9" * 4090,
        "9**9**9**9",
        "__import__('os').abort()",
        "{\0}",
        "\\",
        "'\\d'",
        "",
        "\x93NUMPY",
        "{'descr': '<f4', 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)",
        "['descr', 'fortran_order', 'shape']",
        "{[]: 1}",
    ],
)
def test_hostile_header_text_is_malformed(text: str) -> None:
    body = npy_file(text, bytes(8))
    refused(lambda: read_npy(body), "not a dictionary")


def test_a_key_that_nobody_knows_changes_nothing() -> None:
    body = npy_file(npy_header(extra="'written_by': 'x'"), np.array([1, 2], np.float32).tobytes())
    assert read_npy(body).tolist() == [1, 2]


@given(st.text("()[]<>|=,:?0123456789fiucbaSUOVMmbdegqh", max_size=10))
@example("(1,f4")
@settings(max_examples=300, deadline=None)
def test_any_dtype_text_is_read_or_refused(descr: str) -> None:
    body = npy_file(npy_header(repr(descr), "()"), bytes(8))
    try:
        array = read_npy(body)
    except MalformedBodyError:
        return
    assert array.nbytes == 8


@given(st.text("{}[]()'\":,.0123456789xefTruFalsNon+-*<> descrshapfotn_", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_header_text_is_read_or_refused(text: str) -> None:
    body = npy_file(text, bytes(8))
    with pytest.raises(REFUSALS):
        read_npy(body)


def test_a_large_array_is_written_without_a_copy() -> None:
    array = np.zeros(SMALL + 1, np.uint8)
    _, data = write_npy(array)
    assert np.shares_memory(np.frombuffer(data, np.uint8), array)
    assert len(data) == array.nbytes


def test_a_small_array_is_written_as_one_buffer() -> None:
    (file,) = write_npy(ARRAY)
    np.testing.assert_array_equal(np.load(io.BytesIO(file)), ARRAY)


def test_an_array_in_another_order_is_written_in_c_order() -> None:
    array = np.asfortranarray(np.arange(60_000, dtype=np.float64).reshape(300, 200))
    np.testing.assert_array_equal(np.load(io.BytesIO(b"".join(write_npy(array)))), array)


@pytest.mark.parametrize("order", "<>|")
@pytest.mark.parametrize("kind", ["b1", "i1", "u1"])
def test_a_single_byte_has_any_byte_order(order: str, kind: str) -> None:
    """NumPy writes '|u1', and cnpy writes '<u1'."""
    body = npy_file(npy_header(repr(order + kind)), b"\x01\x00")
    assert read_npy(body).tolist() == [1, 0]


def test_headers_of_one_length_and_other_text_are_told_apart() -> None:
    first, second = saved(np.zeros((2, 3), np.float32)), saved(np.zeros((3, 2), np.float32))
    assert len(first) == len(second) == 128 + 24
    assert [read_npy(body).shape for body in (first, second, first)] == [(2, 3), (3, 2), (2, 3)]


def test_an_aligned_view_of_an_unaligned_slice_is_a_copy() -> None:
    body = memoryview(b"x" + saved(np.arange(3.0)))[1:]
    array = read_npy(body)
    assert array.flags.aligned
    assert not np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert array.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "view"),
    [
        pytest.param(saved(ARRAY), True, id="as NumPy writes it"),
        pytest.param(saved(ARRAY, (2, 0)), True, id="version 2"),
        pytest.param(saved(np.asfortranarray(ARRAY)), False, id="Fortran order"),
        pytest.param(saved(ARRAY.astype(">f4")), False, id="big-endian"),
        pytest.param(npy_file(npy_header("'<f8'").rjust(63), bytes(16)), False, id="unaligned"),
        pytest.param(b"\x93NUMPY\x01\x00", True, id="refused"),
    ],
)
def test_what_is_read_without_a_copy_is_known_from_the_header(body: bytes, view: bool) -> None:
    assert is_view(body) is view

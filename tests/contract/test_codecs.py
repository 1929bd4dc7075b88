"""What every wire format promises: arrays come back as they went, and no bytes do harm.

JSON carries no infinity and no complex number, and NaN only as null, so its properties draw finite real arrays.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ndserve.codecs import CODECS
from ndserve.codecs.base import DTYPES, UNNAMED, Buffer, Codec
from ndserve.codecs.json import JsonCodec
from ndserve.codecs.npy import NpyCodec
from ndserve.dtypes import PLAIN, is_float
from ndserve.errors import BodyTooLargeError, NotAcceptableError
from ndserve.types import HostArray, Tensors, TensorSpec
from tests.unit.codecs.bodies import LIMIT, REFUSALS

every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
every_codec_of_several = pytest.mark.parametrize(
    "codec", [codec for codec in CODECS if not isinstance(codec, NpyCodec)], ids=lambda codec: type(codec).__name__
)

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["file", "args", "kwds", "arr_1", "x.npy", "a/b", "..", "inputs", "array", "dtype"]
)


def carries(codec: Codec, dtype: np.dtype[Any]) -> bool:
    return dtype.kind != "c" or not isinstance(codec, JsonCodec)


def arrays_for(codec: Codec) -> st.SearchStrategy[HostArray]:
    """Arrays of every dtype and of many shapes that the format can carry bit for bit."""
    finite = isinstance(codec, JsonCodec)
    dtypes = [dtype for dtype in PLAIN.values() if carries(codec, dtype)]

    def of(dtype: np.dtype[Any]) -> st.SearchStrategy[HostArray]:
        values = hnp.from_dtype(dtype, allow_nan=not finite, allow_infinity=not finite)
        return hnp.arrays(dtype, SHAPES, elements=values)

    return st.sampled_from(dtypes).flatmap(of)


def encoded(codec: Codec, outputs: Tensors) -> bytes:
    return b"".join(codec.encode(outputs).chunks)


def the_one(tensors: Tensors) -> HostArray:
    (array,) = tensors.values()
    return array


def assert_same(got: HostArray, wanted: HostArray) -> None:
    """Equal bit for bit, so that NaN and the sign of zero count."""
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    assert got.tobytes() == wanted.tobytes()


def assert_sound(tensors: Tensors, body: Buffer) -> None:
    """The layout that everything behind a codec builds on."""
    for array in tensors.values():
        assert array.dtype in DTYPES.values()
        assert array.dtype.isnative
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert not (array.flags.writeable and np.may_share_memory(array, np.frombuffer(body, np.uint8)))


@every_codec
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_one_array_comes_back_bit_for_bit(codec: Codec, data: st.DataObject) -> None:
    array = data.draw(arrays_for(codec))
    body = bytearray(encoded(codec, {"y": array}))
    decoded = codec.decode(body, (), LIMIT)
    assert_same(the_one(decoded), array)
    assert_sound(decoded, body)


@every_codec_of_several
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_several_arrays_come_back_under_their_names(codec: Codec, data: st.DataObject) -> None:
    arrays: Mapping[str, HostArray] = data.draw(st.dictionaries(NAMES, arrays_for(codec), min_size=2, max_size=4))
    body = bytearray(encoded(codec, arrays))
    decoded = codec.decode(body, (), LIMIT)
    assert decoded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_same(decoded[name], array)
    assert_sound(decoded, body)


@every_codec
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_the_extremes_of_every_dtype_come_back(codec: Codec, dtype: np.dtype[Any]) -> None:
    if not carries(codec, dtype):
        with pytest.raises(NotAcceptableError):
            codec.encode({"y": np.zeros(2, dtype)})
        return
    info = ml_dtypes.finfo(dtype) if is_float(dtype) else np.iinfo(dtype) if dtype.kind in "iu" else None  # type: ignore[no-untyped-call]
    extremes = np.array([False, True] if info is None else [info.min, info.max, 0, 1], dtype)
    specs = [TensorSpec("y", dtype)]
    assert_same(the_one(codec.decode(encoded(codec, {"y": extremes}), specs, LIMIT)), extremes)


@every_codec
def test_thirty_two_axes_are_carried(codec: Codec) -> None:
    array = np.arange(4, dtype=np.int16).reshape((1,) * 30 + (2, 2))
    assert_same(the_one(codec.decode(encoded(codec, {"y": array}), (), LIMIT)), array)


@every_codec
@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "read-only", "big-endian"])
def test_arrays_of_any_layout_are_written(codec: Codec, layout: str) -> None:
    array: HostArray = np.arange(24, dtype=np.float32).reshape(4, 6)
    laid_out = {
        "fortran": np.asfortranarray(array),
        "strided": np.repeat(array, 2, axis=1)[:, ::2],
        "reversed": array[::-1].copy()[::-1],
        "read-only": np.frombuffer(array.tobytes(), np.float32).reshape(4, 6),
        "big-endian": array.astype(">f4"),
    }[layout]
    assert_same(the_one(codec.decode(encoded(codec, {"y": laid_out}), (), LIMIT)), array)


@every_codec
def test_large_arrays_in_another_layout_come_back(codec: Codec) -> None:
    array = np.asfortranarray(np.arange(60_000, dtype=np.int32).reshape(200, 300))
    assert_same(the_one(codec.decode(encoded(codec, {"y": array}), (), LIMIT)), np.ascontiguousarray(array))


@every_codec
@pytest.mark.parametrize("offset", range(4))
def test_a_body_of_any_buffer_type_and_alignment_is_read(codec: Codec, offset: int) -> None:
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    body = encoded(codec, {"y": array})
    for buffer in (body, bytearray(body), memoryview(bytearray(b"x" * offset + body))[offset:]):
        decoded = codec.decode(buffer, (), LIMIT)
        assert_same(the_one(decoded), array)
        assert_sound(decoded, buffer)


@every_codec
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.array([{}]), id="object"),
        pytest.param(np.array({}), id="scalar object"),
        pytest.param(np.zeros(1, ml_dtypes.float8_e8m0fnu), id="float of no model"),
        pytest.param(np.zeros(1, ml_dtypes.int4), id="half a byte"),
        pytest.param(np.array(["a"]), id="text"),
        pytest.param(np.array("a"), id="scalar text"),
        pytest.param(np.array([b"a"]), id="bytes"),
        pytest.param(np.array(["2024-01-01"], np.datetime64), id="date"),
        pytest.param(np.zeros(1, "f4,i4"), id="structured"),
        pytest.param(np.ones(1, np.longdouble), id="long double"),
    ],
)
def test_an_array_that_decode_would_refuse_is_not_written(codec: Codec, value: HostArray) -> None:
    with pytest.raises(NotAcceptableError):
        codec.encode({"y": value})


@every_codec
def test_an_answer_carries_the_first_media_type(codec: Codec) -> None:
    assert codec.encode({"y": np.zeros(1)}).content_type.decode() == codec.media_types[0]


@every_codec
@pytest.mark.parametrize("dtype", ["uint8", "complex128"])
def test_arrays_over_the_limit_are_refused(codec: Codec, dtype: str) -> None:
    array = np.arange(8, dtype=np.uint8 if isinstance(codec, JsonCodec) else dtype)
    if isinstance(codec, JsonCodec):
        body = b'{"array": %b, "dtype": "%b"}' % (json.dumps(array.tolist()).encode(), dtype.encode())
    else:
        body = encoded(codec, {"y": array})
    needed = 8 * np.dtype(dtype).itemsize
    with pytest.raises(BodyTooLargeError):
        codec.decode(body, (), needed - 1)


@every_codec
def test_arrays_of_just_the_limit_are_read(codec: Codec) -> None:
    array = np.arange(8, dtype=np.float32)
    assert_same(the_one(codec.decode(encoded(codec, {"y": array}), (), array.nbytes)), array)


@every_codec
@given(start=st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"[", b'{"array":']), rest=st.binary())
@example(start=b"\x93NUMPY", rest=b"\x02\x00\xff\xff\xff\xff")
@example(start=b"PK\x03\x04", rest=b"PK\x05\x06" + bytes(18))
@settings(max_examples=150, deadline=None)
def test_arbitrary_bytes_are_read_or_refused_by_name(codec: Codec, start: bytes, rest: bytes) -> None:
    assert_only_refusals(codec, start + rest)


Edit = tuple[str, int, bytes]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["overwrite", "insert", "delete", "cut", "repeat"]),
        st.integers(0, 2000),
        st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff\xff\xff\xff", b"0", b"9", b"-", b"[", b"null"]),
    ),
    min_size=1,
    max_size=3,
)


def edited(body: bytes, edits: list[Edit]) -> bytes:
    for kind, position, patch in edits:
        at = position % (len(body) + 1)
        body = {
            "overwrite": body[:at] + patch + body[at + len(patch) :],
            "insert": body[:at] + patch + body[at:],
            "delete": body[:at] + body[at + len(patch) :],
            "cut": body[:at],
            "repeat": body + body[at:],
        }[kind]
    return body


@every_codec
@given(data=st.data(), edits=EDITS)
@settings(max_examples=200, deadline=None)
def test_damaged_bodies_are_read_or_refused_by_name(codec: Codec, data: st.DataObject, edits: list[Edit]) -> None:
    array = data.draw(arrays_for(codec))
    several = not isinstance(codec, NpyCodec) and data.draw(st.booleans())
    body = encoded(codec, {"a": array, "b": array} if several else {"a": array})
    assert_only_refusals(codec, edited(body, edits))


def assert_only_refusals(codec: Codec, body: bytes) -> None:
    try:
        decoded = codec.decode(bytearray(body), (), LIMIT)
    except REFUSALS:
        return
    assert sum(array.nbytes for array in decoded.values()) <= LIMIT
    assert_sound(decoded, body)


def test_numpy_itself_reads_what_the_npy_codec_writes() -> None:
    array = np.arange(6, dtype=np.complex64).reshape(2, 3)
    assert_same(np.load(io.BytesIO(encoded(NpyCodec(), {"y": array}))), array)


def test_an_unnamed_format_gives_its_array_without_a_name() -> None:
    body = encoded(NpyCodec(), {"y": np.zeros(1)})
    assert NpyCodec().decode(body, (), LIMIT).keys() == {UNNAMED}


def test_a_format_for_one_array_does_not_accept_two() -> None:
    with pytest.raises(NotAcceptableError):
        NpyCodec().encode({"a": np.zeros(1), "b": np.zeros(1)})

"""Narrow floats and texts in the wire formats: what each can hold, and for which inputs it is read."""

from __future__ import annotations

import io
import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ndserve import byte_strings
from ndserve.codecs import encoder
from ndserve.codecs.base import UNNAMED
from ndserve.codecs.json import JsonCodec
from ndserve.codecs.npy import NpyCodec, read_npy
from ndserve.codecs.npz import NpzCodec
from ndserve.dtypes import NARROW, TEXT, carrier
from ndserve.errors import BodyTooLargeError, InvalidInputError, MalformedBodyError, NotAcceptableError
from ndserve.types import HostArray, Tensors, TensorSpec
from tests.unit.codecs.bodies import LIMIT, npy_file, npy_header, refused

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
every_narrow = pytest.mark.parametrize("dtype", NARROW.values(), ids=str)


def body(codec: NpyCodec | NpzCodec | JsonCodec, outputs: Tensors) -> bytes:
    return b"".join(codec.encode(outputs).chunks)


def saved(array: Any, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    if arrays:
        np.savez(buffer, **arrays)
    else:
        np.save(buffer, array)
    return buffer.getvalue()


def every_value(dtype: np.dtype[Any]) -> HostArray:
    """Every bit pattern of a narrow float."""
    floats: HostArray = np.arange(1 << 8 * dtype.itemsize, dtype=carrier(dtype)).view(dtype)
    return floats


def texts(*elements: bytes) -> HostArray:
    return byte_strings.of(elements, (len(elements),))


def read_json(text: str, *specs: TensorSpec, limit: int = LIMIT) -> Tensors:
    return JsonCodec().decode(text.encode(), specs, limit)


# .npy and .npz


@every_narrow
def test_what_numpy_saves_of_narrow_floats_is_read_for_an_input_of_that_dtype(dtype: np.dtype[Any]) -> None:
    array = NpyCodec().decode(saved(every_value(dtype)), [TensorSpec("x", dtype)], LIMIT)[UNNAMED]
    assert (array.dtype, array.tobytes()) == (dtype, every_value(dtype).tobytes())


@every_narrow
def test_numpy_loads_what_is_written_of_narrow_floats(dtype: np.dtype[Any]) -> None:
    loaded = np.load(io.BytesIO(body(NpyCodec(), {"y": every_value(dtype)})), allow_pickle=False)
    assert loaded.view(dtype).tobytes() == every_value(dtype).tobytes()


@pytest.mark.parametrize("name", [name for name in NARROW if name != "float8_e5m2"])
def test_narrow_floats_are_written_as_numpy_saves_them(name: str) -> None:
    array = every_value(NARROW[name])
    assert body(NpyCodec(), {"y": array}) == saved(array)


@pytest.mark.parametrize(
    "specs",
    [
        (),
        (TensorSpec("x"),),
        (TensorSpec("x", np.dtype(np.float32)),),
        (TensorSpec("x", np.dtype(np.uint16)),),
        (TensorSpec("x", NARROW["float8_e4m3fn"]),),
        (TensorSpec("x", BFLOAT16), TensorSpec("z", BFLOAT16)),
    ],
    ids=["none", "any", "float32", "uint16", "another width", "two"],
)
def test_void_bytes_are_refused_where_no_input_says_what_they_are(specs: tuple[TensorSpec, ...]) -> None:
    content = saved(every_value(BFLOAT16))
    message = refused(lambda: NpyCodec().decode(content, specs, LIMIT), "V2 is not supported: it tells only how wide")
    assert "bfloat16" in message


@pytest.mark.parametrize("descr", ["<V3", "|V4", ">V2", "|V0", "V2", "<V02"])
def test_void_bytes_of_another_form_are_not_read(descr: str) -> None:
    content = npy_file(npy_header(repr(descr)), bytes(4))
    refused(lambda: read_npy(content, BFLOAT16), "is not supported")


@pytest.mark.parametrize("offset", range(4))
def test_narrow_floats_are_aligned_wherever_their_body_lies(offset: int) -> None:
    content = bytes(offset) + saved(every_value(BFLOAT16))
    array = read_npy(memoryview(content)[offset:], BFLOAT16)
    assert array.flags.aligned
    assert array.tobytes() == every_value(BFLOAT16).tobytes()


def test_members_of_an_archive_go_by_the_dtypes_of_the_inputs_of_their_names() -> None:
    small = NARROW["float8_e5m2fnuz"]
    content = saved(None, a=np.ones(2, BFLOAT16), b=np.ones(3, small), c=np.ones(4))
    specs = [TensorSpec("b", small), TensorSpec("a", BFLOAT16), TensorSpec("c")]
    arrays = NpzCodec().decode(content, specs, LIMIT)
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "a": (BFLOAT16, (2,)),
        "b": (small, (3,)),
        "c": (np.dtype(float), (4,)),
    }


def test_a_lone_member_without_a_name_goes_to_the_only_input() -> None:
    content = saved(None, arr_0=np.ones(2, BFLOAT16))
    assert NpzCodec().decode(content, [TensorSpec("x", BFLOAT16)], LIMIT)[UNNAMED].dtype == BFLOAT16


def test_a_member_for_another_input_is_refused_by_name() -> None:
    content = saved(None, a=np.ones(2, BFLOAT16), b=np.ones(2))
    with pytest.raises(MalformedBodyError, match=r"the \.npz member 'a\.npy': .*V2"):
        NpzCodec().decode(content, [TensorSpec("a"), TensorSpec("b", BFLOAT16)], LIMIT)


@pytest.mark.parametrize("codec", [NpyCodec(), NpzCodec()], ids=["npy", "npz"])
def test_texts_are_never_pickled(codec: NpyCodec | NpzCodec) -> None:
    assert not codec.holds({"y": texts(b"a")})
    with pytest.raises(NotAcceptableError):
        codec.encode({"y": texts(b"a")})


# JSON


@every_narrow
def test_json_gives_narrow_floats_as_numbers_with_their_name(dtype: np.dtype[Any]) -> None:
    document = json.loads(body(JsonCodec(), {"y": np.array([1.5, -2, 0, 0.25], dtype)}))
    assert document == {"array": [1.5, -2, 0, 0.25], "dtype": dtype.name, "shape": [4]}


@every_narrow
@pytest.mark.parametrize("said", [True, False])
def test_json_reads_narrow_floats_by_name_or_by_spec(dtype: np.dtype[Any], said: bool) -> None:
    text = json.dumps({"array": [[1.5, None]], "dtype": dtype.name} if said else [[1.5, None]])
    array = read_json(text, *[] if said else [TensorSpec("x", dtype)])[UNNAMED]
    assert (array.dtype, array.shape, float(array[0, 0])) == (dtype, (1, 2), 1.5)
    assert np.isnan(array[0, 1])


@every_narrow
def test_json_gives_a_narrow_float_without_axes(dtype: np.dtype[Any]) -> None:
    assert json.loads(body(JsonCodec(), {"y": np.array(1.5, dtype)}))["array"] == 1.5


@every_narrow
def test_a_number_beyond_a_narrow_float_is_refused(dtype: np.dtype[Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"outside the range of {dtype.name}"):
        read_json("[1, 1e39]", TensorSpec("x", dtype))


@pytest.mark.parametrize(
    ("text", "elements", "shape"),
    [
        ('["a", "é", ""]', [b"a", "é".encode(), b""], (3,)),
        ('[["a", "b"], ["c", "d"]]', [b"a", b"b", b"c", b"d"], (2, 2)),
        ('"a\\u0000b"', [b"a\0b"], ()),
        ("[]", [], (0,)),
    ],
)
def test_strings_are_texts_where_the_input_takes_texts(
    text: str, elements: list[bytes], shape: tuple[int, ...]
) -> None:
    array = read_json(text, TensorSpec("x", TEXT))[UNNAMED]
    assert (array.dtype, array.shape, list(array.flat)) == (TEXT, shape, elements)


def test_strings_are_texts_where_they_are_said_to_be() -> None:
    array = read_json('{"array": ["a"], "dtype": "bytes"}')[UNNAMED]
    assert (array.dtype, array.tolist()) == (TEXT, [b"a"])


def test_several_texts_go_by_the_names_of_their_inputs() -> None:
    specs = [TensorSpec("a", TEXT), TensorSpec("b", np.dtype(np.float32))]
    arrays = read_json('{"inputs": {"a": ["x"], "b": [1]}}', *specs)
    assert (arrays["a"].tolist(), arrays["b"].tolist()) == ([b"x"], [1.0])


def test_strings_are_no_numbers_where_nothing_says_that_they_are_texts() -> None:
    with pytest.raises(MalformedBodyError, match="something else than numbers"):
        read_json('["a"]')


@pytest.mark.parametrize("text", ["[1]", '["a", 1]', '["a", null]', '[["a"], "b"]', '[{"a": 1}]'])
def test_anything_else_is_no_text(text: str) -> None:
    with pytest.raises(InvalidInputError, match="takes texts"):
        read_json(text, TensorSpec("x", TEXT))


def test_texts_count_with_their_bytes() -> None:
    assert read_json('["aaaa", "é"]', TensorSpec("x", TEXT), limit=14)[UNNAMED].shape == (2,)
    with pytest.raises(BodyTooLargeError):
        read_json('["aaaa", "é"]', TensorSpec("x", TEXT), limit=13)


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (texts(b"a", "é\0".encode()), ["a", "é\0"]),
        (texts(b"a", b"b").reshape(2, 1), [["a"], ["b"]]),
        (texts(b"a").reshape(()), "a"),
        (texts().reshape(0, 3), []),
    ],
    ids=["one axis", "two axes", "none", "empty"],
)
def test_json_gives_texts_as_strings(array: HostArray, values: Any) -> None:
    document = json.loads(body(JsonCodec(), {"y": array}))
    assert document == {"array": values, "dtype": "bytes", "shape": list(array.shape)}
    again = read_json(json.dumps(document))[UNNAMED]
    assert (again.shape, list(again.flat)) == (array.shape, list(array.flat))


def test_a_text_that_is_not_utf_8_has_no_json_form() -> None:
    with pytest.raises(NotAcceptableError, match=r"'y' has no JSON form: element 1 is not UTF-8"):
        JsonCodec().encode({"y": texts(b"a", b"\xff")})


# the choice


@pytest.mark.parametrize("others", [{}, {"z": np.ones(1)}], ids=["alone", "beside numbers"])
@pytest.mark.parametrize("accept", ["", "*/*", "application/x-npy, application/json;q=0.1"])
def test_texts_come_as_json_where_the_client_leaves_it_open(accept: str, others: dict[str, HostArray]) -> None:
    assert isinstance(encoder(accept, {"y": texts(b"a"), **others}), JsonCodec)


def test_texts_as_npy_are_not_acceptable() -> None:
    with pytest.raises(NotAcceptableError, match=r"comes as application/json, .*; Accept asks for 'application/x-npy'"):
        encoder("application/x-npy", {"y": texts(b"a")})


def test_narrow_floats_come_as_npy_where_the_client_leaves_it_open() -> None:
    assert isinstance(encoder("", {"y": np.ones(1, BFLOAT16)}), NpyCodec)

"""Which codec reads a body, by Content-Type and first bytes, and which writes a result, by Accept."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ndserve import codecs
from ndserve.codecs.base import UNNAMED, Codec
from ndserve.codecs.json import JsonCodec
from ndserve.codecs.npy import SMALL, NpyCodec
from ndserve.codecs.npz import NpzCodec
from ndserve.errors import BodyTooLargeError, MalformedBodyError, NotAcceptableError, UnsupportedMediaTypeError
from ndserve.types import HostArray, Tensors, TensorSpec
from tests.unit.codecs.bodies import LIMIT, REFUSALS, saved, zip_file

ARRAY: HostArray = np.arange(3, dtype=np.float32)
NPY = saved(ARRAY)
NPZ = zip_file([("x.npy", NPY)])
JSON = b'{"array": [0, 1, 2], "dtype": "float32"}'
ONE: Tensors = {"y": ARRAY}
TWO: Tensors = {"y": ARRAY, "z": ARRAY}
FORM = "multipart/form-data; boundary=b"


def decoded(content_type: str, body: bytes) -> list[float]:
    (array,) = codecs.decode(content_type, body, (), LIMIT).tensors.values()
    values: list[float] = array.tolist()
    return values


def form(content: bytes, media_type: str) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\nContent-Type: {media_type}\r\n\r\n'
    return head.encode() + content + b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-npy", NPY),
        ("application/npy", NPY),
        ("Application/X-NPY ; charset=binary", NPY),
        ("application/x-npz", NPZ),
        ("application/npz", NPZ),
        ("application/zip", NPZ),
        ("application/json", JSON),
        ("application/json;charset=UTF-8", JSON),
    ],
)
def test_a_known_type_is_read_by_its_codec(content_type: str, body: bytes) -> None:
    assert decoded(content_type, body) == [0, 1, 2]


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("body", [NPY, NPZ, JSON, b" \r\n\t[0, 1, 2]"], ids=["npy", "npz", "json", "lists"])
def test_where_the_type_says_nothing_the_first_bytes_do(content_type: str, body: bytes) -> None:
    assert decoded(content_type, body) == [0, 1, 2]


@pytest.mark.parametrize("body", [NPZ, JSON], ids=["npz", "json"])
def test_a_type_that_says_something_is_believed(body: bytes) -> None:
    with pytest.raises(MalformedBodyError, match=r"does not begin as a \.npy file"):
        decoded("application/x-npy", body)


@pytest.mark.parametrize("content_type", ["text/plain", "image/png", "application/x-npyz", "application/xml", "x"])
def test_an_unknown_type_is_refused_with_those_that_are_read(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        decoded(content_type, NPY)
    for name in (content_type, "application/x-npy", "application/x-npz", "application/json", "multipart/form-data"):
        assert name in caught.value.message
    assert caught.value.status == 415


@pytest.mark.parametrize("body", [b"", b"hello", b"\x89PNG\r\n", b"a=1&b=2", b"\x93NUMP", b"PK\x05\x06"])
def test_unknown_bytes_without_a_type_are_refused(body: bytes) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        decoded("", body)


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (NPY, "application/octet-stream"),
        (NPY, "application/x-npy"),
        (NPZ, "application/zip"),
        (JSON, "application/json"),
    ],
)
def test_the_file_of_a_form_is_read_by_its_own_type(content: bytes, media_type: str) -> None:
    assert decoded(FORM, form(content, media_type)) == [0, 1, 2]


@pytest.mark.parametrize("media_type", ["text/csv", "multipart/form-data; boundary=c"])
def test_the_file_of_a_form_may_not_be_of_an_unknown_type(media_type: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match=media_type.partition(";")[0]):
        decoded(FORM, form(NPY, media_type))


def test_the_targets_specs_reach_the_codec() -> None:
    spec = TensorSpec("x", np.dtype(np.int8))
    assert codecs.decode("", b"[1]", (spec,), LIMIT).tensors[UNNAMED].dtype == np.int8


def test_the_limit_reaches_the_codec() -> None:
    with pytest.raises(BodyTooLargeError):
        codecs.decode("", zip_file([("x.npy", saved(np.zeros(1000)))], zipfile.ZIP_DEFLATED), (), 100)


@pytest.mark.parametrize(
    ("accept", "codec"),
    [
        ("", NpyCodec),
        ("   ", NpyCodec),
        ("*/*", NpyCodec),
        ("application/*", NpyCodec),
        ("application/octet-stream", NpyCodec),
        ("application/x-npy", NpyCodec),
        ("application/x-npz", NpzCodec),
        ("application/zip", NpzCodec),
        ("application/json", JsonCodec),
        ("APPLICATION/JSON", JsonCodec),
        ("text/html, application/json;q=0.5", JsonCodec),
        ("application/x-npy;q=0.4, application/json;q=0.5", JsonCodec),
        ("application/x-npy; q=0.4 , application/json; q=0.5", JsonCodec),
        ("application/json;q=0.5, */*;q=0.1", JsonCodec),
        ("application/json;q=0.5, */*", NpyCodec),
        ("application/json, application/x-npz", JsonCodec),
        ("application/x-npz, application/json", NpzCodec),
        ("application/x-npz;q=0, application/json;q=0.001", JsonCodec),
        ("application/x-npz;q=high, application/json;q=0.1", JsonCodec),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", NpyCodec),
    ],
)
def test_one_output_goes_out_as_accept_likes_best(accept: str, codec: type[Codec]) -> None:
    assert isinstance(codecs.encoder(accept, ONE), codec)


@pytest.mark.parametrize(
    ("accept", "codec"),
    [
        ("", NpzCodec),
        ("*/*", NpzCodec),
        ("application/octet-stream", NpzCodec),
        ("application/json", JsonCodec),
        ("application/x-npy, application/json;q=0.1", JsonCodec),
        ("application/x-npy, */*;q=0.1", NpzCodec),
    ],
)
def test_several_outputs_go_out_in_a_form_that_holds_several(accept: str, codec: type[Codec]) -> None:
    assert isinstance(codecs.encoder(accept, TWO), codec)


@pytest.mark.parametrize(
    "accept",
    ["text/html", "text/*", "image/png, text/plain", "*/*;q=0", "application/json;q=0", "application/json;q=-1"],
)
def test_a_result_in_no_accepted_form_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptableError) as caught:
        codecs.encoder(accept, ONE)
    assert accept in caught.value.message
    assert caught.value.status == 406


def test_several_outputs_do_not_go_out_as_npy() -> None:
    with pytest.raises(NotAcceptableError) as caught:
        codecs.encoder("application/x-npy", TWO)
    offered = caught.value.message.partition(";")[0]
    assert "2 output(s)" in offered
    assert "application/x-npz, application/json" in offered
    assert "application/x-npy" not in offered


@pytest.mark.parametrize(
    "accept",
    ["application/x-npy;q=0, */*", "*/*, application/x-npy;q=0", "application/x-npy;q=0.1, */*"],
)
def test_the_most_specific_range_goes_before_a_wildcard(accept: str) -> None:
    """RFC 9110, 12.5.1."""
    assert not isinstance(codecs.encoder(accept, ONE), NpyCodec)


def test_a_form_that_cannot_hold_the_values_gives_way_to_the_next() -> None:
    outputs = {"y": np.zeros(1, np.complex64)}
    codec = codecs.encoder("application/json, */*;q=0.1", outputs)
    assert codec.encode(outputs).chunks


@given(st.lists(st.sampled_from([*"*/;,=q .", "0.5", "nan", "inf", "1e999", "application/json", "é"]), max_size=12))
@example(["application/json", ";", "q", "=", "nan", ",", "*", "/", "*"])
@settings(max_examples=200, deadline=None)
def test_any_accept_is_answered_or_refused(pieces: list[str]) -> None:
    try:
        codec = codecs.encoder("".join(pieces), TWO)
    except NotAcceptableError:
        return
    assert not isinstance(codec, NpyCodec)


LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)


@given(
    LATIN | st.sampled_from(["", "application/x-npy", "application/zip", "application/json", FORM]),
    st.sampled_from([b"", NPY[:-1], NPZ[:-1], JSON[:-1], b"\x93NUMPY", b"PK\x03\x04", b"[", b"--b\r\n"]),
    st.binary(max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_any_type_with_any_body_is_read_or_refused(content_type: str, start: bytes, rest: bytes) -> None:
    try:
        tensors = codecs.decode(content_type, start + rest, (), LIMIT).tensors
    except (*REFUSALS, UnsupportedMediaTypeError):
        return
    assert tensors


@pytest.mark.parametrize(
    ("body", "cheap"),
    [
        pytest.param(NPY, True, id="small npy"),
        pytest.param(JSON, True, id="small json"),
        pytest.param(saved(np.zeros(SMALL, np.uint8)), True, id="large npy"),
        pytest.param(json.dumps([0] * SMALL).encode(), False, id="large json"),
        pytest.param(zip_file([("x.npy", saved(np.zeros(SMALL, np.uint8)))]), False, id="large npz"),
        pytest.param(form(saved(np.zeros(SMALL, np.uint8)), "application/x-npy"), False, id="large form"),
        pytest.param(saved(np.zeros((SMALL, 2), np.uint8, "F")), False, id="large npy in Fortran order"),
        pytest.param(saved(np.zeros(SMALL, ">f4")), False, id="large big-endian npy"),
    ],
)
def test_only_a_view_or_a_small_body_is_cheap_to_read(body: bytes, cheap: bool) -> None:
    assert codecs.is_cheap(body) is cheap


def test_a_broken_large_npy_is_cheap_to_refuse() -> None:
    body = b"\x93NUMPY\x09" + bytes(2 * SMALL)
    assert codecs.is_cheap(body)
    with pytest.raises(MalformedBodyError):
        codecs.decode("", body, (), LIMIT)


def test_an_archive_behind_an_npy_file_is_not_inflated_as_a_cheap_body() -> None:
    body = saved(np.zeros(SMALL, np.uint8)) + NPZ
    assert codecs.is_cheap(body)
    for content_type in ("application/x-npz", "application/x-npy", "application/json", FORM):
        with pytest.raises(MalformedBodyError):
            codecs.decode(content_type, body, (), LIMIT)


@pytest.mark.parametrize("content_type", [f"{FORM}€", "multipart/form-data; boundary=€", "€"])
def test_a_type_beyond_latin_1_is_refused(content_type: str) -> None:
    with pytest.raises((MalformedBodyError, UnsupportedMediaTypeError)):
        codecs.decode(content_type, b"--b--\r\n", (), LIMIT)


def test_a_long_type_is_not_echoed_whole() -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        codecs.decode("x" * 10_000, NPY, (), LIMIT)
    assert len(caught.value.message) < 500


def test_a_long_accept_is_not_echoed_whole() -> None:
    with pytest.raises(NotAcceptableError) as caught:
        codecs.encoder("text/" + "x" * 10_000, ONE)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "accept", ["application/json;q=0.5;q=1, */*;q=0.6", "application/json;v=1 ; Q = 0.5, */*;q=0.6"]
)
def test_a_weight_is_found_among_other_parameters(accept: str) -> None:
    assert isinstance(codecs.encoder(accept, ONE), NpyCodec)


@pytest.mark.parametrize("codec", codecs.CODECS, ids=lambda codec: type(codec).__name__)
@pytest.mark.parametrize("outputs", [ONE, TWO, {"y": np.zeros(1, np.complex64)}], ids=["one", "two", "complex"])
def test_a_codec_writes_just_what_it_says_it_holds(codec: Codec, outputs: Tensors) -> None:
    if codec.holds(outputs):
        assert codec.encode(outputs).chunks
    else:
        with pytest.raises(NotAcceptableError):
            codec.encode(outputs)

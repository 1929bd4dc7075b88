"""The multipart envelope: what curl and browsers send, and envelopes that are broken."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ndserve.codecs import multipart
from ndserve.errors import MalformedBodyError

BOUNDARY = "------------------------d74496d66958873e"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
FILE = b"\x93NUMPY\x01\x00 \r\n--\r\n\n\r--" + bytes(range(256))


def part(*headers: str, content: bytes = FILE) -> bytes:
    return "".join(f"{header}\r\n" for header in headers).encode() + b"\r\n" + content


def file_part(content: bytes = FILE, name: str = "file", media_type: str = "application/octet-stream") -> bytes:
    """A part as `curl -F file=@array.npy` writes it."""
    return part(
        f'Content-Disposition: form-data; name="{name}"; filename="array.npy"',
        f"Content-Type: {media_type}",
        content=content,
    )


def field_part(name: str, value: bytes) -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', content=value)


def envelope(*parts: bytes) -> bytes:
    line = f"--{BOUNDARY}".encode()
    return b"".join(line + b"\r\n" + each + b"\r\n" for each in parts) + line + b"--\r\n"


def test_the_file_that_curl_sends_is_unwrapped() -> None:
    assert multipart.unwrap(CONTENT_TYPE, envelope(file_part())) == ("application/octet-stream", FILE)


@given(
    st.lists(st.sampled_from([b"\r\n", b"--", b"\r", b"\n", b"-", b"\0", BOUNDARY.encode(), b"x"]), max_size=12)
    | st.lists(st.binary(max_size=50), max_size=2)
)
@settings(max_examples=150, deadline=None)
def test_the_files_bytes_are_untouched(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    if f"\r\n--{BOUNDARY}".encode() in b"\r\n" + content:
        return  # a client picks another boundary then
    assert multipart.unwrap(CONTENT_TYPE, envelope(file_part(content)))[1] == content


def test_the_files_own_media_type_is_kept() -> None:
    body = envelope(file_part(b"[1]", media_type="application/json; charset=utf-8"))
    assert multipart.unwrap(CONTENT_TYPE, body) == ("application/json; charset=utf-8", b"[1]")


def test_a_file_without_a_media_type_is_an_octet_stream() -> None:
    body = envelope(part('Content-Disposition: form-data; name="f"; filename="a"'))
    assert multipart.unwrap(CONTENT_TYPE, body)[0] == "application/octet-stream"


def test_header_names_are_read_in_any_case() -> None:
    body = envelope(part('CONTENT-disposition: form-data; name="f"; filename="a"', "content-TYPE: application/x-npy"))
    assert multipart.unwrap(CONTENT_TYPE, body) == ("application/x-npy", FILE)


def test_a_quoted_boundary_is_read() -> None:
    content_type = f'multipart/form-data; charset=utf-8; boundary="{BOUNDARY}"'
    assert multipart.unwrap(content_type, envelope(file_part()))[1] == FILE


@pytest.mark.parametrize("filename", ["", "é.npy", "a;b=c.npy", "..\\x.npy", 'a\\"b.npy'])
def test_a_file_of_any_name_is_a_file(filename: str) -> None:
    body = envelope(part(f'Content-Disposition: form-data; name="f"; filename="{filename}"'))
    assert multipart.unwrap(CONTENT_TYPE, body)[1] == FILE


@pytest.mark.parametrize("place", ["before", "after", "both"])
def test_other_fields_are_read_past(place: str) -> None:
    field = field_part("comment", b"\x93NUMPY no file")
    parts = {"before": [field, file_part()], "after": [file_part(), field], "both": [field, file_part(), field]}
    assert multipart.unwrap(CONTENT_TYPE, envelope(*parts[place]))[1] == FILE


def test_a_part_does_not_inherit_the_headers_of_the_one_before() -> None:
    field = part('Content-Disposition: form-data; name="a"', "Content-Type: text/csv", content=b"1,2")
    body = envelope(field, part('Content-Disposition: form-data; name="f"; filename="a"'))
    assert multipart.unwrap(CONTENT_TYPE, body) == ("application/octet-stream", FILE)


def test_a_body_of_any_buffer_type_is_read() -> None:
    body = envelope(file_part())
    for buffer in (bytearray(body), memoryview(body)):
        assert multipart.unwrap(CONTENT_TYPE, buffer)[1] == FILE


def test_two_files_are_refused() -> None:
    with pytest.raises(MalformedBodyError, match="exactly one"):
        multipart.unwrap(CONTENT_TYPE, envelope(file_part(), file_part(name="other")))


@pytest.mark.parametrize("parts", [(), (field_part("a", b"1"),), (part(),)], ids=["no part", "a field", "no headers"])
def test_no_file_is_refused(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(MalformedBodyError):
        multipart.unwrap(CONTENT_TYPE, envelope(*parts))


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data;",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
    ],
)
def test_a_content_type_without_a_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(MalformedBodyError, match="names no boundary"):
        multipart.unwrap(content_type, envelope(file_part()))


def test_another_boundary_than_the_bodys_is_refused() -> None:
    with pytest.raises(MalformedBodyError):
        multipart.unwrap("multipart/form-data; boundary=other", envelope(file_part()))


def test_a_boundary_longer_than_any_honest_one_is_refused() -> None:
    with pytest.raises(MalformedBodyError):
        multipart.unwrap("multipart/form-data; boundary=" + "b" * 5000, envelope(file_part()))


def test_an_envelope_cut_off_anywhere_is_refused() -> None:
    body = envelope(field_part("a", b"1"), file_part())
    whole = body.rindex(b"--") + 2
    for length in range(whole):
        with pytest.raises(MalformedBodyError):
            multipart.unwrap(CONTENT_TYPE, body[:length])


def test_a_cut_in_the_file_is_named_as_one() -> None:
    body = envelope(file_part())
    with pytest.raises(MalformedBodyError, match="cut off"):
        multipart.unwrap(CONTENT_TYPE, body[: body.index(FILE) + 5])


@pytest.mark.parametrize("names", [[f"X-{number}" for number in range(20)], ["X-Same"] * 20_000], ids=["many", "one"])
def test_a_part_with_too_many_headers_is_refused(names: list[str]) -> None:
    headers = ['Content-Disposition: form-data; name="f"; filename="a"', *(f"{name}: 1" for name in names)]
    with pytest.raises(MalformedBodyError):
        multipart.unwrap(CONTENT_TYPE, envelope(part(*headers)))


def test_headers_are_counted_for_each_part_alone() -> None:
    fields = [part(f'Content-Disposition: form-data; name="{number}"', "X: 1", content=b"") for number in range(20)]
    assert multipart.unwrap(CONTENT_TYPE, envelope(*fields, file_part()))[1] == FILE


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40),
    st.lists(
        st.sampled_from([b"--b", b"--", b"\r\n", b"\r", b"\n", b":", b"a", b" ", b"\xff", b"; ", b"="]), max_size=12
    ),
)
@example(" boundary*=utf-8''b", [])
@example(" boundary=b; boundary=c", [b"--b", b"--"])
@example(' boundary="\xe9"', [b"--b\r\n"])
@settings(max_examples=300, deadline=None)
def test_any_envelope_is_read_or_refused(parameters: str, pieces: list[bytes]) -> None:
    for content_type in (f"multipart/form-data;{parameters}", "multipart/form-data; boundary=b"):
        with pytest.raises(MalformedBodyError):
            multipart.unwrap(content_type, b"".join(pieces))


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40))
@example("filename*=utf-8''%E2%82%AC")
@example("filename*0*=a; filename*1=b")
@example('filename="')
@settings(max_examples=200, deadline=None)
def test_any_disposition_is_read_or_refused(parameters: str) -> None:
    body = envelope(b"Content-Disposition: form-data; " + parameters.encode("latin1") + b"\r\n\r\n" + FILE)
    try:
        assert multipart.unwrap(CONTENT_TYPE, body)[1] == FILE
    except MalformedBodyError:
        return


def test_as_many_parts_as_the_bound_are_read() -> None:
    fields = [field_part("a", b"1")] * (multipart.MAX_PARTS - 1)
    assert multipart.unwrap(CONTENT_TYPE, envelope(*fields, file_part()))[1] == FILE


@pytest.mark.parametrize("fields", [multipart.MAX_PARTS, 200_000])
def test_one_part_over_the_bound_is_refused_early(fields: int) -> None:
    line = f"--{BOUNDARY}\r\n\r\n\r\n".encode()
    with pytest.raises(MalformedBodyError, match=f"over {multipart.MAX_PARTS} parts"):
        multipart.unwrap(CONTENT_TYPE, line * fields + envelope(file_part()))


@pytest.mark.parametrize("boundary", ["€", '"€"', f"{BOUNDARY}; charset=€"])
def test_a_content_type_beyond_latin_1_is_refused(boundary: str) -> None:
    with pytest.raises(MalformedBodyError):
        multipart.unwrap(f"multipart/form-data; boundary={boundary}", envelope(file_part()))

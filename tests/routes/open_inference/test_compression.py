"""Compressed bodies and answers: what is inflated, what is refused, and who gets what he asked for."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from ndserve.errors import BodyTooLargeError, MalformedBodyError, UnsupportedEncodingError
from ndserve.routes.compression import asked_coding, deflate, inflate
from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import floats
from tests.routes.open_inference.asking import LENGTH, document, post, refused, values

LIMIT = 1000
BODY = document()
CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
both = pytest.mark.parametrize("coding", CODINGS)


@both
def test_a_body_is_inflated(coding: str) -> None:
    assert bytes(inflate(CODINGS[coding](BODY), coding.encode(), LIMIT)) == BODY


@pytest.mark.parametrize("written", [b"GZIP", b" gzip ", b"Gzip"])
def test_a_coding_is_known_however_it_is_written(written: bytes) -> None:
    assert bytes(inflate(gzip.compress(BODY, mtime=0), written, LIMIT)) == BODY


@pytest.mark.parametrize("coding", [b"identity", b""])
def test_identity_is_the_body_itself(coding: bytes) -> None:
    assert inflate(BODY, coding, 1) is BODY


def test_several_members_of_gzip_are_one_body_under_one_bound() -> None:
    members = gzip.compress(BODY[:5]) + gzip.compress(BODY[5:])
    assert bytes(inflate(members, b"gzip", LIMIT)) == BODY
    with pytest.raises(BodyTooLargeError):
        inflate(members, b"gzip", len(BODY) - 1)


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"compress", b"x-gzip", b"gzip, gzip", b"\xff"])
def test_another_coding_is_refused_with_those_that_are_read(coding: bytes) -> None:
    with pytest.raises(UnsupportedEncodingError, match="use gzip or deflate"):
        inflate(BODY, coding, LIMIT)


@both
def test_a_bomb_is_refused_before_it_is_inflated(coding: str) -> None:
    bomb = CODINGS[coding](bytes(20_000_000))
    assert len(bomb) < 40_000
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLargeError, match="inflates to more than 1000 bytes"):
            inflate(bomb, coding.encode(), LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


@both
def test_a_body_of_just_the_limit_is_inflated(coding: str) -> None:
    assert len(inflate(CODINGS[coding](bytes(LIMIT)), coding.encode(), LIMIT)) == LIMIT
    with pytest.raises(BodyTooLargeError):
        inflate(CODINGS[coding](bytes(LIMIT + 1)), coding.encode(), LIMIT)


@both
def test_a_body_that_is_cut_off_anywhere_is_refused(coding: str) -> None:
    whole = CODINGS[coding](BODY)
    for length in range(len(whole)):
        with pytest.raises(MalformedBodyError, match="is cut off"):
            inflate(whole[:length], coding.encode(), LIMIT)


@both
@pytest.mark.parametrize("tail", [b"x", b"\0" * 8])
def test_bytes_behind_the_body_are_refused(coding: str, tail: bytes) -> None:
    with pytest.raises(MalformedBodyError, match=f"{len(tail)} bytes follow the {coding} body"):
        inflate(CODINGS[coding](BODY) + tail, coding.encode(), LIMIT)


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (BODY, b"gzip"),
        (BODY, b"deflate"),
        (zlib.compress(BODY), b"gzip"),
        (gzip.compress(BODY, mtime=0), b"deflate"),
        (gzip.compress(BODY, mtime=0)[:-8] + bytes(8), b"gzip"),
        (zlib.compress(BODY)[2:], b"deflate"),
    ],
)
def test_a_body_that_is_not_compressed_so_is_refused(body: bytes, coding: bytes) -> None:
    with pytest.raises(MalformedBodyError, match="is not compressed by"):
        inflate(body, coding, LIMIT)


@pytest.mark.parametrize(
    ("accept", "best", "alone"),
    [
        (b"gzip", b"gzip", True),
        (b"deflate", b"deflate", True),
        (b"gzip, identity", b"gzip", True),
        (b"GZip;Q=1", b"gzip", True),
        (b"gzip, deflate", b"gzip", False),
        (b"gzip, deflate, br, zstd", b"gzip", False),
        (b"deflate, gzip", b"deflate", False),
        (b"gzip;q=0.5, deflate;q=0.8", b"deflate", False),
        (b"gzip;q=0, deflate", b"deflate", True),
        (b"gzip;q=1.0", b"gzip", True),
        (b"gzip;q=x", b"", True),
        (b"gzip;q=nan", b"", True),
        (b"gzip;q=-1", b"", True),
        (b"gzip, *", b"gzip", False),
        (b"br", b"", False),
        (b"identity", b"", True),
        (b"", b"", True),
        (b" , ,", b"", True),
    ],
)
def test_the_coding_that_is_liked_best_and_whether_it_is_the_only_one(accept: bytes, best: bytes, alone: bool) -> None:
    assert asked_coding(accept) == (best, alone)


@both
def test_chunks_are_deflated_as_one_body(coding: str) -> None:
    squeezed = deflate((b"head", memoryview(b"body" * 100), b""), coding.encode())
    assert bytes(inflate(squeezed, coding.encode(), LIMIT)) == b"head" + b"body" * 100


@both
def test_a_compressed_request_is_answered(server: InProcessServer, coding: str) -> None:
    assert values(post(server, "identity", CODINGS[coding](BODY), content_encoding=coding)) == [1, 2]


def test_the_length_of_the_json_is_that_before_the_compression(server: InProcessServer) -> None:
    array = floats(3000)
    entry = {"name": "x", "datatype": "FP32", "shape": [3000], "parameters": {"binary_data_size": array.nbytes}}
    head = document(entry)
    headers = {"content_encoding": "gzip", LENGTH: str(len(head))}
    answer = post(server, "identity", gzip.compress(head + array.tobytes()), **headers)
    assert values(answer) == array.tolist()


def test_a_coding_that_is_not_read_is_501(server: InProcessServer) -> None:
    refused(post(server, "identity", BODY, content_encoding="br"), 501, "'br' is not supported")


def test_a_body_that_inflates_beyond_the_bound_is_refused() -> None:
    with serving(max_body_bytes=5000) as server:
        bomb = gzip.compress(bytes(1_000_000))
        assert len(bomb) < 5000
        refused(post(server, "identity", bomb, content_encoding="gzip"), 400, "inflates to more than 5000 bytes")


def raw(server: InProcessServer, body: bytes, accept: str) -> Any:
    return server.http.post("/v2/models/identity/infer", content=body, headers={"accept-encoding": accept})


@both
def test_json_is_compressed_for_who_names_a_coding(server: InProcessServer, coding: str) -> None:
    answer = raw(server, BODY, f"{coding}, br")
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == (coding, "accept-encoding")
    assert values(answer) == [1, 2]


@pytest.mark.parametrize(("accept", "coding"), [("gzip", "gzip"), ("gzip, deflate", None), ("deflate", "deflate")])
def test_binary_is_compressed_only_for_who_names_one_coding_alone(
    server: InProcessServer, accept: str, coding: str | None
) -> None:
    answer = raw(server, document(parameters={"binary_data_output": True}), accept)
    assert answer.headers.get("content-encoding") == coding
    length = int(answer.headers[LENGTH])
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert len(answer.content) == length + 8


@pytest.mark.parametrize("accept", ["br", "identity", "gzip;q=0"])
def test_who_names_no_coding_of_ours_gets_the_answer_as_it_is(server: InProcessServer, accept: str) -> None:
    answer = raw(server, BODY, accept)
    assert "content-encoding" not in answer.headers
    assert values(answer) == [1, 2]

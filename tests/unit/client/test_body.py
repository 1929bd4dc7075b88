"""Files as bodies: of the right bytes, through a real socket, and with a file that changes meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ndserve.client import AsyncClient, Client, ServerError
from ndserve.client.body import BLOCK, Body
from ndserve.client.progress import LARGE

CREATED = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
PROBLEM = b'{"code":"body_too_large","detail":"too big"}'
REFUSED = (
    b"HTTP/1.1 413 Content Too Large\r\ncontent-type: application/problem+json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(PROBLEM), PROBLEM)
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"0123456789abcdef" * (BLOCK // 16) + b"rest")
    return path


@contextmanager
def receiving(reply: bytes, wanted: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """A server for one request; gives its URL and what it will have received. Not `wanted`, a body stays unread."""
    received: list[bytes] = []

    def serve(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as stream:
            lines = list(iter(stream.readline, b"\r\n"))
            length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length"))
            if wanted:
                received.append(stream.read(length))
            connection.sendall(reply)
            if not wanted:
                connection.shutdown(socket.SHUT_WR)
                while stream.read(BLOCK):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", received
        thread.join(30)


def upload(url: str, asynchronous: bool, file: Any) -> object:
    if not asynchronous:
        with Client(url, patience=0) as client:
            return client.models.upload("digits", "1", file)

    async def main() -> object:
        async with AsyncClient(url, patience=0) as client:
            return await client.models.upload("digits", "1", file)

    return asyncio.run(main())


def test_a_body_knows_its_length_and_its_digest(file: Path) -> None:
    body = Body.of(str(file))
    assert (body.length, body.digest) == (BLOCK + 4, hashlib.sha256(file.read_bytes()).digest())


def test_a_body_is_read_from_its_beginning_each_time(file: Path) -> None:
    body = Body.of(file)
    assert [len(block) for block in body] == [BLOCK, 4]
    assert b"".join(body) == file.read_bytes()


def test_a_body_tells_how_much_of_it_has_gone(file: Path) -> None:
    body, told = Body.of(file), list[int]()
    body.sent = told.append
    assert b"".join(body) == file.read_bytes()
    assert told == [0, BLOCK, BLOCK + 4]


def test_what_a_file_has_got_more_since_it_was_hashed_is_not_sent(file: Path) -> None:
    body, content = Body.of(file), file.read_bytes()
    file.write_bytes(content + b"more")
    assert b"".join(body) == content


def test_a_file_that_has_become_shorter_since_it_was_hashed_is_not_sent(file: Path) -> None:
    body = Body.of(file)
    file.write_bytes(b"short")
    with pytest.raises(OSError, match="has become shorter"):
        list(body)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_file_arrives_whole(file: Path, asynchronous: bool) -> None:
    with receiving(CREATED) as (url, received):
        assert upload(url, asynchronous, file) == {}
    assert received == [file.read_bytes()]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_refusal_that_comes_before_the_body_has_gone_is_told(tmp_path: Path, asynchronous: bool) -> None:
    with (tmp_path / "large.onnx").open("wb") as large:
        large.truncate(4 * BLOCK)
    with (
        receiving(REFUSED, wanted=False) as (url, _),
        pytest.raises(ServerError, match="body_too_large, HTTP 413"),
    ):
        upload(url, asynchronous, tmp_path / "large.onnx")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_file_that_cannot_be_read_is_no_broken_connection(
    file: Path, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Body, "_blocks", shrinking)
    with receiving(CREATED) as (url, _), pytest.raises(OSError, match="has become shorter"):
        upload(url, asynchronous, file)


def shrinking(body: Body) -> Iterator[bytes]:
    yield b"0" * BLOCK
    raise OSError("the file has become shorter")


@pytest.mark.parametrize(("size", "lines"), [(LARGE, True), (BLOCK, False)])
def test_a_bar_shows_a_large_file_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], size: int, lines: bool
) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(size)
    with receiving(CREATED) as (url, _), Client(url) as client:
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        client.models.upload("digits", "1", tmp_path / "model.onnx")
    assert ("digits/1" in capsys.readouterr().err) is lines


def test_no_bar_is_shown_where_none_is_wanted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with receiving(CREATED) as (url, _), Client(url) as client:
        client.models.upload("digits", "1", file, progress=False)
    assert capsys.readouterr().err == ""


def test_a_bar_is_shown_where_it_is_wanted(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with receiving(CREATED) as (url, _), Client(url) as client:
        client.models.upload("digits", "1", file, progress=True)
    assert "262.1/262.1 kB" in capsys.readouterr().err

"""Models that are uploaded, replaced and deleted over HTTP, while others are served."""

from __future__ import annotations

import hashlib
import io
import socket
import zipfile
from pathlib import Path

import pytest

from tests.e2e.models import ask, digest, external, factor_of, put, scaling, tree
from tests.e2e.running import serving

MODEL = scaling(2)
AT_2 = "/models/m/versions/2"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", MODEL)
    return buffer.getvalue()


HOSTILE = {
    "a text": (b"hello, world\n", {}, 422, "invalid_model"),
    "a zip archive": (zipped(), {}, 422, "invalid_model"),
    "nothing": (b"", {}, 422, "invalid_model"),
    "cut off": (MODEL[:-30], {}, 422, "invalid_model"),
    "cut off, with the digest of the whole": (MODEL[:-1], digest(MODEL), 400, "digest_mismatch"),
    "another digest": (MODEL, digest(b"other"), 400, "digest_mismatch"),
    "a digest that is none": (MODEL, {"content-digest": "sha-256=:AAAA:"}, 422, "invalid_parameter"),
    "external data above": (external("../../digits/1/model.onnx"), {}, 422, "invalid_model"),
    "external data at an absolute path": (external("/etc/hostname"), {}, 422, "invalid_model"),
    "external data that is not sent": (external("w.bin"), {}, 422, "invalid_model"),
    "an operator that nobody knows": (MODEL.replace(b"Identity", b"Unknowns"), {}, 422, "invalid_model"),
    "compressed": (MODEL, {"content-encoding": "gzip"}, 415, "unsupported_encoding"),
    "too large": (bytes(2_000_000), {}, 413, "body_too_large"),
}


def test_what_cannot_be_served_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    put(tmp_path, MODEL)
    before = tree(tmp_path)
    with serving("--max-model-bytes", "1MB", models=tmp_path) as server:
        assert factor_of(server) == 2
        for what, (body, headers, status, code) in HOSTILE.items():
            found, refused = ask(server, "PUT", AT_2, body, **headers)
            assert (what, found, refused["code"]) == (what, status, code)
            assert str(tmp_path) not in str(refused)
            assert (what, tree(tmp_path)) == (what, before)
            assert factor_of(server) == 2
        for path in (
            "/models/..%2Fm/versions/1",
            "/models/.m/versions/1",
            "/models/m/versions/01",
            "/models/m/versions/x",
        ):
            assert ask(server, "PUT", path, MODEL)[0] in (404, 422)
        assert ask(server, "PUT", "/models/identity/versions/1", MODEL)[0] == 409
        assert tree(tmp_path) == before


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_body_that_breaks_off_leaves_nothing_behind(tmp_path: Path, framing: str) -> None:
    put(tmp_path, MODEL)
    before = tree(tmp_path)
    with serving(models=tmp_path) as server, socket.create_connection((server.host, server.port)) as connection:
        how = f"content-length: {len(MODEL)}" if framing == "content-length" else "transfer-encoding: chunked"
        head = f"PUT {AT_2} HTTP/1.1\r\nhost: 127.0.0.1\r\n{how}\r\n\r\n".encode()
        connection.sendall(head + (MODEL[:100] if framing == "content-length" else b"64\r\n" + MODEL[:100] + b"\r\n"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
        assert ask(server, "PUT", AT_2, scaling(3))[0] == 201  # it is not in the way
        assert ask(server, "DELETE", AT_2)[0] == 204
        assert tree(tmp_path) == before


def test_a_model_is_uploaded_used_replaced_and_deleted(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with serving(models=tmp_path / "models") as server:
        status, made = ask(server, "PUT", "/models/m/versions/1", MODEL, **digest(MODEL))
        assert (status, made["state"], made["default"], made["loads"]) == (201, "READY", True, 1)
        assert factor_of(server) == 2
        assert ask(server, "PUT", "/models/m/versions/1", scaling(3))[1]["code"] == "conflict"
        assert (ask(server, "PUT", "/models/m/versions/1?replace=true", scaling(3))[0], factor_of(server)) == (200, 3)
        assert (ask(server, "PUT", AT_2, scaling(5))[0], factor_of(server)) == (201, 5)
        assert (ask(server, "DELETE", AT_2)[0], factor_of(server)) == (204, 3)
        assert ask(server, "DELETE", "/models/m")[0] == 204
        assert ask(server, "GET", "/models/m")[0] == 404
        assert tree(tmp_path / "models") == []


def test_only_models_whose_digest_is_listed_are_loaded(tmp_path: Path) -> None:
    put(tmp_path / "models", MODEL)
    put(tmp_path / "models", scaling(3), "other")
    allowed = tmp_path / "allowed.txt"
    allowed.write_text(f"{hashlib.sha256(MODEL).hexdigest()}  m/1/model.onnx\n")
    with serving("--allow-digests", str(allowed), models=tmp_path / "models") as server:
        assert factor_of(server) == 2
        status, refused = ask(server, "POST", "/models/other/load", b"")
        assert (status, "--allow-digests" in refused["detail"]) == (422, True)
        status, refused = ask(server, "PUT", AT_2, scaling(3))
        assert (status, "--allow-digests" in refused["detail"]) == (422, True)

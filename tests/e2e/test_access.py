"""Keys and the right to manage, on real sockets: bytes as they come, SIGHUP, and binds beyond the loopback."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ndserve.access import Role, new_key
from ndserve.client import Client, UnauthorizedError
from tests.e2e.client import Answer, npy
from tests.e2e.running import COMMAND, HANG, RunningServer, finished, serving, started
from tests.routes.spellings import spellings

LOOPBACK = "127.0.0.1:8076"
MANAGING = ("/models/digits/load", "/models/digits", "/v2/repository/index", "/v2/repository/models/digits/unload")


class KeyFile:
    """A key file and the secrets of its keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, str] = {}

    def add(self, name: str, role: Role = Role.INFER) -> str:
        secret, self._lines[name] = new_key(name, role)
        self._write()
        return secret

    def revoke(self, name: str) -> None:
        del self._lines[name]
        self._write()

    def _write(self) -> None:
        self.path.write_text("".join(f"{line}\n" for line in self._lines.values()))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(tmp_path_factory.mktemp("keys") / "keys.txt")


@pytest.fixture(scope="module")
def infer(file: KeyFile) -> str:
    return file.add("user")


@pytest.fixture(scope="module")
def manage(file: KeyFile) -> str:
    return file.add("admin", Role.MANAGE)


@pytest.fixture(scope="module")
def guarded(file: KeyFile, infer: str, manage: str) -> Iterator[RunningServer]:
    with serving("--api-keys-file", str(file.path)) as running:
        yield running


@pytest.fixture(scope="module")
def local() -> Iterator[RunningServer]:
    """Without keys, on the loopback."""
    with serving() as running:
        yield running


def exchange(server: RunningServer, request: bytes, address: str | None = None) -> Answer:
    """What comes back for these bytes until the server closes the connection."""
    with socket.create_connection((address or server.host, server.port), HANG) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            received = stream.read()
    head, _, body = received.partition(b"\r\n\r\n")
    return Answer(int(head.split(b" ", 2)[1]), body)


def ask(
    server: RunningServer, line: str, *fields: str, host: str = LOOPBACK, body: bytes = b"", address: str | None = None
) -> Answer:
    """The answer to a request line with these header fields."""
    head = [f"{line} HTTP/1.1", f"host: {host}", f"content-length: {len(body)}", "connection: close", *fields]
    return exchange(server, "\r\n".join([*head, "", ""]).encode() + body, address)


def bearer(secret: str) -> str:
    return f"authorization: Bearer {secret}"


@pytest.mark.parametrize("path", MANAGING)
def test_no_spelling_manages_without_the_right(guarded: RunningServer, infer: str, path: str) -> None:
    for spelling in spellings(path):
        assert ask(guarded, f"POST {spelling}").status in (400, 401), spelling
        assert ask(guarded, f"POST {spelling}", bearer(infer)).status in (400, 403, 404), spelling


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:8076{}", "http://evil.example{}", "HTTP://health{}", "//health{}", "{}#/health"]
)
@pytest.mark.parametrize("path", MANAGING)
def test_a_target_with_a_host_or_a_fragment_manages_nothing(
    guarded: RunningServer, infer: str, path: str, target: str
) -> None:
    answer = ask(guarded, f"POST {target.format(path)}", bearer(infer))
    assert answer.status in (400, 403, 404)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PATCH", "M-SEARCH", "LOCK", "post", "BREW", "PRI"])
def test_no_method_manages_without_the_right(guarded: RunningServer, infer: str, method: str) -> None:
    assert ask(guarded, f"{method} /models/digits/load", bearer(infer)).status in (400, 403)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("name", ["x-http-method-override", "x-http-method", "x-method-override"])
def test_a_header_makes_no_other_method_of_the_one_that_was_sent(
    guarded: RunningServer, infer: str, method: str, name: str
) -> None:
    plain = ask(guarded, f"{method} /models/digits/load", bearer(infer))
    overridden = ask(guarded, f"{method} /models/digits/load", bearer(infer), f"{name}: POST")
    assert overridden.status == plain.status in (404, 405)


@pytest.mark.parametrize("name", ["x-original-url", "x-rewrite-url"])
def test_a_header_makes_no_other_path_of_the_one_that_was_sent(guarded: RunningServer, name: str) -> None:
    assert ask(guarded, "GET /tasks", f"{name}: /health").status == 401
    assert ask(guarded, "GET /health", f"{name}: /tasks").document.keys() == {"status", "version"}


@pytest.mark.parametrize(
    "smuggled",
    [
        b"POST /models/digits/load HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET /tasks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ],
)
def test_a_request_behind_an_open_one_is_looked_at_as_well(guarded: RunningServer, smuggled: bytes) -> None:
    answer = exchange(guarded, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" + smuggled)
    assert answer.status == 200
    assert b"HTTP/1.1 401" in answer.body


def test_the_key_of_one_request_is_not_that_of_the_next_on_its_connection(guarded: RunningServer, infer: str) -> None:
    first = f"GET /tasks HTTP/1.1\r\nhost: x\r\n{bearer(infer)}\r\n\r\n".encode()
    both = exchange(guarded, first + b"GET /tasks HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert both.status == 200
    assert b"HTTP/1.1 401" in both.body


def test_a_key_for_inference_runs_a_task(guarded: RunningServer, infer: str) -> None:
    answer = ask(guarded, "POST /tasks/identity?wait=20", bearer(infer), body=npy([1, 2]))
    assert answer.array.tolist() == [1, 2]


def test_a_key_for_management_passes_the_gate(guarded: RunningServer, manage: str) -> None:
    # What is behind it may refuse for reasons of its own.
    for path in MANAGING:
        assert ask(guarded, f"POST {path}", bearer(manage)).status not in (401, 403)


def test_the_client_sends_its_key(guarded: RunningServer, infer: str) -> None:
    with Client(guarded.url, api_key=infer) as client:
        result = client.run("identity", np.ones(2))
        assert isinstance(result, np.ndarray)
        assert result.tolist() == [1, 1]
    with Client(guarded.url, api_key="nds_other") as client, pytest.raises(UnauthorizedError):
        client.run("identity", np.ones(2))


def test_the_command_line_takes_its_key_from_the_environment(guarded: RunningServer, infer: str) -> None:
    command = [COMMAND, "tasks", "--json", "--url", guarded.url]
    assert finished(*command).returncode == 4
    done = finished(*command, NDSERVE_API_KEY=infer)
    assert done.returncode == 0
    assert "tasks" in json.loads(done.stdout)


def test_no_secret_is_in_the_log(guarded: RunningServer, infer: str, manage: str) -> None:
    ask(guarded, "GET /tasks", bearer(infer))
    ask(guarded, "GET /tasks", bearer(manage + "x"))
    text = "".join(guarded.lines)
    assert "management: with a key of the role manage" in text
    assert infer not in text
    assert manage not in text


def test_sighup_lets_a_new_key_in_and_a_revoked_one_no_more(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.txt")
    alice = file.add("alice")
    with serving("--api-keys-file", str(file.path)) as server:
        bob = file.add("bob", Role.MANAGE)
        file.revoke("alice")
        assert ask(server, "GET /tasks", bearer(alice)).status == 200
        assert ask(server, "GET /tasks", bearer(bob)).status == 401
        server.process.send_signal(signal.SIGHUP)
        server.line(re.escape("keys in force: 1 (1 new, 1 gone)"))
        assert ask(server, "GET /tasks", bearer(alice)).status == 401
        assert ask(server, "GET /tasks", bearer(bob)).status == 200


@pytest.mark.parametrize("text", ["alice\n", "", None])
def test_sighup_with_a_file_of_no_use_leaves_the_keys_in_force_and_says_so(tmp_path: Path, text: str | None) -> None:
    file = KeyFile(tmp_path / "keys.txt")
    alice = file.add("alice")
    with serving("--api-keys-file", str(file.path)) as server:
        file.path.unlink()
        if text is not None:
            file.path.write_text(text)
        server.process.send_signal(signal.SIGHUP)
        server.line(r"ERROR .*the keys read before \(1\) stay in force")
        assert ask(server, "GET /tasks", bearer(alice)).status == 200
        assert ask(server, "GET /tasks").status == 401


def test_sighup_without_a_key_file_ends_the_server_as_it_always_did(server: RunningServer) -> None:
    server.process.send_signal(signal.SIGHUP)
    assert server.exit_code() == -signal.SIGHUP


@pytest.mark.parametrize("text", ["", "alice\n"])
def test_a_key_file_of_no_use_ends_with_code_2_and_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.txt").write_text(text)
    done = finished(COMMAND, "serve", "--device", "cpu", "--api-keys-file", str(tmp_path / "keys.txt"))
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if line.startswith("ndserve: ")]) == 1


def own_addresses() -> set[str]:
    """Addresses at which this machine reaches itself: the loopback, and its own where it has one."""
    found = {"127.0.0.1"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
            found.add(probe.getsockname()[0])
        except OSError:
            pass
    return found


@pytest.mark.parametrize("address", sorted(own_addresses()))
@pytest.mark.parametrize("path", MANAGING)
def test_management_is_closed_on_a_bind_to_every_address(everywhere: RunningServer, path: str, address: str) -> None:
    answer = ask(everywhere, f"POST {path}", address=address)
    assert answer.status == 403
    assert b"management is closed on 0.0.0.0; start the server with --api-keys-file or --open-management" in answer.body
    assert ask(everywhere, "GET /models", address=address).status == 200


@pytest.fixture(scope="module")
def everywhere() -> Iterator[RunningServer]:
    with serving("--host", "0.0.0.0") as running:
        yield running


def test_open_management_passes_everybody_on_a_bind_to_every_address() -> None:
    with serving("--host", "0.0.0.0", "--open-management") as server:
        assert ask(server, "POST /models/digits/load", host="models.example").status not in (401, 403)


def test_an_address_that_uvicorn_was_given_instead_closes_management() -> None:
    options = {"NDSERVE_DEVICE": "cpu", "NDSERVE_STORE": "memory"}
    command = [sys.executable, "-m", "uvicorn", "ndserve.main:app", "--host", "0.0.0.0", "--port", "0"]
    (address, *_) = sorted(own_addresses(), key=lambda found: found == "127.0.0.1")
    with started(command, **options) as server:
        answer = ask(server, "POST /models/digits/load", host=LOOPBACK, address=address)
        # A machine without another address has nobody to shut out.
        assert (answer.status == 403) == (address != "127.0.0.1")


@pytest.mark.parametrize("path", MANAGING)
def test_on_the_loopback_this_machines_user_passes_the_gate(local: RunningServer, path: str) -> None:
    assert ask(local, f"POST {path}").status not in (401, 403)


@pytest.mark.parametrize(
    "fields",
    [
        ("host: evil.example",),
        (f"host: {LOOPBACK}", "origin: https://evil.example"),
        (f"host: {LOOPBACK}", "origin: null"),
        (f"host: {LOOPBACK}", "sec-fetch-site: cross-site"),
        (f"host: {LOOPBACK}", "x-forwarded-for: 192.0.2.7"),
        (),
    ],
)
@pytest.mark.parametrize("path", MANAGING)
def test_on_the_loopback_a_page_or_a_proxy_manages_nothing(
    local: RunningServer, path: str, fields: tuple[str, ...]
) -> None:
    head = "".join(f"{field}\r\n" for field in (*fields, "content-length: 0", "connection: close"))
    # HTTP/1.0, which alone allows that no Host is sent.
    assert exchange(local, f"POST {path} HTTP/1.0\r\n{head}\r\n".encode()).status == 403

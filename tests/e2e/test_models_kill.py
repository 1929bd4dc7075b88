"""A server that is killed in the middle of an upload, a load or an unload: the next one finds a sound repository."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.models import ask, factor_of, put, scaling, tree
from tests.e2e.running import RunningServer, serving

MODEL, OTHER = scaling(2), scaling(3)
ROUNDS = 6


def kill(server: RunningServer) -> None:
    server.process.send_signal(signal.SIGKILL)
    server.exit_code()


def test_an_upload_that_a_kill_cuts_off_is_gone_at_the_next_start(tmp_path: Path) -> None:
    put(tmp_path, MODEL)
    before = tree(tmp_path)
    head = f"PUT /models/m/versions/2 HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(OTHER)}\r\n"
    with serving(models=tmp_path) as server, socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(f"{head}expect: 100-continue\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")  # it reads the body now
        connection.sendall(OTHER[:100])
        kill(server)
        assert len(tree(tmp_path)) > len(before)
    with serving(models=tmp_path) as server:
        assert tree(tmp_path) == before
        assert factor_of(server) == 2


def test_a_kill_during_a_load_harms_nothing(tmp_path: Path) -> None:
    put(tmp_path, scaling(2, mbytes=160))
    with serving(models=tmp_path) as server, ThreadPoolExecutor() as pool:
        loading = pool.submit(ask, server, "POST", "/models/m/load", b"")
        while ask(server, "GET", "/models/m/versions/1")[1]["state"] != "LOADING":
            assert not loading.done(), "it was loaded before anybody could look"
        kill(server)
        with contextlib.suppress(OSError):
            loading.result()
    with serving(models=tmp_path) as server:
        assert factor_of(server) == 2


def test_after_any_kill_every_version_is_whole_and_what_was_answered_holds(tmp_path: Path) -> None:
    chance = random.Random(5)
    put(tmp_path, MODEL)
    versions = {"1": {MODEL}}  # what each version may be now
    for number in range(ROUNDS):
        with serving(models=tmp_path) as server:
            assert not [name for name in tree(tmp_path) if ".ndserve" in name], number
            check(tmp_path, server, versions)
            for _ in range(chance.randrange(3)):
                act(server, versions, chance)
            killer = threading.Timer(chance.uniform(0, 0.03), kill, [server])
            killer.start()
            with contextlib.suppress(OSError):
                act(server, versions, chance)
            killer.join()


def act(server: RunningServer, versions: dict[str, set[bytes]], chance: random.Random) -> None:
    """Change something. Until it is answered, a version may be what it was or what it is to become."""
    kind = chance.choice(["replace", "replace", "add", "delete", "unload", "load"])
    if kind in ("replace", "add"):
        version, content = ("1" if kind == "replace" else "2"), chance.choice([MODEL, OTHER])
        versions.setdefault(version, {b""}).add(content)
        assert ask(server, "PUT", f"/models/m/versions/{version}?replace=true", content)[0] in (200, 201)
        versions[version] = {content}
    elif kind == "delete":
        versions.setdefault("2", {b""}).add(b"")
        assert ask(server, "DELETE", "/models/m/versions/2")[0] in (204, 404)
        versions["2"] = {b""}
    else:
        assert ask(server, "POST", f"/models/m/{kind}", b"")[0] in (200, 503)


def check(root: Path, server: RunningServer, versions: dict[str, set[bytes]]) -> None:
    """Every version is one of the things that it may be, and the newest answers."""
    for version, possible in versions.items():
        path = root / "m" / version / "model.onnx"
        content = path.read_bytes() if path.exists() else b""
        assert content in possible, version
        versions[version] = {content}
    (newest,) = versions["1"] if versions.get("2", {b""}) == {b""} else versions["2"]
    assert factor_of(server) == (2 if newest == MODEL else 3)

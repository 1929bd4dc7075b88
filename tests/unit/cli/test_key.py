"""`ndserve key`, and the key that the other commands send."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ndserve.access import KeyFile, Role
from tests.unit.cli.conftest import Ndserve
from tests.unit.cli.fake_server import FakeServer
from tests.unit.cli.test_main import CLIENT_PACKAGES, COMMANDS, SERVER_PACKAGES, without

SECRET = re.compile(r"nds_[\w-]{43}")


@pytest.mark.parametrize(("words", "role"), [((), Role.INFER), (("--role", "manage"), Role.MANAGE)])
def test_key_prints_a_line_that_lets_its_secret_in(
    ndserve: Ndserve, tmp_path: Path, words: tuple[str, ...], role: Role
) -> None:
    done = ndserve("key", "alice", *words)
    assert done.code == 0
    (tmp_path / "keys.txt").write_text(done.out)
    keys = KeyFile(tmp_path / "keys.txt")
    keys.load()
    (secret,) = SECRET.findall(done.err)
    found = keys.find(f"Bearer {secret}".encode())
    assert found is not None
    assert (found.name, found.role) == ("alice", role)


def test_key_shows_the_secret_on_stderr_alone_and_once(ndserve: Ndserve) -> None:
    done = ndserve("key", "alice")
    assert len(done.out.splitlines()) == len(done.err.splitlines()) == 1
    assert len(SECRET.findall(done.err)) == 1
    assert SECRET.search(done.out) is None


def test_a_name_of_no_use_ends_with_2_and_prints_no_line(ndserve: Ndserve) -> None:
    done = ndserve("key", "a b")
    assert (done.code, done.out) == (2, "")
    assert "'a b'" in done.err


def test_a_role_that_there_is_not_ends_with_2(ndserve: Ndserve) -> None:
    assert ndserve("key", "alice", "--role", "root").code == 2


def test_help_lists_it_with_an_example(ndserve: Ndserve) -> None:
    assert "\n    key " in ndserve("--help").out
    assert "ndserve key alice >> keys.txt" in ndserve("key", "--help").out


def test_key_works_without_any_extra() -> None:
    done = without(SERVER_PACKAGES + CLIENT_PACKAGES, "key", "alice")
    assert done.returncode == 0
    assert done.stdout.startswith("alice sha256:")


def test_the_key_of_the_environment_is_sent(
    called: Ndserve, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NDSERVE_API_KEY", "nds_mine")
    called("tasks")
    assert server.requests[0].headers["authorization"] == "Bearer nds_mine"


def test_without_a_key_none_is_sent(called: Ndserve, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NDSERVE_API_KEY", raising=False)
    called("tasks")
    assert "authorization" not in server.requests[0].headers


def test_a_key_of_the_environment_that_is_none_ends_with_2_and_is_not_shown(
    called: Ndserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NDSERVE_API_KEY", "se cret")
    done = called("tasks")
    assert done.code == 2
    assert "NDSERVE_API_KEY" in done.err
    assert "cret" not in done.err


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_help_says_where_the_key_comes_from_and_has_no_option_for_it(ndserve: Ndserve, command: str) -> None:
    text = ndserve(command, "--help").out
    assert "NDSERVE_API_KEY" in text
    assert "--api-key" not in text

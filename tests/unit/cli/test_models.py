"""`ndserve models` against a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Ndserve
from tests.unit.cli.fake_server import FakeServer

ACTIONS = ("load", "unload", "pin", "unpin", "upload", "delete")
READY = {
    "name": "digits",
    "version": "2",
    "default": True,
    "state": "READY",
    "reason": None,
    "device": "cpu",
    "bytes": {"file": 27_400, "predicted": 30_000, "measured": 1_234_567},
    "leases": 1,
    "pinned": True,
    "hits": 12,
}
FAILED = {
    "name": "broken",
    "version": "1",
    "state": "FAILED",
    "reason": "[bold]no[/bold]\x1b[2J",
    "device": "cpu",
    "bytes": {"file": 999, "predicted": 2_000, "measured": None},
    "hits": 0,
}


def version(name: str, number: str) -> dict[str, Any]:
    return {"name": name, "version": number, "state": "UNLOADED"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a model of digits")
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has a person sit before the terminal who gives this answer."""

    def answering(answer: str) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
        monkeypatch.setattr(sys.stdin, "readline", lambda: answer)

    return answering


def test_models_are_a_table_and_the_memory_a_line_beside_it(called: Ndserve, server: FakeServer) -> None:
    server.models = [FAILED, READY]
    done = called("models")
    header, failed, ready = done.out.splitlines()
    assert header.split() == ["name", "version", "state", "device", "file", "memory", "hits"]
    assert failed.split()[:8] == ["broken", "1", "FAILED", "cpu", "999", "B", "~2.0", "kB"]
    assert ready.split()[:9] == ["digits", "2", "READY", "cpu", "27.4", "kB", "1.2", "MB", "12"]
    assert ready.rstrip().endswith("default, pinned, in use")
    assert done.err == "ndserve: model memory: 1.5 MB of 4.0 GB used; 3 loads, 1 eviction\n"


def test_a_reason_is_shown_as_it_is_and_commands_no_terminal(called: Ndserve, server: FakeServer) -> None:
    server.models = [FAILED]
    assert called("models").out.rstrip().endswith("[bold]no[/bold]\N{REPLACEMENT CHARACTER}[2J")


def test_models_as_json_are_one_document_with_the_memory(called: Ndserve, server: FakeServer) -> None:
    server.models = [READY]
    found = called("models", "--json").document
    assert found["models"] == [READY]
    assert found["memory"]["budget_bytes"] == 4_000_000_000


def test_no_models_leave_stdout_empty(called: Ndserve) -> None:
    done = called("models")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("ndserve: no models\n")


@pytest.mark.parametrize("action", ["load", "pin", "unpin"])
@pytest.mark.parametrize(("word", "query"), [("digits", {}), ("digits/2", {"version": "2"})])
def test_an_action_is_asked_for_and_shows_what_became_of_the_model(
    called: Ndserve, server: FakeServer, action: str, word: str, query: dict[str, str]
) -> None:
    server.models = [READY]
    done = called("models", action, word)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[1].split()[:3] == ["digits", "2", "READY"]
    assert (server.requests[0].method, server.requests[0].path) == ("POST", f"/models/digits/{action}")
    assert server.requests[0].query == query


def test_a_model_is_unloaded_with_all_its_versions(called: Ndserve, server: FakeServer) -> None:
    server.models = [READY]
    assert called("models", "unload", "digits", "--json").document == {"models": [READY]}
    assert server.requests[0].path == "/models/digits/unload"
    done = called("models", "unload", "digits/2")
    assert done.code == 2
    assert "write digits" in done.err


def test_a_model_that_does_not_load_ends_with_4_and_its_reason(called: Ndserve, server: FakeServer) -> None:
    server.models = [version("digits", "9")]
    done = called("models", "load", "digits", "--json")
    assert done.code == 4
    assert done.document == {"error": {"code": "invalid_model", "message": "it does not load"}}


def test_a_model_that_there_is_not_ends_with_4(called: Ndserve) -> None:
    assert called("models", "load", "digits").code == 4


@pytest.mark.parametrize("word", ["", "a b", "../x", "digits/", "digits/01", "digits/latest", "digits/1/2"])
def test_what_is_no_name_of_a_model_ends_with_2(called: Ndserve, server: FakeServer, word: str) -> None:
    assert called("models", "load", word).code == 2
    assert server.requests == []


def test_options_may_stand_before_and_behind_the_action(called: Ndserve, server: FakeServer) -> None:
    server.models = [READY]
    assert called("models", "--json", "load", "digits").document == {"models": [READY]}
    called("models", "--header", "X-Login=a", "load", "digits", "--json")
    assert server.requests[-1].headers["x-login"] == "a"


def test_the_key_of_the_environment_is_sent_with_an_action(
    called: Ndserve, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NDSERVE_API_KEY", "nds_mine")
    called("models", "pin", "digits")
    assert server.requests[0].headers["authorization"] == "Bearer nds_mine"


def test_an_upload_sends_the_file_as_the_version_named(called: Ndserve, server: FakeServer, model: Path) -> None:
    done = called("models", "upload", "digits/3", model)
    assert done.code == 0
    assert done.out.splitlines()[1].split()[:5] == ["digits", "3", "READY", "17", "B"]
    (request,) = server.requests
    assert (request.method, request.path, request.query) == ("PUT", "/models/digits/versions/3", {})
    assert request.body == model.read_bytes()
    assert request.headers["content-length"] == "17"
    assert request.headers["content-digest"].startswith("sha-256=:")


@pytest.mark.parametrize(("there", "number"), [([], "1"), (["2", "10", "9"], "11"), (["0"], "1")])
def test_an_upload_without_a_version_becomes_the_one_after_the_newest(
    called: Ndserve, server: FakeServer, model: Path, there: list[str], number: str
) -> None:
    server.models = [version("digits", each) for each in there] + [version("other", "99")]
    found = called("models", "upload", "digits", model, "--json").document
    assert (found["name"], found["version"]) == ("digits", number)


def test_a_version_that_is_there_ends_with_4_and_the_way_out(called: Ndserve, server: FakeServer, model: Path) -> None:
    server.models = [version("digits", "3")]
    done = called("models", "upload", "digits/3", model)
    assert done.code == 4
    assert "--replace" in done.err


def test_a_version_is_replaced_where_that_is_asked_for(called: Ndserve, server: FakeServer, model: Path) -> None:
    server.models = [version("digits", "3")]
    assert called("models", "upload", "digits/3", model, "--replace").code == 0
    assert server.requests[0].query == {"replace": "true"}


def test_a_replacement_needs_to_know_of_what(called: Ndserve, server: FakeServer, model: Path) -> None:
    done = called("models", "upload", "digits", model, "--replace")
    assert done.code == 2
    assert "digits/VERSION" in done.err
    assert server.requests == []


def test_a_file_that_is_no_model_ends_with_4(called: Ndserve, file: Path) -> None:
    done = called("models", "upload", "digits/1", file)
    assert done.code == 4
    assert "not an ONNX model" in done.err


def test_a_file_that_cannot_be_read_ends_with_2(called: Ndserve, server: FakeServer) -> None:
    done = called("models", "upload", "digits/1", "none.onnx")
    assert (done.code, done.err) == (2, "ndserve: none.onnx: No such file or directory\n")
    assert server.requests == []


def test_a_deletion_is_asked_about(called: Ndserve, server: FakeServer, asked: Any) -> None:
    server.models = [version("digits", "2"), version("digits", "3")]
    asked("y\n")
    done = called("models", "delete", "digits/2")
    assert done.code == 0
    assert done.err.startswith(f"ndserve: delete digits/2 from {server.url}? [y/N] ")
    assert server.models == [version("digits", "3")]


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yesterday\n"])
def test_what_is_not_agreed_to_is_not_deleted(called: Ndserve, server: FakeServer, asked: Any, answer: str) -> None:
    server.models = [version("digits", "2")]
    asked(answer)
    done = called("models", "delete", "digits/2")
    assert done.code == 1
    assert done.err.endswith("ndserve: nothing was deleted\n")
    assert server.models == [version("digits", "2")]


def test_where_nobody_can_be_asked_nothing_is_deleted(called: Ndserve, server: FakeServer) -> None:
    server.models = [version("digits", "2")]
    done = called("models", "delete", "digits/2")
    assert done.code == 2
    assert "--yes" in done.err
    assert server.models == [version("digits", "2")]


def test_yes_deletes_all_versions_and_names_them(called: Ndserve, server: FakeServer) -> None:
    server.models = [version("digits", "2"), version("digits", "3")]
    done = called("models", "delete", "digits", "--yes")
    assert (done.code, done.err) == (0, "ndserve: digits with its versions 2, 3 deleted\n")
    assert server.models == []


def test_a_deletion_as_json_is_one_document(called: Ndserve, server: FakeServer) -> None:
    server.models = [version("digits", "2")]
    done = called("models", "delete", "digits/2", "--yes", "--json")
    assert done.document == {"name": "digits", "version": "2", "deleted": True}


def test_what_is_not_there_cannot_be_deleted(called: Ndserve) -> None:
    assert called("models", "delete", "digits", "--yes").code == 4


@pytest.mark.parametrize("action", ACTIONS)
def test_help_of_an_action_shows_examples_and_where_the_key_comes_from(ndserve: Ndserve, action: str) -> None:
    done = ndserve("models", action, "--help")
    assert done.code == 0
    assert f"examples:\n  ndserve models {action} digits" in done.out
    assert "NDSERVE_API_KEY" in done.out


def test_help_lists_the_actions(ndserve: Ndserve) -> None:
    text = ndserve("models", "--help").out
    assert [action for action in ACTIONS if f"\n    {action} " not in text] == []

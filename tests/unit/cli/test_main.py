"""The command line as a whole: help, missing extras, servers that are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Ndserve
from tests.unit.cli.fake_server import FakeServer

COMMANDS = ("serve", "submit", "result", "map", "tasks", "status", "cancel", "retry", "models")

WITHOUT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
from ndserve.cli import main
sys.exit(main({words!r}))
"""
SERVER_PACKAGES = ("fastapi", "starlette", "uvicorn", "orjson", "pydantic", "pydantic_settings", "onnxruntime", "PIL")
CLIENT_PACKAGES = ("httpx2", "rich", "PIL")


def without(packages: tuple[str, ...], *words: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(missing=packages, words=list(words))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)


def test_help_lists_every_command(ndserve: Ndserve) -> None:
    done = ndserve("--help")
    assert done.code == 0
    assert [command for command in COMMANDS if f"\n    {command} " not in done.out] == []


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_help_of_a_command_shows_examples_and_exit_codes(ndserve: Ndserve, command: str) -> None:
    done = ndserve(command, "--help")
    assert done.code == 0
    assert f"examples:\n  ndserve {command}" in done.out
    assert "exit codes:\n  0    done" in done.out


def test_a_command_that_does_not_exist_ends_with_2(ndserve: Ndserve) -> None:
    assert ndserve("sumbit").code == 2


def test_a_server_that_is_not_there_ends_with_3_and_is_named(ndserve: Ndserve) -> None:
    done = ndserve("tasks", "--url", "http://127.0.0.1:1", "--patience", "0")
    assert (done.code, done.out) == (3, "")
    assert "http://127.0.0.1:1" in done.err


def test_json_names_the_error_as_well(ndserve: Ndserve) -> None:
    done = ndserve("tasks", "--url", "http://127.0.0.1:1", "--patience", "0", "--json")
    assert done.code == 3
    assert done.document["error"]["code"] == "connection_failed"


def test_a_url_that_is_none_ends_with_2(ndserve: Ndserve) -> None:
    done = ndserve("tasks", "--url", "localhost:8076")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


def test_headers_go_to_the_server(called: Ndserve, server: FakeServer) -> None:
    called("tasks", "--header", "X-Login=a=b")
    assert server.requests[0].headers["x-login"] == "a=b"


def test_a_header_without_a_value_ends_with_2(called: Ndserve) -> None:
    assert called("tasks", "--header", "X-Login").code == 2


def test_submit_works_without_the_servers_packages(server: FakeServer, file: Path) -> None:
    done = without(SERVER_PACKAGES, "submit", "double", str(file), "--wait", "--url", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "float32 [2]\n[3. 4.]\n"


def test_without_the_clients_packages_one_line_says_what_to_install(file: Path) -> None:
    done = without(CLIENT_PACKAGES, "submit", "double", str(file))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'ndserve[client]'" in done.stderr


def test_without_the_servers_packages_one_line_says_what_serve_needs() -> None:
    done = without(SERVER_PACKAGES, "serve")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'ndserve[cpu]'" in done.stderr


def test_serve_works_without_the_clients_packages() -> None:
    done = without(CLIENT_PACKAGES, "serve", "--help")
    assert done.returncode == 0
    assert "--max-body-bytes" in done.stdout


def test_a_missing_module_of_ours_is_a_fault_and_no_extra() -> None:
    done = without(("ndserve.client",), "tasks")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_the_client_names_its_extra_where_httpx_is_missing() -> None:
    code = "import sys; sys.modules['httpx2'] = None\nimport ndserve.client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert "ModuleNotFoundError: ndserve's client needs httpx2: pip install 'ndserve[client]'" in done.stderr


def test_the_client_brings_nothing_of_the_server() -> None:
    code = (
        "import sys, ndserve.client\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('ndserve.')}\n"
        "of_the_server = {'engine', 'routes', 'codecs', 'settings', 'stores', 'devices', 'main', 'server'}\n"
        "print(rooms & of_the_server, {'fastapi', 'orjson', 'rich'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout == "set() set()\n"

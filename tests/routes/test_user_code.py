"""Processes and routes of a user's own folders, and what start-up says of broken ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from ndserve.errors import StartupError
from ndserve.main import create_app
from ndserve.settings import Settings
from ndserve.testing import InProcessServer
from tests.routes.bodies import MODELS, broken, digit, floats, problem


def start(**options: Path) -> None:
    """Make the application, as a server does before it listens."""
    create_app(Settings(device="cpu", **options))  # type: ignore[arg-type]


def test_a_users_route_reaches_the_engine(server: InProcessServer) -> None:
    answer = server.http.post("/digit", json=digit(7).tolist())
    assert answer.json() == {"digit": 7}


def test_an_error_of_the_engine_in_a_users_route_is_a_problem(server: InProcessServer) -> None:
    problem(server.http.post("/digit", json=[[1.0]]), 422, "invalid_input")


def test_a_fault_in_a_users_route_is_a_problem(server: InProcessServer) -> None:
    http = TestClient(server.http.app, raise_server_exceptions=False)
    document = problem(http.get("/crash"), 500, "internal")
    assert "fault in the user's own code" not in document["detail"]


def test_a_users_process_runs_beside_the_built_in_ones(server: InProcessServer) -> None:
    result = server.run("picky", floats(3))
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [("processes", "raises_on_import", 5), ("routes", "raises_on_import", 5)],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(tmp_path: Path, kind: str, name: str, line: int) -> None:
    file = broken(name, tmp_path)
    with pytest.raises(StartupError, match=re.escape(f"{file}:{line}: ValueError")):
        start(**{kind: tmp_path})


@pytest.mark.parametrize("kind", ["processes", "routes"])
def test_a_syntax_error_is_named_with_its_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "unfinished.py"
    file.write_text("import math\n\ndef half(:\n")
    with pytest.raises(StartupError, match=re.escape(f"{file}:3: SyntaxError")):
        start(**{kind: tmp_path})


@pytest.mark.parametrize("kind", ["processes", "routes", "models"])
def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(StartupError, match=re.escape(str(tmp_path / "nowhere"))):
        start(**{kind: tmp_path / "nowhere"})


def test_a_routes_file_without_a_router_is_named(tmp_path: Path) -> None:
    file = broken("no_router", tmp_path)
    with pytest.raises(StartupError, match=re.escape(str(file))):
        start(routes=tmp_path)


@pytest.mark.parametrize(("name", "path"), [("clashing_route", "/health"), ("clashing_hot_route", "/result/")])
def test_a_route_that_is_the_servers_own_is_refused(tmp_path: Path, name: str, path: str) -> None:
    broken(name, tmp_path)
    with pytest.raises(StartupError, match=re.escape(f"GET {path}")):
        start(routes=tmp_path)


def test_a_process_with_the_name_of_a_model_is_refused_with_both_files(tmp_path: Path) -> None:
    file = broken("clashing_name", tmp_path)
    with pytest.raises(StartupError) as raised:
        start(models=MODELS, processes=tmp_path)
    assert str(file) in raised.value.message
    assert str(MODELS / "digits" / "1" / "model.onnx") in raised.value.message


def test_a_process_cannot_have_a_parameter_of_the_servers_own(tmp_path: Path) -> None:
    file = broken("reserved_parameter", tmp_path)
    with pytest.raises(StartupError, match="wait") as raised:
        start(processes=tmp_path)
    assert str(file) in raised.value.message


def test_an_unknown_default_process_is_refused_at_start() -> None:
    with pytest.raises(StartupError, match="normalise"):
        create_app(Settings(device="cpu", default_process="normalise"))

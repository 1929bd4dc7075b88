"""Health, the catalogue, and the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndserve.testing import InProcessServer, serving
from tests import onnx_models
from tests.routes.bodies import array_of, digit, floats, npy, problem
from tests.routes.gates import serving_held, submit_held

HOT_PATHS = ["/process_np_array", "/result/{task_id}", "/tasks/{target}", "/tasks/{task_id}", "/tasks/{task_id}/result"]


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_a_server_that_serves_is_well(server: InProcessServer, path: str) -> None:
    assert server.http.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
@pytest.mark.parametrize(("attribute", "value", "state"), [("dead", "gone", "dead"), ("closing", True, "closing")])
def test_a_server_that_is_ending_is_not_ready_but_alive(path: str, attribute: str, value: object, state: str) -> None:
    with serving() as server:
        setattr(server.service, attribute, value)
        assert server.http.get(path).status_code == 503
        assert server.http.get("/health").json()["status"] == state
        assert server.http.get("/health/live").status_code == 200


def test_health_counts_the_tasks_that_wait_and_those_that_have_ended() -> None:
    with serving_held() as (server, gate):
        server.http.post("/tasks/identity?wait=20", content=npy([1]))
        submit_held(server, gate)
        health = server.http.get("/health").json()
        assert health["ended"]["succeeded"] == 1
        assert health["queue"]["live"] == 1
        assert health["device"]["name"] == "cpu"


def test_the_catalogue_holds_models_and_processes(server: InProcessServer) -> None:
    catalogue = server.http.get("/models").json()
    (digits,) = catalogue["models"]
    assert (digits["name"], digits["version"]) == ("digits", "1")
    assert digits["inputs"] == [{"name": "image", "dtype": "float32", "shape": [None, 8, 8]}]
    processes = {process["name"]: process for process in catalogue["processes"]}
    assert processes.keys() >= {"normalize", "classify_digit", "picky", "difference"}
    assert processes["resize"]["parameters"] == {"height": 224, "width": 224}
    assert processes["picky"]["description"] == "Twice each item."


def test_a_model_is_listed_as_ready_once_it_has_been_used(server: InProcessServer) -> None:
    server.run("digits", digit(0))
    (version,) = server.http.get("/models/digits").json()
    assert version["state"] == "READY"
    assert version["batching"]["mode"] == "on"


def test_an_unknown_model_is_not_found(server: InProcessServer) -> None:
    problem(server.http.get("/models/nothing"), 404, "unknown_target")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A model folder with a good model and one that is no model at all."""
    onnx_models.save(onnx_models.double(), tmp_path, "good")
    onnx_models.save(onnx_models.double(), tmp_path, "bad").write_bytes(b"no model")
    return tmp_path


def test_a_broken_model_is_listed_with_the_reason(damaged: Path) -> None:
    with serving(models=damaged) as server:
        states = {model["name"]: model for model in server.http.get("/models").json()["models"]}
        assert states["bad"]["state"] == "FAILED"
        assert states["bad"]["reason"]
        assert states["good"]["reason"] is None


def test_a_submit_to_a_broken_model_is_told_so_while_others_work(damaged: Path) -> None:
    with serving(models=damaged) as server:
        problem(server.http.post("/tasks/bad?wait=20", content=npy(floats(4))), 500, "model_load_failed")
        answer = server.http.post("/tasks/good?wait=20", content=npy(floats(4)))
        assert array_of(answer.content).tolist() == [0, 2, 4, 6]


def test_the_documentation_is_there(server: InProcessServer) -> None:
    answer = server.http.get("/docs")
    assert answer.status_code == 200
    assert "swagger" in answer.text.lower()


@pytest.mark.parametrize("path", [*HOT_PATHS, "/models", "/health", "/digit"])
def test_openapi_holds_every_path(server: InProcessServer, path: str) -> None:
    assert path in server.http.get("/openapi.json").json()["paths"]


def test_every_path_that_the_index_names_answers(server: InProcessServer) -> None:
    index = server.http.get("/").json()
    for name in ("docs", "models", "health"):
        assert server.http.get(index[name]).status_code == 200

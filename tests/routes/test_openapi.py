"""The documentation under /openapi.json holds all that the server answers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ndserve.routes.options import RESERVED
from ndserve.testing import InProcessServer
from tests.routes.bodies import NPY, NPZ, PROBLEM, floats, npy

SUBMITS = [("/process_np_array", "post"), ("/tasks/{target}", "post"), ("/tasks/{target}/{task_id}", "put")]
RESULTS = [("/result/{task_id}", "get"), ("/tasks/{task_id}/result", "get")]
OTHERS = [
    ("/tasks", "get"),
    ("/tasks/{task_id}", "get"),
    ("/tasks/{task_id}", "delete"),
    ("/tasks/{task_id}/events", "get"),
    ("/tasks/{task_id}/retry", "post"),
]
HEADERS = {"Prefer", "Start-Within", "Run-Within"}

Operations = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def operations(server: InProcessServer) -> Operations:
    paths = server.http.get("/openapi.json").json()["paths"]
    return {(path, method): found for path, methods in paths.items() for method, found in methods.items()}


def named(operation: dict[str, Any], place: str) -> set[str]:
    return {option["name"] for option in operation.get("parameters", []) if option["in"] == place}


def statuses(operation: dict[str, Any]) -> set[int]:
    return set(map(int, operation["responses"]))


def schemas(operation: dict[str, Any], status: int) -> list[dict[str, Any]]:
    schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
    found: list[dict[str, Any]] = schema.get("oneOf", [schema])
    return found


def test_every_route_of_tasks_is_there(operations: Operations) -> None:
    assert operations.keys() >= {*SUBMITS, *RESULTS, *OTHERS}


def test_every_route_of_the_server_is_there(operations: Operations) -> None:
    others = {"/", "/health", "/health/live", "/health/ready", "/models", "/models/{name}"}
    assert operations.keys() >= {(path, "get") for path in others}


def test_every_operation_says_what_it_is_for(operations: Operations) -> None:
    assert all(operation["summary"] and operation["tags"] for operation in operations.values() if "tags" in operation)


def test_the_names_in_a_path_are_its_parameters(operations: Operations) -> None:
    for (path, _), operation in operations.items():
        assert named(operation, "path") == set(re.findall(r"\{(\w+)\}", path))


def test_no_parameter_is_told_twice(operations: Operations) -> None:
    for operation in operations.values():
        places = [(option["in"], option["name"]) for option in operation.get("parameters", [])]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("key", SUBMITS)
def test_a_submit_has_every_option_that_it_takes(operations: Operations, key: tuple[str, str]) -> None:
    path, method = key
    left_out = set() if path == "/process_np_array" else {"model", "process"}
    left_out |= {"split"} if method == "put" else set()
    assert named(operations[key], "query") == RESERVED - left_out | {"parameters"}


@pytest.mark.parametrize("key", SUBMITS)
def test_a_submit_has_every_header_that_it_takes(operations: Operations, key: tuple[str, str]) -> None:
    assert named(operations[key], "header") == HEADERS | ({"Idempotency-Key"} if key[1] == "post" else set())


@pytest.mark.parametrize("key", SUBMITS)
def test_a_submit_tells_of_every_answer(operations: Operations, key: tuple[str, str]) -> None:
    told = {200, 202, 400, 404, 406, 409, 410, 413, 415, 422, 429, 500, 503, 504, 507}
    assert statuses(operations[key]) == told
    assert "Location" in operations[key]["responses"]["202"]["headers"]
    assert "Retry-After" in operations[key]["responses"]["429"]["headers"]


@pytest.mark.parametrize("key", RESULTS)
def test_a_result_tells_of_its_forms_and_of_every_answer(operations: Operations, key: tuple[str, str]) -> None:
    assert operations[key]["responses"]["200"]["content"].keys() >= {NPY, NPZ}
    assert statuses(operations[key]) == {200, 202, 404, 406, 410, 422, 500, 503, 504}
    assert named(operations[key], "query") == {"wait"}


def test_another_run_tells_of_every_answer(operations: Operations) -> None:
    assert statuses(operations["/tasks/{task_id}/retry", "post"]) >= {202, 404, 409, 410, 429, 503}


def test_the_events_are_a_stream(operations: Operations) -> None:
    answers = operations["/tasks/{task_id}/events", "get"]["responses"]
    assert answers.keys() >= {"200", "204", "404", "410"}
    assert answers["200"]["content"].keys() == {"text/event-stream"}
    assert named(operations["/tasks/{task_id}/events", "get"], "header") == {"last-event-id"}


def test_the_list_has_every_filter(operations: Operations) -> None:
    assert named(operations["/tasks", "get"], "query") == {"state", "target", "group", "limit", "cursor"}


def test_refusals_are_problem_documents(operations: Operations) -> None:
    for key in [*SUBMITS, *RESULTS]:
        for status, answer in operations[key]["responses"].items():
            assert int(status) < 400 or answer["content"].keys() == {PROBLEM}


def test_a_state_has_the_members_that_it_is_said_to_have(server: InProcessServer, operations: Operations) -> None:
    task_id = server.http.post("/tasks/identity", content=npy(floats(2))).json()["task_id"]
    task, _ = schemas(operations["/tasks/{task_id}", "get"], 200)
    assert server.http.get(f"/tasks/{task_id}").json().keys() == task["properties"].keys()


def test_the_state_of_a_group_has_the_members_that_it_is_said_to_have(
    server: InProcessServer, operations: Operations
) -> None:
    group = server.http.post("/tasks/identity?split=true", content=npy(floats(2, 2))).json()["group_id"]
    _, told = schemas(operations["/tasks/{task_id}", "get"], 200)
    assert server.http.get(f"/tasks/{group}").json().keys() == told["properties"].keys()


def test_the_answer_to_a_delete_has_the_members_that_it_is_said_to_have(
    server: InProcessServer, operations: Operations
) -> None:
    task_id = server.http.post("/tasks/identity", content=npy(floats(2))).json()["task_id"]
    (told,) = schemas(operations["/tasks/{task_id}", "delete"], 200)
    assert server.http.delete(f"/tasks/{task_id}").json().keys() == told["properties"].keys()

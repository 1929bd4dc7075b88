"""What is refused, and how: every refusal is a problem document with a stable code."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ndserve.errors import StoreUnavailableError
from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import JSON, MODELS, PROCESSES, floats, npy, problem
from tests.routes.gates import serving_held, submit_held

BODY = npy(floats(8, 8))
UNKNOWN = "0" * 32


@pytest.mark.parametrize(
    "query",
    [
        "wait=soon",
        "wait=-1",
        "wait=nan",
        "wait=3601",
        "wait=",
        "cast=perhaps",
        "wait=1&wait=2",
        "colour=red",
        "model=digits",
        "process=identity",
        "&".join(f"p{number}=1" for number in range(65)),
    ],
)
def test_a_query_that_means_nothing_is_refused(server: InProcessServer, query: str) -> None:
    problem(server.http.post(f"/tasks/digits?{query}", content=BODY), 422, "invalid_parameter")


def test_an_unknown_parameter_is_refused_with_those_that_there_are(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/resize?hight=3", content=BODY)
    document = problem(answer, 422, "invalid_parameter")
    assert "hight" in document["detail"]
    assert "height" in document["detail"]


def test_a_parameter_of_the_wrong_type_is_refused(server: InProcessServer) -> None:
    problem(server.http.post("/tasks/resize?height=tall", content=BODY), 422, "invalid_parameter")


def test_a_model_and_a_process_cannot_both_be_named(server: InProcessServer) -> None:
    answer = server.http.post("/process_np_array?model=digits&process=identity", content=BODY)
    problem(answer, 422, "invalid_parameter")


@pytest.mark.parametrize("path", ["/result/{}", "/tasks/{}", "/tasks/{}/result"])
def test_the_paths_of_a_task_know_no_parameter_but_wait(server: InProcessServer, path: str) -> None:
    task_id = server.http.post("/tasks/digits", content=BODY).json()["task_id"]
    document = problem(server.http.get(path.format(task_id) + "?wiat=3"), 422, "invalid_parameter")
    assert "wiat" in document["detail"]


def test_a_misspelt_target_is_answered_with_a_suggestion(server: InProcessServer) -> None:
    document = problem(server.http.post("/tasks/digit", content=BODY), 404, "unknown_target")
    assert "digits" in document["detail"]


def test_an_unknown_version_is_answered_with_those_that_there_are(server: InProcessServer) -> None:
    document = problem(server.http.post("/tasks/digits?version=9", content=BODY), 404, "unknown_target")
    assert "it has 1" in document["detail"]


@pytest.mark.parametrize("path", [f"/result/{UNKNOWN}", f"/tasks/{UNKNOWN}", f"/tasks/{UNKNOWN}/result"])
def test_an_unknown_task_is_not_found(server: InProcessServer, path: str) -> None:
    problem(server.http.get(path), 404, "unknown_task")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/process_np_array", {"POST"}),
        ("POST", f"/result/{UNKNOWN}", {"GET"}),
        ("PUT", f"/tasks/{UNKNOWN}", {"GET", "POST", "DELETE"}),
        ("POST", f"/tasks/{UNKNOWN}/result", {"GET"}),
        ("POST", "/health", {"GET"}),
        ("DELETE", "/models", {"GET"}),
    ],
)
def test_a_method_that_a_path_does_not_answer_is_refused_with_those_that_it_does(
    server: InProcessServer, method: str, path: str, allowed: set[str]
) -> None:
    answer = server.http.request(method, path)
    problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize("media_type", ["text/csv", "image/png"])
def test_a_body_of_a_type_that_is_not_read_is_refused(server: InProcessServer, media_type: str) -> None:
    answer = server.http.post("/tasks/digits", content=b"1,2,3", headers={"content-type": media_type})
    problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("body", [b"\x93NUMPY\x01\x00", BODY[:-1], b"\x93NUMPY" + b"\xff" * 40])
def test_a_body_that_is_not_what_it_says_is_refused(server: InProcessServer, body: bytes) -> None:
    answer = server.http.post("/tasks/digits", content=body, headers={"content-type": "application/x-npy"})
    problem(answer, 400, "malformed_body")


def test_broken_json_is_refused(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/digits", content=b"[1, 2", headers={"content-type": JSON})
    problem(answer, 400, "malformed_body")


def test_an_empty_body_is_refused(server: InProcessServer) -> None:
    assert 400 <= server.http.post("/tasks/digits", content=b"").status_code < 500


def test_a_form_of_the_result_that_there_is_not_is_refused(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/digits?wait=30", content=BODY, headers={"accept": "image/png"})
    problem(answer, 406, "not_acceptable")


@pytest.mark.parametrize("path", ["/no/such/path", "/result/", "/result/a/b", "/tasks/identity/a/b", "/health/"])
def test_a_path_that_is_none_is_answered_with_a_problem(server: InProcessServer, path: str) -> None:
    problem(server.http.get(path), 404, "not_found")


def test_a_parameter_that_fastapi_refuses_is_answered_with_a_problem(server: InProcessServer) -> None:
    document = problem(server.http.get("/square/seven"), 422, "invalid_request")
    assert document["faults"][0]["at"] == "path.number"


@pytest.fixture
def small() -> Iterator[InProcessServer]:
    with serving(max_body_bytes=5000) as started:
        yield started


def test_a_body_is_refused_by_the_length_that_it_declares(small: InProcessServer) -> None:
    document = problem(small.http.post("/tasks/identity", content=npy(floats(2000))), 413, "body_too_large")
    assert document["limit"] == 5000


def test_a_body_of_unknown_length_is_refused_by_count(small: InProcessServer) -> None:
    chunks = (npy(floats(2000))[start : start + 1000] for start in range(0, 8128, 1000))
    problem(small.http.post("/tasks/identity", content=chunks), 413, "body_too_large")


def test_a_body_below_the_bound_is_read(small: InProcessServer) -> None:
    assert small.http.post("/tasks/identity", content=npy(floats(1000))).status_code == 202


def test_a_bound_of_a_few_bytes_holds_too() -> None:
    with serving(max_body_bytes=500) as server:
        problem(server.http.post("/tasks/identity", content=npy(floats(500))), 413, "body_too_large")


def test_a_full_queue_says_when_to_come_back() -> None:
    with serving_held(max_queue_tasks=1) as (server, gate):
        submit_held(server, gate)
        answer = server.http.post("/tasks/identity", content=npy(floats(2)))
        problem(answer, 429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1


def test_a_full_store_refuses_new_tasks_and_keeps_what_it_has() -> None:
    with serving(store_tasks=1, processes=PROCESSES) as server:
        task_id = server.http.post("/tasks/identity", content=npy([5])).json()["task_id"]
        problem(server.http.post("/tasks/identity", content=npy([6])), 507, "store_full")
        assert server.http.get(f"/result/{task_id}?wait=30").status_code == 200


def test_a_task_whose_wait_runs_out_while_the_store_is_full_is_given_up() -> None:
    with serving_held(store_tasks=1) as (server, gate):
        submit_held(server, gate)
        problem(server.http.post("/tasks/held?wait=0.01", content=npy([6])), 507, "store_full")
        assert server.service.stats()["queue"]["live"] == 1


@pytest.mark.parametrize("query", ["", "split=true", "wait=0.01"])
def test_a_store_that_cannot_write_refuses_and_says_when_to_come_back(
    query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreUnavailableError("the disk is away")

    with serving_held(store="memory") as (server, _):
        monkeypatch.setattr(server.service.store, "put", refuse)
        answer = server.http.post(f"/tasks/held?{query}", content=npy([6]))
        problem(answer, 503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        monkeypatch.undo()


def test_a_server_that_shuts_down_takes_no_new_tasks() -> None:
    with serving(models=MODELS) as server:
        server.service.closing = True
        problem(server.http.post("/tasks/digits", content=BODY), 503, "shutting_down")


def test_arrays_of_python_objects_are_refused(server: InProcessServer) -> None:
    head = npy(np.array(["x"])).replace(b"'<U1'", b"'|O' ")
    answer = server.http.post("/tasks/identity", content=head)
    assert 400 <= answer.status_code < 500
    problem(answer, answer.status_code, answer.json()["code"])

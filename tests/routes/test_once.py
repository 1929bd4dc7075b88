"""The same request twice is one task: by an idempotency key, or by an id of the client's own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import array_of, floats, npy, npz, problem

KEY = {"Idempotency-Key": "one"}
ONE, OTHER = npy(floats(2)), npy(floats(3))


@pytest.fixture(params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InProcessServer]:
    with serving(store=request.param, data_dir=tmp_path) as started:
        yield started


def test_the_same_key_and_body_are_the_same_task(server: InProcessServer) -> None:
    first = server.http.post("/tasks/identity", content=ONE, headers=KEY)
    again = server.http.post("/tasks/identity", content=ONE, headers=KEY)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["task_id"] == again.json()["task_id"]
    assert first.headers["location"] == again.headers["location"]
    assert len(server.http.get("/tasks").json()["tasks"]) == 1


@pytest.mark.parametrize(
    ("path", "body"), [("/tasks/identity", OTHER), ("/tasks/softmax", ONE), ("/tasks/identity?cast=true", ONE)]
)
def test_the_same_key_with_another_request_is_a_conflict(server: InProcessServer, path: str, body: bytes) -> None:
    server.http.post("/tasks/identity", content=ONE, headers=KEY)
    answer = server.http.post(path, content=body, headers=KEY)
    assert "'one'" in problem(answer, 409, "conflict")["detail"]


def test_the_same_request_under_two_keys_is_two_tasks(server: InProcessServer) -> None:
    answers = [server.http.post("/tasks/identity", content=ONE, headers={"Idempotency-Key": key}) for key in "ab"]
    assert answers[0].json()["task_id"] != answers[1].json()["task_id"]


def test_who_waits_gets_the_result_of_the_first_request(server: InProcessServer) -> None:
    for _ in range(2):
        answer = server.http.post("/tasks/identity?wait=20", content=ONE, headers=KEY)
        assert answer.status_code == 200
        assert array_of(answer.content).tolist() == [0, 1]
    assert len(server.http.get("/tasks").json()["tasks"]) == 1


def test_requests_with_one_key_that_come_together_are_one_task(server: InProcessServer) -> None:
    with ThreadPoolExecutor(8) as threads:
        posts = [threads.submit(server.http.post, "/tasks/identity", content=ONE, headers=KEY) for _ in range(8)]
        answers = [post.result() for post in posts]
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["task_id"] for answer in answers}) == 1


def test_requests_with_one_id_that_come_together_are_one_task(server: InProcessServer) -> None:
    with ThreadPoolExecutor(8) as threads:
        puts = [threads.submit(server.http.put, "/tasks/identity/mine", content=ONE) for _ in range(8)]
        answers = [put.result() for put in puts]
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]


def test_the_same_key_with_another_parameter_of_the_process_is_a_conflict(server: InProcessServer) -> None:
    body = npy(floats(8, 8))
    for height, status in ((4, 202), (5, 409), (4, 200)):
        answer = server.http.post(f"/tasks/resize?height={height}", content=body, headers=KEY)
        assert answer.status_code == status


def test_a_form_that_is_sent_again_is_the_same_task_whatever_its_boundary(server: InProcessServer) -> None:
    answers = [server.http.post("/tasks/identity", files={"file": ("a.npy", ONE)}, headers=KEY) for _ in range(2)]
    assert answers[0].request.headers["content-type"] != answers[1].request.headers["content-type"]
    assert [answer.status_code for answer in answers] == [202, 200]


@pytest.mark.parametrize(
    "other", [npz(x=floats(2)), npy(floats(2).astype("f8")), npy(floats(2, 1)), npy(floats(2) + 1)]
)
def test_another_name_dtype_shape_or_value_is_another_body(server: InProcessServer, other: bytes) -> None:
    server.http.put("/tasks/identity/mine", content=ONE)
    assert server.http.put("/tasks/identity/mine", content=other).status_code in (409, 422)


def test_a_large_array_is_told_from_another_one(server: InProcessServer) -> None:
    for array, status in ((floats(5000), 202), (floats(5000), 200), (floats(5000) + 1, 409)):
        assert server.http.put("/tasks/identity/mine", content=npy(array)).status_code == status


def test_the_same_key_tells_the_state_that_the_task_has_now(server: InProcessServer) -> None:
    task_id = server.http.post("/tasks/identity", content=ONE, headers=KEY).json()["task_id"]
    server.http.get(f"/result/{task_id}?wait=20")
    again = server.http.post("/tasks/identity", content=ONE, headers=KEY)
    assert again.json() == {"task_id": task_id, "status": "succeeded"}


def test_a_split_array_is_not_put_under_an_id(server: InProcessServer) -> None:
    answer = server.http.put("/tasks/identity/mine?split=true", content=npy(floats(3, 2)))
    assert "split" in problem(answer, 422, "invalid_parameter")["detail"]
    assert server.http.get("/tasks").json()["tasks"] == []


def test_a_split_array_under_one_key_gives_its_stacked_result_to_all_who_wait(server: InProcessServer) -> None:
    for _ in range(2):
        answer = server.http.post("/tasks/identity?split=true&wait=20", content=npy(floats(3, 2)), headers=KEY)
        assert array_of(answer.content).shape == (3, 2)


def test_a_key_is_free_again_when_its_task_is_gone(server: InProcessServer) -> None:
    first = server.http.post("/tasks/identity?wait=20", content=ONE, headers=KEY)
    assert first.status_code == 200
    (task,) = server.http.get("/tasks").json()["tasks"]
    server.http.delete(f"/tasks/{task['task_id']}")
    assert server.http.post("/tasks/identity", content=OTHER, headers=KEY).status_code == 202


def test_a_split_array_under_one_key_is_one_group(server: InProcessServer) -> None:
    body = npy(floats(3, 2))
    first = server.http.post("/tasks/identity?split=true", content=body, headers=KEY)
    again = server.http.post("/tasks/identity?split=true", content=body, headers=KEY)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["group_id"] == again.json()["group_id"]


def test_a_task_can_have_an_id_of_the_clients_own(server: InProcessServer) -> None:
    first = server.http.put("/tasks/identity/mine", content=ONE)
    again = server.http.put("/tasks/identity/mine", content=ONE)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json() == {"task_id": "mine", "status": "queued"}
    assert array_of(server.http.get("/result/mine?wait=20").content).tolist() == [0, 1]


def test_an_id_that_another_request_has_is_a_conflict(server: InProcessServer) -> None:
    server.http.put("/tasks/identity/mine", content=ONE)
    assert "'mine'" in problem(server.http.put("/tasks/identity/mine", content=OTHER), 409, "conflict")["detail"]


def test_an_id_whose_task_was_removed_is_not_given_again(server: InProcessServer) -> None:
    server.http.put("/tasks/identity/mine?wait=20", content=ONE)
    server.http.delete("/tasks/mine")
    assert "mine" in problem(server.http.put("/tasks/identity/mine", content=ONE), 410, "gone")["detail"]


@pytest.mark.parametrize("name", ["group-1", "-a", "a%20b", "x" * 129, "%2e%2e"])
def test_an_id_of_no_use_is_refused(server: InProcessServer, name: str) -> None:
    problem(server.http.put(f"/tasks/identity/{name}", content=ONE), 422, "invalid_parameter")


@pytest.mark.parametrize("key", ["", " ", "k" * 256])
def test_a_key_of_no_use_is_refused(server: InProcessServer, key: str) -> None:
    answer = server.http.post("/tasks/identity", content=ONE, headers={"Idempotency-Key": key})
    assert "Idempotency-Key" in problem(answer, 422, "invalid_parameter")["detail"]


def test_a_refused_request_does_not_use_its_key_up(server: InProcessServer) -> None:
    problem(server.http.post("/tasks/identity", content=b"no array", headers=KEY), 415, "unsupported_media_type")
    assert server.http.post("/tasks/identity", content=ONE, headers=KEY).status_code == 202

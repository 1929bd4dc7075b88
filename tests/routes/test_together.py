"""What comes together: two who wait for one task, a wait and a cancel, two cancels, two further runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import PROCESSES, array_of, floats, npy, problem
from tests.routes.gates import Gate, serving_held, submit_held
from tests.routes.test_course import ended, submit
from tests.routes.test_split import split

KEY = {"Idempotency-Key": "one"}
Held = tuple[InProcessServer, Gate]


@pytest.fixture(params=["memory", "sqlite"])
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Held]:
    with serving_held(store=request.param, data_dir=tmp_path) as pair:
        yield pair


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def waiting(server: InProcessServer, threads: ThreadPoolExecutor, number: int, ask: Callable[[], Any]) -> list[Any]:
    """That many callers, all of whom wait; gives the futures of their answers."""
    futures: list[Future[Any]] = [threads.submit(ask) for _ in range(number)]
    while server.http.get("/health").json()["waiting"] < number:
        assert not any(future.done() for future in futures), "somebody did not wait"
    return futures


def test_two_who_submit_under_one_key_and_wait_get_the_result_of_one_run(
    held: Held, threads: ThreadPoolExecutor
) -> None:
    server, gate = held
    path = "/tasks/held?wait=20"
    answers = waiting(server, threads, 2, lambda: server.http.post(path, content=npy(floats(2)), headers=KEY))
    gate.open()
    assert [array_of(answer.result().content).tolist() for answer in answers] == [[0, 1]] * 2
    assert server.http.get("/health").json()["ended"]["succeeded"] == 1


def test_the_same_key_while_the_task_runs_tells_so(held: Held) -> None:
    server, gate = held
    first = server.http.post("/tasks/held", content=npy(floats(2)), headers=KEY)
    gate.reached()
    again = server.http.post("/tasks/held", content=npy(floats(2)), headers=KEY)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == {"task_id": first.json()["task_id"], "status": "running"}


def test_a_key_whose_task_was_cancelled_still_belongs_to_it(held: Held) -> None:
    server, gate = held
    task_id = server.http.post("/tasks/held", content=npy(floats(2)), headers=KEY).json()["task_id"]
    gate.reached()
    server.http.delete(f"/tasks/{task_id}")
    again = server.http.post("/tasks/held", content=npy(floats(2)), headers=KEY)
    assert (again.status_code, again.json()) == (200, {"task_id": task_id, "status": "cancelled"})


def test_who_waits_for_a_result_is_told_at_once_that_its_task_was_cancelled(
    held: Held, threads: ThreadPoolExecutor
) -> None:
    server, gate = held
    task_id = submit_held(server, gate)
    answers = waiting(server, threads, 2, lambda: server.http.get(f"/result/{task_id}?wait=3600"))
    server.http.delete(f"/tasks/{task_id}")
    for answer in answers:
        assert "cancelled" in problem(answer.result(), 410, "gone")["detail"]


def test_who_waits_for_a_group_is_told_at_once_that_it_was_cancelled(held: Held, threads: ThreadPoolExecutor) -> None:
    server, gate = held
    group = split(server, floats(3, 2), "held")
    gate.reached()
    (answer,) = waiting(server, threads, 1, lambda: server.http.get(f"/result/{group}?wait=3600"))
    server.http.delete(f"/tasks/{group}")
    assert problem(answer.result(), 500, "group_failed")["counts"]["cancelled"] == 3


def test_who_waits_for_a_state_gets_the_end(held: Held, threads: ThreadPoolExecutor) -> None:
    server, gate = held
    task_id = submit_held(server, gate)
    (answer,) = waiting(server, threads, 1, lambda: server.http.get(f"/tasks/{task_id}?wait=3600"))
    gate.open()
    assert answer.result().json()["status"] == "succeeded"


def test_a_task_that_was_cancelled_while_it_ran_has_its_state_until_it_is_deleted_again(held: Held) -> None:
    server, gate = held
    task_id = submit_held(server, gate)
    assert server.http.delete(f"/tasks/{task_id}").json()["outcome"] == "result_dropped"
    assert server.http.get(f"/tasks/{task_id}").json()["status"] == "cancelled"
    assert server.http.delete(f"/tasks/{task_id}").json()["outcome"] == "result_removed"
    problem(server.http.get(f"/tasks/{task_id}"), 410, "gone")


def test_of_several_that_run_a_failed_task_again_one_does(held: Held, threads: ThreadPoolExecutor) -> None:
    server, gate = held
    task_id = submit(server, "picky", [-1.0])
    ended(server, task_id)
    submit_held(server, gate)
    retries = [threads.submit(server.http.post, f"/tasks/{task_id}/retry") for _ in range(4)]
    assert sorted(retry.result().status_code for retry in retries) == [202, 409, 409, 409]


def test_a_request_that_finds_the_queue_full_does_not_use_its_key_up() -> None:
    with serving_held(max_queue_tasks=1) as (server, gate):
        task_id = submit_held(server, gate)
        problem(server.http.post("/tasks/held", content=npy(floats(2)), headers=KEY), 429, "queue_full")
        gate.open()
        ended(server, task_id)
        assert server.http.post("/tasks/held", content=npy(floats(2)), headers=KEY).status_code == 202


def test_a_submit_that_waits_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    with serving(processes=PROCESSES, store="sqlite", data_dir=tmp_path) as server:
        answer = server.http.post("/tasks/picky?wait=20", content=npy(floats(300, 300)))
        assert array_of(answer.content).shape == (300, 300)
        assert server.http.get("/tasks").json() == {"tasks": [], "next_cursor": None}
        assert [file for file in (tmp_path / "arrays").glob("*/*") if file.is_file()] == []

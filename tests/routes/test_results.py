"""Fetching results and states of tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ndserve.testing import InProcessServer
from tests.routes.bodies import JSON, NPY, NPZ, array_of, arrays_of, digit, floats, npy, problem
from tests.routes.gates import serving_held, submit_held

RESULT_PATHS = ["/result/{}", "/tasks/{}/result"]


def finished(server: InProcessServer, target: str, array: Any) -> str:
    """The id of a task that has ended."""
    task_id: str = server.http.post(f"/tasks/{target}", content=npy(array)).json()["task_id"]
    assert server.http.get(f"/tasks/{task_id}?wait=30").json()["ended"]
    return task_id


@pytest.mark.parametrize("path", RESULT_PATHS)
def test_both_paths_of_a_result_wait_for_it(server: InProcessServer, path: str) -> None:
    task_id = server.http.post("/tasks/digits", content=npy(digit(3))).json()["task_id"]
    answer = server.http.get(path.format(task_id), params={"wait": 30})
    assert answer.headers["content-type"] == NPY
    assert array_of(answer.content).argmax() == 3


def test_a_result_can_be_fetched_again(server: InProcessServer) -> None:
    task_id = finished(server, "identity", [4, 5])
    first, second = server.http.get(f"/result/{task_id}"), server.http.get(f"/result/{task_id}")
    assert array_of(first.content).tolist() == array_of(second.content).tolist() == [4, 5]


def test_accept_chooses_npz(server: InProcessServer) -> None:
    answer = server.http.get(f"/result/{finished(server, 'identity', [4, 5])}", headers={"accept": NPZ})
    assert answer.headers["content-type"] == NPZ
    assert arrays_of(answer.content)["output"].tolist() == [4, 5]


def test_accept_chooses_json(server: InProcessServer) -> None:
    answer = server.http.get(f"/result/{finished(server, 'identity', [4, 5])}", headers={"accept": JSON})
    assert answer.headers["content-type"] == JSON
    assert answer.json() == {"array": [4, 5], "dtype": "int64", "shape": [2]}


def test_a_large_result_comes_whole_in_every_form(server: InProcessServer) -> None:
    large = floats(300, 300)
    task_id = finished(server, "identity", large)
    assert (array_of(server.http.get(f"/result/{task_id}").content) == large).all()
    compressed = server.http.get(f"/result/{task_id}", headers={"accept": NPZ}).content
    assert (arrays_of(compressed)["output"] == large).all()
    assert server.http.get(f"/result/{task_id}", headers={"accept": JSON}).json()["array"] == large.tolist()


@pytest.mark.parametrize("path", RESULT_PATHS)
def test_a_task_that_has_not_ended_is_answered_with_its_state_and_when_to_ask_again(path: str) -> None:
    with serving_held() as (server, gate):
        task_id = submit_held(server, gate)
        answer = server.http.get(path.format(task_id))
        assert answer.status_code == 202
        assert answer.json() == {"task_id": task_id, "status": "running"}
        assert int(answer.headers["retry-after"]) >= 1


def test_a_wait_that_is_over_is_answered_with_the_state() -> None:
    with serving_held() as (server, gate):
        task_id = submit_held(server, gate)
        assert server.http.get(f"/result/{task_id}?wait=0.2").status_code == 202
        assert len(server.service.waiters) == 0


def test_a_submit_whose_wait_is_over_becomes_an_ordinary_task() -> None:
    with serving_held() as (server, gate):
        answer = server.http.post("/tasks/held?wait=0.001", content=npy([8]))
        assert answer.status_code == 202
        gate.open()
        fetched = server.http.get(answer.headers["location"], params={"wait": 20})
        assert array_of(fetched.content).tolist() == [8]


def test_a_status_holds_what_is_known_of_the_task(server: InProcessServer) -> None:
    status = server.http.get(f"/tasks/{finished(server, 'digits', digit(1))}").json()
    assert status.keys() == {
        *("task_id", "status", "target", "version", "group", "priority", "position", "attempts", "device", "progress"),
        *("timings", "created", "started", "ended", "expires", "start_by", "run_by", "error"),
    }
    assert status["timings"].keys() == {"queue_ms", "load_ms", "run_ms", "store_ms"}
    assert (status["status"], status["target"], status["version"]) == ("succeeded", "digits", "1")
    assert (status["attempts"], status["error"]) == (1, None)


def test_the_times_of_a_task_are_rfc_3339_in_utc_and_in_order(server: InProcessServer) -> None:
    before = datetime.now(UTC)
    status = server.http.get(f"/tasks/{finished(server, 'identity', [1])}").json()
    times = [datetime.fromisoformat(status[name]) for name in ("created", "started", "ended")]
    assert times == sorted(times)
    assert all(time.utcoffset() is not None and not time.utcoffset() for time in times)
    assert all("T" in status[name] for name in ("created", "started", "ended"))
    assert abs((times[0] - before).total_seconds()) < 60


def test_a_task_that_runs_has_started_and_not_ended() -> None:
    with serving_held() as (server, gate):
        status = server.http.get(f"/tasks/{submit_held(server, gate)}").json()
        assert status["status"] == "running"
        assert status["started"]
        assert status["ended"] is None


def test_a_failed_task_gives_its_own_problem(server: InProcessServer) -> None:
    task_id = finished(server, "picky", floats(3) - 1)
    document = problem(server.http.get(f"/result/{task_id}"), 500, "execution_failed")
    assert "picky takes no negative numbers" in document["detail"]


def test_the_status_of_a_failed_task_tells_why(server: InProcessServer) -> None:
    status = server.http.get(f"/tasks/{finished(server, 'picky', floats(3) - 1)}").json()
    assert status["status"] == "failed"
    assert status["error"]["code"] == "execution_failed"
    assert "picky takes no negative numbers" in status["error"]["message"]


def test_a_submit_that_waits_gives_the_failure_at_once(server: InProcessServer) -> None:
    before = server.service.store.usage()
    answer = server.http.post("/tasks/picky?wait=30", content=npy(floats(3) - 1))
    problem(answer, 500, "execution_failed")
    assert server.service.store.usage() == before


def test_the_result_of_a_cancelled_task_is_gone() -> None:
    with serving_held() as (server, gate):
        task_id = submit_held(server, gate)
        portal = server.http.portal
        assert portal is not None
        task = portal.call(server.service.find, task_id)
        assert portal.call(server.service.cancel, task)
        problem(server.http.get(f"/result/{task_id}"), 410, "gone")
        assert server.http.get(f"/tasks/{task_id}").json()["status"] == "cancelled"

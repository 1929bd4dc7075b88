"""One array, many tasks: submitted at once, asked for together or one by one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndserve.engine import tasks
from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import PROCESSES, array_of, arrays_of, floats, npy, npz, problem
from tests.routes.gates import serving_held, submit_held


@pytest.fixture(params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InProcessServer]:
    with serving(store=request.param, data_dir=tmp_path, processes=PROCESSES) as started:
        yield started


def split(server: InProcessServer, array: Any, target: str = "picky", query: str = "") -> str:
    answer = server.http.post(f"/tasks/{target}?split=true&{query}", content=npy(array))
    assert answer.status_code == 202, answer.text
    group: str = answer.json()["group_id"]
    return group


def test_a_split_array_gets_the_id_of_a_group(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/picky?split=true", content=npy(floats(4, 3)))
    told = answer.json()
    assert answer.status_code == 202
    assert told == {"task_id": told["group_id"], "group_id": told["group_id"], "status": "queued", "total": 4}
    assert answer.headers["location"] == f"/result/{told['group_id']}"


def test_the_results_come_stacked_in_the_order_of_the_items(server: InProcessServer) -> None:
    group = split(server, floats(40, 3))
    answer = server.http.get(f"/result/{group}?wait=20")
    np.testing.assert_array_equal(array_of(answer.content), floats(40, 3) * 2)


def test_several_outputs_come_stacked_by_name(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/top_k?split=true&k=1&wait=20", content=npy([[1.0, 5.0], [7.0, 2.0]]))
    outputs = arrays_of(answer.content)
    assert outputs["values"].tolist() == [[5.0], [7.0]]
    assert outputs["indices"].tolist() == [[1], [0]]


def test_arrays_by_name_are_split_together(server: InProcessServer) -> None:
    body = npz(a=floats(4, 3), b=np.ones((4, 3), np.float32))
    answer = server.http.post("/tasks/difference?split=true&wait=20", content=body)
    np.testing.assert_array_equal(array_of(answer.content), floats(4, 3) - 1)


def test_each_item_is_a_task_with_an_id_that_can_be_told(server: InProcessServer) -> None:
    group = split(server, floats(3, 2))
    result = server.http.get(f"/result/{group}-2?wait=20")
    np.testing.assert_array_equal(array_of(result.content), floats(3, 2)[2] * 2)
    assert server.http.get(f"/tasks/{group}-2").json()["group"] == group
    listed = server.http.get(f"/tasks?group={group}").json()["tasks"]
    assert [task["task_id"] for task in listed] == [f"{group}-{index}" for index in (2, 1, 0)]


def test_the_state_of_a_group_counts_its_tasks(server: InProcessServer) -> None:
    group = split(server, [[1.0], [-1.0], [2.0]])
    told = server.http.get(f"/tasks/{group}?wait=20").json()
    assert (told["status"], told["total"]) == ("failed", 3)
    assert (told["counts"]["succeeded"], told["counts"]["failed"]) == (2, 1)
    assert told["progress"]["fraction"] == 1.0


def test_a_group_with_a_failed_task_has_no_stacked_result_and_the_others_have_theirs(server: InProcessServer) -> None:
    group = split(server, [[1.0], [-1.0]])
    refused = problem(server.http.get(f"/result/{group}?wait=20"), 500, "group_failed")
    assert (refused["counts"]["succeeded"], refused["counts"]["failed"]) == (1, 1)
    assert array_of(server.http.get(f"/result/{group}-0").content).tolist() == [2.0]


def test_a_group_that_still_runs_says_so() -> None:
    with serving_held() as (server, gate):
        group = split(server, floats(2, 2), "held")
        gate.reached()
        answer = server.http.get(f"/result/{group}")
        assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
        told = server.http.get(f"/tasks/{group}").json()
        assert (told["status"], told["counts"]["running"], told["counts"]["queued"]) == ("running", 1, 1)
        gate.open()
        assert server.http.get(f"/result/{group}?wait=20").status_code == 200


def test_a_group_is_cancelled_as_a_whole() -> None:
    with serving_held() as (server, gate):
        group = split(server, floats(5, 2), "held")
        gate.reached()
        answer = server.http.delete(f"/tasks/{group}")
        assert answer.json() == {"task_id": group, "status": "cancelled", "outcome": "result_dropped"}
        gate.open()
        assert server.http.get(f"/tasks/{group}").json()["counts"]["cancelled"] == 5


def test_more_items_than_the_queue_takes_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "split_items", lambda inputs: pytest.fail("they were made"))
    with serving(max_queue_tasks=100) as server:
        answer = server.http.post("/tasks/identity?split=true", content=npy(np.zeros(101, np.uint8)))
    problem(answer, 429, "queue_full")


def test_the_results_of_a_group_are_removed_together(server: InProcessServer) -> None:
    group = split(server, floats(3, 2))
    server.http.get(f"/result/{group}?wait=20")
    assert server.http.delete(f"/tasks/{group}").json()["outcome"] == "result_removed"
    for path in (f"/tasks/{group}", f"/result/{group}", f"/result/{group}-0"):
        problem(server.http.get(path), 410, "gone")


@pytest.mark.parametrize("array", [np.float32(1), np.empty((0, 3), np.float32)], ids=["scalar", "empty"])
def test_what_has_no_items_is_not_split(server: InProcessServer, array: Any) -> None:
    answer = server.http.post("/tasks/picky?split=true", content=npy(array))
    assert "axis 0" in problem(answer, 422, "invalid_input")["detail"]


def test_arrays_of_different_lengths_are_not_split(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/difference?split=true", content=npz(a=floats(4, 3), b=floats(5, 3)))
    assert "axis 0" in problem(answer, 422, "invalid_input")["detail"]


def test_an_array_with_more_items_than_the_queue_takes_is_refused_whole() -> None:
    with serving(processes=PROCESSES, max_queue_tasks=5) as server:
        problem(server.http.post("/tasks/picky?split=true", content=npy(floats(6, 2))), 429, "queue_full")
        assert server.http.get("/health").json()["store"]["tasks"] == 0


def test_a_model_takes_a_split_array_as_well() -> None:
    with serving(models="models") as server:
        image = np.load(io.BytesIO(Path("models/digits/samples/digit_7.npy").read_bytes()))
        answer = server.http.post("/tasks/digits?split=true&wait=20", content=npy(np.stack([image] * 50)))
        assert array_of(answer.content).argmax(axis=1).tolist() == [7] * 50


@pytest.mark.parametrize("name", ["group-0123", "group-" + "0" * 43])
def test_an_unknown_group_is_told_from_one_that_is_gone(server: InProcessServer, name: str) -> None:
    for method, path in [("GET", f"/tasks/{name}"), ("GET", f"/result/{name}"), ("DELETE", f"/tasks/{name}")]:
        problem(server.http.request(method, path), 404, "unknown_task")


def test_a_group_has_no_events(server: InProcessServer) -> None:
    group = split(server, floats(2, 2))
    hint = problem(server.http.get(f"/tasks/{group}/events"), 404, "unknown_task")["detail"]
    assert f"GET /tasks/{group}" in hint


def test_a_group_one_of_whose_results_was_removed_has_no_stacked_result(server: InProcessServer) -> None:
    group = split(server, floats(3, 2))
    server.http.get(f"/result/{group}?wait=20")
    server.http.delete(f"/tasks/{group}-1")
    assert f"{group}-1" in problem(server.http.get(f"/result/{group}"), 410, "gone")["detail"]


def test_a_group_that_waits_is_cancelled_before_it_runs() -> None:
    with serving_held() as (server, gate):
        submit_held(server, gate)
        group = split(server, floats(3, 2), "identity")
        assert server.http.get(f"/tasks/{group}").json()["status"] == "queued"
        assert server.http.delete(f"/tasks/{group}").json()["outcome"] == "never_ran"
        problem(server.http.get(f"/result/{group}"), 500, "group_failed")


def test_a_submit_that_waits_for_a_group_with_a_failed_task_gets_the_failure(server: InProcessServer) -> None:
    answer = server.http.post("/tasks/picky?split=true&wait=20", content=npy([[1.0], [-1.0]]))
    assert problem(answer, 500, "group_failed")["counts"]["failed"] == 1


def test_who_waits_for_a_group_is_told_when_the_engine_is_dead() -> None:
    with serving_held(store="memory") as (server, gate):
        group = split(server, floats(2, 2), "held")
        gate.reached()
        server.service.dead = "the device is gone"
        problem(server.http.get(f"/result/{group}?wait=0.01"), 503, "engine_dead")
        server.service.dead = ""


def test_a_group_is_not_run_again_as_a_whole(server: InProcessServer) -> None:
    group = split(server, [[1.0], [-1.0]])
    server.http.get(f"/tasks/{group}?wait=20")
    hint = problem(server.http.post(f"/tasks/{group}/retry"), 404, "unknown_task")["detail"]
    assert f"/tasks?group={group}&state=failed" in hint
    assert server.http.post(f"/tasks/{group}-1/retry").status_code == 202


def test_a_group_whose_result_was_fetched_makes_room(tmp_path: Path) -> None:
    with serving(processes=PROCESSES, store="sqlite", data_dir=tmp_path, store_bytes=2000) as server:
        group = split(server, floats(10, 40))
        assert server.http.get(f"/result/{group}?wait=20").status_code == 200
        assert server.http.post("/tasks/picky", content=npy(floats(200))).status_code == 202

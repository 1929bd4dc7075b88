"""The options of a split array are those of each of its tasks, and a task of a group is one like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import PROCESSES, array_of, floats, npy, problem
from tests.routes.gates import serving_held, submit_held
from tests.routes.test_course import events
from tests.routes.test_split import split


@pytest.fixture(params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InProcessServer]:
    with serving(store=request.param, data_dir=tmp_path, processes=PROCESSES) as started:
        yield started


def state(server: InProcessServer, name: str, wait: float = 20) -> dict[str, Any]:
    told: dict[str, Any] = server.http.get(f"/tasks/{name}?wait={wait}").json()
    return told


def test_each_task_of_a_group_has_the_options_of_the_submit(server: InProcessServer) -> None:
    group = split(server, floats(3, 2), query="priority=7&start_within=60&run_within=30")
    state(server, group)
    for index in range(3):
        told = state(server, f"{group}-{index}")
        assert (told["priority"], told["group"]) == (7, group)
        assert told["start_by"] is not None
        assert told["run_by"] is not None


def test_a_group_none_of_whose_tasks_started_in_time_has_expired(server: InProcessServer) -> None:
    group = split(server, floats(3, 2), query="start_within=0")
    told = state(server, group)
    assert (told["status"], told["counts"]["expired"]) == ("expired", 3)
    assert problem(server.http.get(f"/result/{group}"), 500, "group_failed")["counts"]["expired"] == 3


def test_a_group_whose_task_took_too_long_has_failed() -> None:
    with serving_held() as (server, _):
        group = split(server, floats(1, 2), "held", "run_within=0.02")
        assert state(server, group)["status"] == "failed"
        assert state(server, f"{group}-0")["error"]["code"] == "timeout"


def test_a_group_goes_before_what_has_a_lower_priority() -> None:
    with serving_held() as (server, gate):
        submit_held(server, gate)
        low = server.http.post("/tasks/held?priority=1", content=npy(floats(2))).json()["task_id"]
        group = split(server, floats(2, 2), "held", "priority=9")
        gate.open()
        starts = [state(server, name)["started"] for name in (f"{group}-0", f"{group}-1", low)]
        assert starts == sorted(starts)


def test_the_outcomes_of_a_group_expire_together_after_its_last_end(server: InProcessServer) -> None:
    group = split(server, [[1.0], [-1.0]], query="ttl=1000")
    told = state(server, group)
    tasks = [state(server, f"{group}-{index}") for index in range(2)]
    assert {task["expires"] for task in tasks} == {told["expires"]}
    assert told["expires"] > max(task["ended"] for task in tasks)


def test_a_task_of_a_group_has_a_stream_of_its_own(server: InProcessServer) -> None:
    group = split(server, floats(2, 2))
    told = events(server, f"{group}-1")
    assert told[-1]["event"] == "end"
    assert (told[-1]["data"]["task_id"], told[-1]["data"]["group"]) == (f"{group}-1", group)


def test_a_task_of_a_group_can_be_cancelled_and_the_others_run() -> None:
    with serving_held() as (server, gate):
        group = split(server, floats(3, 2), "held")
        gate.reached()
        assert server.http.delete(f"/tasks/{group}-2").json()["outcome"] == "never_ran"
        gate.open()
        counts = state(server, group)["counts"]
        assert (counts["succeeded"], counts["cancelled"]) == (2, 1)


def test_a_group_is_whole_once_its_failed_task_has_run_again(tmp_path: Path) -> None:
    source = (
        "from ndserve import process\n\nSEEN = []\n\n\n@process('second', batched=False)\ndef second(xp, x):\n"
        "    if x[0] < 0 and not SEEN:\n        SEEN.append(1)\n        raise ValueError('not yet')\n    return x\n"
    )
    (tmp_path / "second.py").write_text(source)
    with serving(processes=tmp_path) as server:
        group = split(server, [[1.0], [-1.0]], "second")
        assert state(server, group)["status"] == "failed"
        assert server.http.post(f"/tasks/{group}-1/retry").status_code == 202
        assert state(server, group)["status"] == "succeeded"
        np.testing.assert_array_equal(array_of(server.http.get(f"/result/{group}").content), [[1], [-1]])


def test_a_split_array_is_converted_where_the_submit_says_so() -> None:
    with serving(models="models") as server:
        body = npy(np.zeros((3, 8, 8), np.float64))
        problem(server.http.post("/tasks/digits?split=true", content=body), 422, "invalid_input")
        answer = server.http.post("/tasks/digits?split=true&cast=true&wait=20", content=body)
        assert array_of(answer.content).shape == (3, 10)

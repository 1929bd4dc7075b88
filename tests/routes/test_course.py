"""The course of a task: followed by its events, listed, cancelled, run again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import PROCESSES, floats, npy, problem
from tests.routes.gates import serving_held, submit_held
from tests.routes.test_hang_up import Client, held_task, run, running

UNKNOWN = "0" * 43


@pytest.fixture(params=["memory", "sqlite"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InProcessServer]:
    with serving(store=request.param, data_dir=tmp_path, processes=PROCESSES) as started:
        yield started


def submit(server: InProcessServer, target: str = "identity", array: Any = (1.0, 2.0)) -> str:
    answer = server.http.post(f"/tasks/{target}", content=npy(array))
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["task_id"]
    return task_id


def ended(server: InProcessServer, task_id: str) -> dict[str, Any]:
    told: dict[str, Any] = server.http.get(f"/tasks/{task_id}?wait=20").json()
    assert told["ended"] is not None
    return told


def events(server: InProcessServer, task_id: str, last: str = "") -> list[dict[str, Any]]:
    """The events of a stream that ends: id, event and data of each."""
    answer = server.http.get(f"/tasks/{task_id}/events", headers={"Last-Event-ID": last} if last else {})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = []
    for block in answer.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            told.append({**lines, "data": json.loads(lines["data"])})
    return told


# events


def test_a_stream_tells_every_step_in_order_and_ends_with_the_whole_state(server: InProcessServer) -> None:
    task_id = submit(server)
    told = events(server, task_id)
    assert [event["event"] for event in told if event["event"] != "position"] == ["state", "state", "end"]
    assert [event["data"]["status"] for event in told if event["event"] == "state"] == ["queued", "running"]
    assert told[-1]["data"] == server.http.get(f"/tasks/{task_id}").json()
    ids = [int(event["id"]) for event in told]
    assert ids == sorted(set(ids))


def test_a_stream_goes_on_after_the_last_event_that_was_heard(server: InProcessServer) -> None:
    task_id = submit(server)
    whole = events(server, task_id)
    assert events(server, task_id, whole[-2]["id"]) == whole[-1:]


def test_nothing_comes_after_the_end(server: InProcessServer) -> None:
    task_id = submit(server)
    last = events(server, task_id)[-1]["id"]
    answer = server.http.get(f"/tasks/{task_id}/events", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.content) == (204, b"")


def test_a_last_event_id_that_is_none_of_ours_starts_from_the_beginning(server: InProcessServer) -> None:
    assert events(server, submit(server), "something")[0]["data"]["status"] == "queued"


def test_a_stream_tells_what_a_process_reports() -> None:
    with serving_held() as (server, gate):
        task_id = submit(server, "reporting")
        gate.reached()
        gate.open()
        ended(server, task_id)
        said = [event["data"] for event in events(server, task_id) if event["event"] == "progress"]
        assert said[-1] == {"fraction": 1.0, "message": "all of it"}


def test_a_client_that_leaves_a_stream_is_forgotten_and_a_queued_task_tells_its_position() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            await held_task(app, gate)
            queued = Client(app, "POST", "/tasks/held")
            queued.push(npy(floats(2)))
            await queued.start()
            client = Client(app, "GET", f"/tasks/{json.loads(queued.body)['task_id']}/events")
            client.push(b"")
            request = client.start()
            while b"event: position" not in client.body:  # noqa: ASYNC110 - the stream tells its client alone
                await asyncio.sleep(0)
            assert len(service.ledger.watchers) == 1
            client.hang_up()
            await request
            assert len(service.ledger.watchers) == 0

    run(test())


def test_the_events_of_an_unknown_task_and_of_a_removed_one_are_refused(server: InProcessServer) -> None:
    problem(server.http.get(f"/tasks/{UNKNOWN}/events"), 404, "unknown_task")
    task_id = submit(server)
    ended(server, task_id)
    server.http.delete(f"/tasks/{task_id}")
    problem(server.http.get(f"/tasks/{task_id}/events"), 410, "gone")


# cancelling


def test_a_queued_task_that_is_cancelled_never_runs() -> None:
    with serving_held() as (server, gate):
        submit_held(server, gate)
        submit(server, "held")  # stands at the lane
        queued = submit(server, "held")
        answer = server.http.delete(f"/tasks/{queued}")
        assert answer.json() == {"task_id": queued, "status": "cancelled", "outcome": "never_ran"}
        gate.open()
        assert ended(server, queued)["attempts"] == 0
        problem(server.http.get(f"/result/{queued}"), 410, "gone")


def test_the_result_of_a_running_task_that_is_cancelled_is_dropped() -> None:
    with serving_held() as (server, gate):
        task_id = submit_held(server, gate)
        answer = server.http.delete(f"/tasks/{task_id}")
        assert answer.json()["outcome"] == "result_dropped"
        gate.open()
        assert ended(server, task_id)["status"] == "cancelled"
        problem(server.http.get(f"/result/{task_id}"), 410, "gone")


def test_the_result_of_an_ended_task_is_removed(server: InProcessServer) -> None:
    task_id = submit(server)
    ended(server, task_id)
    assert server.http.delete(f"/tasks/{task_id}").json()["outcome"] == "result_removed"
    for method, path in [("GET", f"/tasks/{task_id}"), ("GET", f"/result/{task_id}"), ("DELETE", f"/tasks/{task_id}")]:
        assert "deleted" in problem(server.http.request(method, path), 410, "gone")["detail"]


def test_an_unknown_task_cannot_be_cancelled(server: InProcessServer) -> None:
    problem(server.http.delete(f"/tasks/{UNKNOWN}"), 404, "unknown_task")


# another run


def test_a_failed_task_is_run_again_under_its_id(server: InProcessServer) -> None:
    task_id = submit(server, "picky", [-1.0])
    assert ended(server, task_id)["error"]["code"] == "execution_failed"
    answer = server.http.post(f"/tasks/{task_id}/retry")
    assert (answer.status_code, answer.headers["location"]) == (202, f"/result/{task_id}")
    assert answer.json() == {"task_id": task_id, "status": "queued"}
    assert ended(server, task_id)["attempts"] == 1


def test_only_a_failed_task_is_run_again(server: InProcessServer) -> None:
    task_id = submit(server)
    ended(server, task_id)
    assert "succeeded" in problem(server.http.post(f"/tasks/{task_id}/retry"), 409, "not_failed")["detail"]
    problem(server.http.post(f"/tasks/{UNKNOWN}/retry"), 404, "unknown_task")


def test_neither_a_cancelled_task_nor_a_removed_one_is_run_again() -> None:
    with serving_held() as (server, gate):
        task_id = submit_held(server, gate)
        server.http.delete(f"/tasks/{task_id}")
        assert "cancelled" in problem(server.http.post(f"/tasks/{task_id}/retry"), 409, "not_failed")["detail"]
        server.http.delete(f"/tasks/{task_id}")
        problem(server.http.post(f"/tasks/{task_id}/retry"), 410, "gone")


def test_a_task_that_runs_again_can_succeed_and_its_stream_tells_the_new_run() -> None:
    with serving_held() as (server, gate):
        answer = server.http.post("/tasks/held?run_within=0.02", content=npy(floats(2)))
        task_id = answer.json()["task_id"]
        assert ended(server, task_id)["error"]["code"] == "timeout"
        last = events(server, task_id)[-1]["id"]
        gate.open()
        server.http.post(f"/tasks/{task_id}/retry")
        told = [event["data"].get("status") for event in events(server, task_id, last) if event["event"] != "position"]
        assert told[:2] == ["queued", "running"]


# the list


def test_the_list_gives_the_newest_first_page_by_page(server: InProcessServer) -> None:
    ids = [submit(server) for _ in range(5)]
    for task_id in ids:
        ended(server, task_id)
    seen, cursor = [], ""
    for number in (2, 2, 1):
        page = server.http.get(f"/tasks?limit=2{cursor}").json()
        assert len(page["tasks"]) == number
        seen += [task["task_id"] for task in page["tasks"]]
        cursor = f"&cursor={page['next_cursor']}"
        submit(server)  # what comes meanwhile moves nothing
    assert page["next_cursor"] is None
    assert seen == ids[::-1]


def test_the_list_holds_the_states_as_they_are_asked_for_alone(server: InProcessServer) -> None:
    task_id = submit(server)
    told = ended(server, task_id)
    (listed,) = server.http.get("/tasks").json()["tasks"]
    assert listed | {"timings": None} == told | {"timings": None}


def test_the_list_is_narrowed_by_state_and_target(server: InProcessServer) -> None:
    good, bad, other = submit(server, "picky", [1.0]), submit(server, "picky", [-1.0]), submit(server)
    for task_id in (good, bad, other):
        ended(server, task_id)

    def listed(query: str) -> list[str]:
        return [task["task_id"] for task in server.http.get(f"/tasks?{query}").json()["tasks"]]

    assert listed("state=failed") == [bad]
    assert listed("target=picky") == [bad, good]
    assert listed("target=picky&state=succeeded") == [good]
    assert listed("state=queued") == []


def test_running_and_queued_tasks_are_listed_as_such() -> None:
    with serving_held() as (server, gate):
        running_id = submit_held(server, gate)
        queued_id = submit(server, "held")
        for state, task_id in (("running", running_id), ("queued", queued_id)):
            (task,) = server.http.get(f"/tasks?state={state}").json()["tasks"]
            assert (task["task_id"], task["status"]) == (task_id, state)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_request"),
        ("limit=1001", "invalid_request"),
        ("state=born", "invalid_request"),
        ("cursor=x", "invalid_parameter"),
        ("stat=failed", "invalid_parameter"),
        ("cursor=99999999999999999999", "invalid_parameter"),
    ],
)
def test_a_list_that_cannot_be_had_is_refused(server: InProcessServer, query: str, code: str) -> None:
    problem(server.http.get(f"/tasks?{query}"), 422, code)

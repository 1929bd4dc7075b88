"""What a submit asks for beside its arrays: by query or header, with limits, and what comes of it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from ndserve.errors import StartupError
from ndserve.routes.options import RESERVED
from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import array_of, floats, npy, problem
from tests.routes.gates import serving_held, submit_held

TASK = "/tasks/identity"
TIMES = ("created", "started", "ended", "expires", "start_by", "run_by")


def submit(server: InProcessServer, path: str = TASK, query: str = "", **headers: str) -> str:
    answer = server.http.post(f"{path}?{query}", content=npy(floats(2)), headers=headers)
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["task_id"]
    return task_id


def status(server: InProcessServer, task_id: str, wait: float = 20) -> dict[str, object]:
    told: dict[str, object] = server.http.get(f"/tasks/{task_id}?wait={wait}").json()
    return told


def sweep(server: InProcessServer) -> None:
    """Have the store remove what has expired, now and not within the second."""

    async def swept() -> None:
        await server.service.store.sweep(server.service.clock(), 1000)

    assert server.http.portal is not None
    server.http.portal.call(swept)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("priority=10", "'10'"),
        ("priority=-1", "'-1'"),
        ("priority=high", "'high'"),
        ("ttl=-1", "ttl"),
        ("ttl=nan", "'nan'"),
        ("start_within=x", "start_within"),
        ("run_within=1e99", "'1e99'"),
        ("wait=3601", "'3601'"),
        ("split=yes", "split"),
        ("webhook_events=failed", "webhook_events"),
        ("webhook=https://example.com/&webhook_events=failed,born", "'born'"),
        ("webhook=https://example.com/&split=true", "webhook and split"),
    ],
)
def test_an_option_of_no_use_is_refused_by_name_or_value(server: InProcessServer, query: str, named: str) -> None:
    answer = server.http.post(f"{TASK}?{query}", content=npy(floats(2, 2)))
    assert named in problem(answer, 422, "invalid_parameter")["detail"]


@pytest.mark.parametrize("header", ["Start-Within", "Run-Within", "Prefer", "Idempotency-Key"])
def test_a_header_of_no_use_is_refused_by_name(server: InProcessServer, header: str) -> None:
    value = {"Prefer": "wait=9999999", "Idempotency-Key": "k" * 256}.get(header, "soon")
    answer = server.http.post(TASK, content=npy(floats(2)), headers={header: value})
    assert header in problem(answer, 422, "invalid_parameter")["detail"]


def test_a_webhook_is_refused_while_webhooks_are_off(server: InProcessServer) -> None:
    answer = server.http.post(f"{TASK}?webhook=https://example.com/", content=npy(floats(2)))
    assert "--webhook-secret" in problem(answer, 422, "invalid_parameter")["detail"]


def test_the_priority_is_in_the_status(server: InProcessServer) -> None:
    assert status(server, submit(server, query="priority=9"))["priority"] == 9
    assert status(server, submit(server))["priority"] == 5


def test_higher_priorities_start_first() -> None:
    with serving_held(store="memory") as (server, gate):
        submit_held(server, gate)
        ids = [submit(server, query=f"priority={priority}") for priority in (0, 5, 9)]
        assert [status(server, task_id, 0)["position"] for task_id in ids[1:]] == [1, 0]
        gate.open()
        starts = [str(status(server, task_id)["started"]) for task_id in ids]
        assert starts == sorted(starts, reverse=True)


@pytest.mark.parametrize("given", [{"query": "wait=20"}, {"Prefer": "respond-async, wait=20"}])
def test_a_submit_that_waits_gets_its_result(server: InProcessServer, given: dict[str, str]) -> None:
    query = given.pop("query", "")
    answer = server.http.post(f"{TASK}?{query}", content=npy(floats(2)), headers=given)
    assert answer.status_code == 200
    assert array_of(answer.content).tolist() == [0, 1]


def test_a_result_is_waited_for_as_prefer_says() -> None:
    with serving_held() as (server, gate):
        task_id = submit_held(server, gate)
        assert server.http.get(f"/result/{task_id}", headers={"Prefer": "wait=0"}).status_code == 202
        gate.open()
        assert server.http.get(f"/result/{task_id}", headers={"Prefer": "wait=20"}).status_code == 200


def test_a_submit_that_waits_leaves_nothing_in_the_store() -> None:
    with serving() as server:
        assert server.http.post(f"{TASK}?wait=20", content=npy(floats(2))).status_code == 200
        assert server.http.get("/health").json()["store"]["tasks"] == 0


def test_a_submit_whose_wait_runs_out_is_kept(tmp_path: Path) -> None:
    with serving_held(store="sqlite", data_dir=tmp_path) as (server, gate):
        answer = server.http.post("/tasks/held?wait=0.01", content=npy(floats(2)))
        assert answer.status_code == 202
        assert server.http.get("/health").json()["store"]["tasks"] == 1
        gate.open()
        assert server.http.get(f"{answer.headers['location']}?wait=20").status_code == 200


@pytest.mark.parametrize("given", [{"query": "start_within=0"}, {"Start-Within": "0"}])
def test_a_task_that_does_not_start_in_time_expires(server: InProcessServer, given: dict[str, str]) -> None:
    task_id = submit(server, TASK, given.pop("query", ""), **given)
    told = status(server, task_id)
    assert (told["status"], told["attempts"]) == ("expired", 0)
    assert "start_within" in str(told["error"])
    assert "start_within" in problem(server.http.get(f"/result/{task_id}"), 410, "gone")["detail"]


@pytest.mark.parametrize("given", [{"query": "run_within=0.02"}, {"Run-Within": "0.02"}])
def test_a_task_that_does_not_end_in_time_has_failed(given: dict[str, str]) -> None:
    with serving_held() as (server, _):
        task_id = submit(server, "/tasks/held", given.pop("query", ""), **given)
        told = status(server, task_id)
        assert told["status"] == "failed"
        assert problem(server.http.get(f"/result/{task_id}"), 504, "timeout")["task_id"] == task_id


def test_the_query_counts_where_a_header_says_something_else(server: InProcessServer) -> None:
    told = status(server, submit(server, TASK, "start_within=60", **{"Start-Within": "0"}))
    assert told["status"] == "succeeded"


def test_a_result_is_kept_as_long_as_its_task_asks_and_no_longer() -> None:
    with serving(result_ttl=3600) as server:
        short, usual = submit(server, query="ttl=0"), submit(server)
        for task_id in (short, usual):
            status(server, task_id)
        sweep(server)
        assert "expired" in problem(server.http.get(f"/tasks/{short}"), 410, "gone")["detail"]
        assert server.http.get(f"/result/{usual}?wait=20").status_code == 200


def test_a_full_store_refuses_with_its_figures(tmp_path: Path) -> None:
    with serving(store="sqlite", data_dir=tmp_path, store_bytes=1000) as server:
        submit(server)
        refused = problem(server.http.post(TASK, content=npy(floats(500))), 507, "store_full")
        assert (refused["tasks"], refused["nbytes"], refused["max_bytes"]) == (1, 8, 1000)


def test_what_a_process_reports_is_in_the_status() -> None:
    with serving_held() as (server, gate):
        task_id = submit(server, "/tasks/reporting")
        gate.reached()
        while (told := status(server, task_id, 0))["progress"] is None:
            pass
        assert told["progress"] == {"fraction": 0.25, "message": "a quarter"}
        gate.open()
        assert status(server, task_id)["progress"] == {"fraction": 1.0, "message": "all of it"}


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_wait_of_0_in_the_query_counts_where_prefer_says_something_else(method: str) -> None:
    with serving_held() as (server, gate):
        task_id = submit_held(server, gate)
        path = "/tasks/held" if method == "POST" else f"/result/{task_id}"
        prefer = {"Prefer": "wait=3600"}
        assert server.http.request(method, f"{path}?wait=0", content=npy([1]), headers=prefer).status_code == 202


def test_the_deadlines_of_a_task_are_in_its_status(server: InProcessServer) -> None:
    told = status(server, submit(server, query="start_within=60&run_within=30&ttl=10"))
    times = {name: datetime.fromisoformat(str(told[name])) for name in TIMES}
    spans = [
        times["start_by"] - times["created"],
        times["run_by"] - times["started"],
        times["expires"] - times["ended"],
    ]
    assert [round(span.total_seconds(), 3) for span in spans] == [60, 30, 10]


def test_a_submit_that_waits_is_told_that_its_task_took_too_long() -> None:
    with serving_held() as (server, _):
        answer = server.http.post("/tasks/held?wait=20&run_within=0.02", content=npy(floats(2)))
        assert "run_within" in problem(answer, 504, "timeout")["detail"]


def test_a_submit_that_waits_is_told_that_its_task_has_expired(server: InProcessServer) -> None:
    answer = server.http.post(f"{TASK}?wait=20&start_within=0", content=npy(floats(2)))
    assert "start_within" in problem(answer, 410, "gone")["detail"]


@pytest.mark.parametrize("number", ["1e3", "0.5", "31622400"])
def test_spans_are_numbers_of_seconds_up_to_a_year(server: InProcessServer, number: str) -> None:
    submit(server, query=f"ttl={number}&start_within={number}&run_within={number}")


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_no_process_has_a_parameter_that_the_server_takes(name: str, tmp_path: Path) -> None:
    source = (
        f"from ndserve import process\n\n@process('bad', batched=True)\ndef bad(xp, x, *, {name}=1):\n    return x\n"
    )
    (tmp_path / "bad.py").write_text(source)
    with pytest.raises(StartupError, match=name), serving(processes=tmp_path):
        pass

"""`ndserve tasks`, `status`, `cancel` and `retry`."""

from __future__ import annotations

import pytest

from tests.unit.cli.conftest import Ndserve
from tests.unit.cli.fake_server import FakeServer

LONG_ID = "group-" + "0123456789abcdef" * 2 + "-17"
FAILED = {
    "task_id": LONG_ID,
    "status": "failed",
    "target": "digits",
    "created": "2025-01-02T03:04:05Z",
    "timings": {"run_ms": 12.34},
    "error": {"code": "execution_failed", "message": "[bold]no[/bold]"},
}


def test_tasks_are_a_table_with_whole_ids(called: Ndserve, server: FakeServer) -> None:
    server.documents["a"] = FAILED
    server.documents["b"] = {"task_id": "b", "status": "queued", "target": "digits", "position": 3}
    server.documents["c"] = {"task_id": "c", "status": "running", "progress": {"fraction": 0.5, "message": "half"}}
    done = called("tasks")
    header, failed, queued, running = done.out.splitlines()
    assert header.split() == ["id", "status", "target", "created", "run", "ms"]
    assert failed.split()[:5] == [LONG_ID, "failed", "digits", "2025-01-02T03:04:05Z", "12.3"]
    assert failed.rstrip().endswith("execution_failed: [bold]no[/bold]")
    assert queued.rstrip().endswith("position 3")
    assert running.rstrip().endswith("50% half")


def test_tasks_as_json_are_one_document(called: Ndserve, server: FakeServer) -> None:
    server.documents["a"] = FAILED
    assert called("tasks", "--json").document == {"tasks": [FAILED]}


def test_filters_reach_the_server(called: Ndserve, server: FakeServer) -> None:
    called("tasks", "--state", "failed", "--target", "digits", "--group", "g", "--limit", "7")
    assert server.requests[0].query == {"state": "failed", "target": "digits", "group": "g", "limit": "7"}


def test_no_tasks_leave_stdout_empty(called: Ndserve) -> None:
    assert called("tasks") == (0, "", "ndserve: no such tasks\n")


@pytest.mark.parametrize("words", [["--state", "lost"], ["--limit", "0"], ["--limit", "x"]])
def test_a_filter_that_cannot_be_ends_with_2(called: Ndserve, words: list[str]) -> None:
    assert called("tasks", *words).code == 2


def test_a_status_is_shown_line_by_line(called: Ndserve, server: FakeServer) -> None:
    server.documents["a"] = {**FAILED, "task_id": "a", "device": None}
    assert called("status", "a").out.splitlines()[:5] == [
        "task_id         a",
        "status          failed",
        "target          digits",
        "created         2025-01-02T03:04:05Z",
        "timings.run_ms  12.34",
    ]


def test_a_status_as_json_is_the_servers_document(called: Ndserve, server: FakeServer) -> None:
    server.documents["a"] = FAILED
    assert called("status", "a", "--json").document == FAILED


def test_cancel_says_what_it_did(called: Ndserve, server: FakeServer) -> None:
    server.documents["a"] = FAILED
    done = called("cancel", "a")
    assert done.code == 0
    assert "outcome  never_ran" in done.out
    assert server.requests[0].method == "DELETE"


def test_retry_of_a_task_that_has_not_failed_ends_with_4(called: Ndserve, server: FakeServer) -> None:
    server.documents["a"] = FAILED
    done = called("retry", "a", "--json")
    assert (done.code, done.document["error"]["code"]) == (4, "not_failed")


@pytest.mark.parametrize("command", ["status", "cancel", "retry"])
def test_an_unknown_task_ends_with_4(called: Ndserve, command: str) -> None:
    assert called(command, "unknown").code == 4

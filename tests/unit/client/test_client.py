"""The calls of the client that blocks, against answers that are written down."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from ndserve.client import (
    Client,
    ConflictError,
    ConnectionFailedError,
    GoneError,
    QueueFullError,
    ServerError,
    StoreFullError,
    TaskFailedError,
    UnexpectedAnswerError,
    UnfinishedTaskError,
    UnknownTargetError,
    UnknownTaskError,
)
from tests.unit.client.fakes import Script, accepted, npy, problem, refused, sent_array


def test_a_submit_sends_the_array_and_the_options_and_gives_the_id() -> None:
    script = Script(accepted("t7"))
    with script.client() as client:
        task_id = client.submit_task(
            "digits", [1, 2], priority=9, ttl=1.5, webhook_events=["failed"], version="2", cast=True, factor=3
        )
    (request,) = script.requests
    assert task_id == "t7"
    assert request.method == "POST"
    assert request.url.path == "/tasks/digits"
    expected = {
        "priority": "9",
        "ttl": "1.5",
        "webhook_events": "failed",
        "version": "2",
        "cast": "true",
        "factor": "3",
    }
    assert dict(request.url.params) == expected
    assert sent_array(request).tolist() == [1, 2]


def test_a_url_with_a_path_is_kept_in_front() -> None:
    script = Script(accepted())
    with script.client("http://server/gpu/") as client:
        client.submit_task("digits", 1)
    assert script.paths == ["/gpu/tasks/digits"]


def test_headers_go_with_every_request() -> None:
    script = Script(accepted())
    with script.client(headers={"Authorization": "Bearer x"}) as client:
        client.status("t1")
    assert script.requests[0].headers["authorization"] == "Bearer x"


def test_two_submits_have_two_keys() -> None:
    script = Script(accepted())
    with script.client() as client:
        client.submit_task("digits", 1)
        client.submit_task("digits", 1)
    first, second = script.keys
    assert first
    assert second
    assert first != second


def test_a_given_key_is_sent() -> None:
    script = Script(accepted(status=200))
    with script.client() as client:
        assert client.submit_task("digits", 1, idempotency_key="mine") == "t1"
    assert script.keys == ["mine"]


@pytest.mark.parametrize(
    "failure",
    [
        refused(),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("Server disconnected"),
        httpx.ReadTimeout("slow"),
        problem(503, "shutting_down"),
        problem(429, "queue_full"),
        httpx.Response(502, headers={"content-type": "text/html"}, content="<h1>Bad Gateway</h1>"),
    ],
)
def test_a_submit_that_fails_in_passing_is_sent_again_with_its_key(failure: Any) -> None:
    script = Script(failure, failure, accepted())
    with script.client() as client:
        assert client.submit_task("digits", 1) == "t1"
    assert len(script.requests) == 3
    assert len(set(script.keys)) == 1
    assert script.requests[2].content == script.requests[0].content
    assert script.clock.waits == pytest.approx([0.1, 0.2])


def test_retry_after_is_honoured() -> None:
    script = Script(problem(429, "queue_full", **{"retry-after": "4"}), accepted())
    with script.client() as client:
        client.submit_task("digits", 1)
    assert script.clock.waits == pytest.approx([4.1])


def test_a_server_that_is_away_for_long_is_given_up_when_the_patience_is_out() -> None:
    script = Script(refused())
    with script.client(patience=20.0) as client, pytest.raises(ConnectionFailedError) as raised:
        client.submit_task("digits", 1)
    assert sum(script.clock.waits) == pytest.approx(20.0)
    assert raised.value.url == "http://server"
    assert isinstance(raised.value.last, httpx.ConnectError)
    assert "http://server" in str(raised.value)
    assert "refused" in str(raised.value)


def test_the_password_of_the_url_is_not_in_the_error() -> None:
    script = Script(refused())
    with (
        script.client("http://user:secret@server", patience=0) as client,
        pytest.raises(ConnectionFailedError) as raised,
    ):
        client.submit_task("digits", 1)
    assert "secret" not in str(raised.value)


def test_a_queue_that_stays_full_is_reported_as_that() -> None:
    script = Script(problem(429, "queue_full"))
    with script.client(patience=3.0) as client, pytest.raises(QueueFullError):
        client.submit_task("digits", 1)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(404, "unknown_target"), UnknownTargetError),
        (problem(409, "conflict"), ConflictError),
        (problem(507, "store_full"), StoreFullError),
        (problem(415, "unsupported_media_type"), ServerError),
        (httpx.Response(200, headers={"content-type": "text/html"}, content="<h1>Log in</h1>"), UnexpectedAnswerError),
    ],
)
def test_a_refusal_is_not_tried_again(answer: httpx.Response, kind: type[ServerError]) -> None:
    script = Script(answer)
    with script.client() as client, pytest.raises(kind):
        client.submit_task("digits", 1)
    assert len(script.requests) == 1


def test_a_run_takes_one_request_where_the_task_ends_soon() -> None:
    script = Script(npy([5.0]))
    with script.client() as client:
        result = client.run("digits", [1], factor=2)
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [5.0]
    assert script.paths == ["/tasks/digits?factor=2&wait=30"]


def test_a_run_waits_on_where_the_task_takes_longer() -> None:
    def held(request: httpx.Request) -> httpx.Response:
        script.clock.now += 30
        return accepted()

    script = Script(held, held, held, npy([5]))
    with script.client() as client:
        client.run("digits", [1])
    assert script.paths[1:] == ["/result/t1?wait=30"] * 3
    assert script.clock.waits == []


def test_a_run_ends_its_wait_in_time_and_names_the_task() -> None:
    def held(request: httpx.Request) -> httpx.Response:
        script.clock.now += float(request.url.params["wait"])
        return accepted()

    script = Script(held)
    with script.client() as client, pytest.raises(UnfinishedTaskError) as raised:
        client.run("digits", [1], timeout=45)
    assert raised.value.task_id == "t1"
    assert isinstance(raised.value, TimeoutError)
    assert script.clock.now == 1045.0


def test_a_run_does_not_go_on_sending_after_its_timeout() -> None:
    script = Script(refused())
    with script.client() as client, pytest.raises(ConnectionFailedError):
        client.run("digits", [1], timeout=3)
    assert sum(script.clock.waits) == pytest.approx(3.0)


def test_a_task_that_fails_while_its_submit_waits_is_a_failed_task() -> None:
    script = Script(problem(500, "execution_failed", "division by zero"))
    with script.client() as client, pytest.raises(TaskFailedError, match="division by zero"):
        client.run("digits", [1])


def test_a_result_that_is_not_there_yet_is_none() -> None:
    script = Script(accepted())
    with script.client() as client:
        assert client.get_result("t1") is None
    assert script.paths == ["/result/t1"]


def test_a_server_that_does_not_wait_is_not_asked_all_the_time() -> None:
    script = Script(accepted(), accepted(), npy([1]))
    with script.client() as client:
        client.get_result("t1", None)
    assert script.clock.waits == [0.5, 0.5]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(404, "unknown_task"), UnknownTaskError),
        (problem(410, "gone"), GoneError),
        (problem(504, "timeout"), TaskFailedError),
        (problem(500, "interrupted"), TaskFailedError),
    ],
)
def test_the_end_of_a_task_is_not_asked_for_again(answer: httpx.Response, kind: type[ServerError]) -> None:
    script = Script(answer)
    with script.client() as client, pytest.raises(kind) as raised:
        client.get_result("t1", 60)
    assert len(script.requests) == 1
    assert raised.value.task_id == "t1"


def test_a_wait_goes_on_behind_a_restart() -> None:
    script = Script(httpx.ReadError("reset"), refused(), refused(), problem(503, "shutting_down"), npy([1]))
    with script.client() as client:
        assert client.get_result("t1", None) is not None
    assert set(script.paths) == {"/result/t1?wait=30"}


def test_each_success_renews_the_patience() -> None:
    def away(request: httpx.Request) -> Exception:
        script.clock.now += 8
        return refused()

    script = Script(away, accepted(), away, accepted(), away, npy([1]))
    with script.client(patience=10) as client:
        assert client.get_result("t1", None) is not None


def test_status_cancel_and_retry_ask_for_the_task() -> None:
    script = Script(accepted())
    with script.client() as client:
        answers = [client.status("t1"), client.cancel("t1"), client.retry("t1")]
    assert answers == [{"task_id": "t1", "status": "queued"}] * 3
    assert [request.method for request in script.requests] == ["GET", "DELETE", "POST"]
    assert script.paths == ["/tasks/t1", "/tasks/t1", "/tasks/t1/retry"]


def _pages(request: httpx.Request) -> httpx.Response:
    start = int(request.url.params.get("cursor", 0))
    limit = int(request.url.params["limit"])
    tasks = [{"task_id": f"t{number}"} for number in range(start, min(start + limit, 250))]
    return httpx.Response(
        200, json={"tasks": tasks, "next_cursor": str(start + limit) if start + limit < 250 else None}
    )


def test_tasks_are_listed_over_all_pages() -> None:
    script = Script(_pages)
    with script.client() as client:
        found = [task["task_id"] for task in client.tasks(state="failed")]
    assert found == [f"t{number}" for number in range(250)]
    assert [request.url.params["state"] for request in script.requests] == ["failed"] * 3


@pytest.mark.parametrize(("limit", "requests"), [(0, 0), (5, 1), (100, 1), (150, 2)])
def test_no_more_tasks_are_listed_than_wanted(limit: int, requests: int) -> None:
    script = Script(_pages)
    with script.client() as client:
        assert len(list(client.tasks(limit=limit))) == limit
    assert len(script.requests) == requests


@pytest.mark.parametrize("status", [200, 503])
def test_the_health_document_is_given_also_by_a_server_that_is_not_well(status: int) -> None:
    script = Script(httpx.Response(status, json={"status": "whatever"}))
    with script.client() as client:
        assert client.health_check() == {"status": "whatever"}


def test_health_is_asked_once() -> None:
    script = Script(refused())
    with script.client() as client, pytest.raises(ConnectionFailedError):
        client.health_check()
    assert len(script.requests) == 1


def test_a_health_page_of_a_proxy_is_no_health() -> None:
    script = Script(httpx.Response(503, headers={"content-type": "text/html"}, content="<h1>no backend</h1>"))
    with script.client() as client, pytest.raises(UnexpectedAnswerError, match="no backend"):
        client.health_check()


def test_threads_share_a_client() -> None:
    together = threading.Barrier(8, timeout=30)

    def doubled(request: httpx.Request) -> httpx.Response:
        together.wait()
        return npy(sent_array(request) * 2)

    script = Script(doubled)
    with script.client() as client, ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda number: client.run("double", number), range(64)))
    assert [int(result) for result in results if isinstance(result, np.ndarray)] == [2 * number for number in range(64)]
    assert len(set(script.keys)) == 64


def test_a_client_that_is_closed_says_so() -> None:
    script = Script(accepted())
    client = script.client()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.status("t1")


def test_a_wrong_url_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:8076"):
        Client("127.0.0.1:8076")

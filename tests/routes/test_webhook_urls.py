"""Webhooks as a submit asks for them, where the server has a secret: what is taken, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ndserve.routes.options import read_options
from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import array_of, floats, npy, problem

TASK = "/tasks/identity"
SECRET = "a secret of the tests, long enough"
QUIET = {"webhook_events": "failed"}
"""The tasks of these tests succeed: nothing is sent."""


@pytest.fixture(scope="module")
def hooked() -> Iterator[InProcessServer]:
    with serving(webhook_secret=SECRET, webhook_allow=["hooks.internal:8000"]) as server:
        yield server


def kept(server: InProcessServer) -> int:
    number: int = server.http.get("/health").json()["store"]["tasks"]
    return number


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://example.com/", "https://"),
        ("ftp://example.com/", "https://"),
        ("example.com", "https://"),
        ("https://", "host"),
        ("https://127.0.0.1/", "127.0.0.1"),
        ("https://[::1]/", "::1"),
        ("https://[::ffff:10.0.0.1]/", "not a public address"),
        ("https://169.254.169.254/latest/meta-data", "169.254.169.254"),
        ("https://10.1.2.3/", "10.1.2.3"),
        ("https://2130706433/", "odd form"),
        ("https://localhost/", "localhost"),
        ("https://user:word@example.com/", "user name"),
        ("http://hooks.internal:8001/", "https://"),
    ],
)
def test_a_url_that_no_webhook_may_go_to_is_refused_and_no_task_accepted(
    hooked: InProcessServer, url: str, named: str
) -> None:
    before = kept(hooked)
    answer = hooked.http.post(TASK, params={"webhook": url}, content=npy(floats(2)))
    detail = problem(answer, 422, "invalid_parameter")["detail"]
    assert detail.startswith("webhook: ")
    assert named in detail
    assert kept(hooked) == before


@pytest.mark.parametrize("url", ["https://example.com/hook?token=1", "http://hooks.internal:8000/"])
def test_a_public_url_and_an_allowed_host_are_taken(hooked: InProcessServer, url: str) -> None:
    answer = hooked.http.post(TASK, params={"webhook": url, **QUIET}, content=npy(floats(2)))
    assert answer.status_code == 202


def test_a_submit_that_waits_is_stored_where_it_has_a_webhook() -> None:
    with serving(webhook_secret=SECRET) as server:
        query = {"webhook": "https://example.com/", "wait": "20", **QUIET}
        answer = server.http.post(TASK, params=query, content=npy(floats(2)))
        assert array_of(answer.content).tolist() == [0, 1]
        assert kept(server) == 1


def test_a_task_under_an_id_of_the_clients_own_has_a_webhook_too(hooked: InProcessServer) -> None:
    query = {"webhook": "https://example.com/", **QUIET}
    assert hooked.http.put(f"{TASK}/mine", params=query, content=npy(floats(2))).status_code == 202


@pytest.mark.parametrize(
    ("given", "events"),
    [
        (b"", ["succeeded", "failed", "cancelled", "expired"]),
        (b"&webhook_events=failed", ["failed"]),
        (b"&webhook_events=failed,%20expired", ["failed", "expired"]),
    ],
)
def test_a_webhook_tells_of_the_ends_that_were_asked_for(given: bytes, events: list[str]) -> None:
    webhook = read_options(b"webhook=https://example.com/" + given, {}).task.webhook
    assert webhook is not None
    assert list(webhook.events) == events

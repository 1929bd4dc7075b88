"""Webhooks as a submit asks for them, where the server has a secret: what is taken, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ndserve.testing import InProcessServer, serving
from ndserve.types import TaskState
from tests.routes.bodies import floats, npy, problem

TASK = "/tasks/identity"
QUIET = "webhook_events=failed"
"""The tasks of these tests succeed: nothing is sent."""


@pytest.fixture(scope="module")
def hooked() -> Iterator[InProcessServer]:
    with serving(webhook_secret="a secret of the tests, long enough", webhook_allow=["hooks.internal:8000"]) as server:
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
        ("https://[::ffff:10.0.0.1]/", "10.0.0.1"),
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
    assert named.strip("[]") in detail or url in detail
    assert kept(hooked) == before


@pytest.mark.parametrize("url", ["https://example.com/hook?token=1", "http://hooks.internal:8000/"])
def test_a_public_url_and_an_allowed_host_are_taken(hooked: InProcessServer, url: str) -> None:
    answer = hooked.http.post(f"{TASK}?{QUIET}", params={"webhook": url, "webhook_events": "failed"}, content=npy([1]))
    assert answer.status_code == 202


async def _webhook_of(server: InProcessServer, task_id: str) -> object:
    return (await server.service.find(task_id)).options.webhook


@pytest.mark.parametrize(
    ("given", "events"),
    [
        ("", ["succeeded", "failed", "cancelled", "expired"]),
        ("&webhook_events=failed", ["failed"]),
        ("&webhook_events=failed,%20expired", ["failed", "expired"]),
    ],
)
def test_a_webhook_tells_of_the_ends_that_were_asked_for(hooked: InProcessServer, given: str, events: list[str]) -> None:
    path = f"{TASK}?webhook=http://hooks.internal:8000/&start_within=0{given}"
    task_id = hooked.http.post(path, content=npy(floats(2))).json()["task_id"]
    task = hooked.service.ledger.live.get(task_id) or _stored(hooked, task_id)
    assert task.options.webhook is not None
    assert list(task.options.webhook.events) == [TaskState(event) for event in events]

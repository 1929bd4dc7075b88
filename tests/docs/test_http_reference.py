"""The tables and the receiver of docs/http.md against the server: nothing is left out, and nothing is made up."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ndserve import errors
from ndserve.routes.options import RESERVED
from ndserve.testing import InProcessServer, serving
from ndserve.webhooks import Secret, sign
from tests.docs.blocks import DOCS, commands_of

HTTP = DOCS / "http.md"
TEXT = HTTP.read_text()

OUTSIDE_OF_THE_TREE = {"not_found": 404, "method_not_allowed": 405, "invalid_request": 422}
"""The codes that come from FastAPI's own refusals."""

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1614265330
BODY = b'{"type": "task.succeeded"}'

Receiver = Callable[..., bool]


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    below = f"\n{TEXT}".partition(f"\n{heading}\n")[2]
    table = re.search(r"\n\|.*\n\|[-|]+\n((?:\|.*\n)+)", below)
    assert table is not None, heading
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def server() -> Iterator[InProcessServer]:
    with serving() as started:
        yield started


def test_the_table_of_errors_has_every_code_once_and_with_its_status() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    codes = {each.code: each.status for each in classes if issubclass(each, errors.NdserveError)} | OUTSIDE_OF_THE_TREE
    del codes["startup"]  # never reaches a client
    told = [(words(code)[0], int(status)) for status, code, _ in rows("## Errors")]
    assert sorted(told) == sorted(codes.items())


def test_the_table_of_options_has_every_one() -> None:
    told = {word.partition("=")[0] for cells in rows("## POST /process_np_array") for word in words(cells[0])}
    assert told >= RESERVED


def test_the_table_of_a_state_has_every_member(server: InProcessServer) -> None:
    task_id = server.http.post("/tasks/identity", json=[1.0]).json()["task_id"]
    told = {word for cells in rows("## GET /tasks/{task_id}") for word in words(cells[0])}
    assert server.http.get(f"/tasks/{task_id}").json().keys() == told | {"task_id"}


def test_the_table_of_routes_has_every_one(server: InProcessServer) -> None:
    paths = server.http.get("/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    told: set[str] = set()
    for cells in rows("# HTTP reference"):
        method = ""
        for word in words(cells[0]):
            verb, _, path = word.rpartition(" ")
            method = verb or method
            told.add(f"{method} {path}")

    def anonymous(names: set[str]) -> set[str]:
        return {re.sub(r"\{\w+\}", "{}", name) for name in names}

    assert anonymous(told) == anonymous(routes)


@pytest.fixture(scope="module")
def is_genuine() -> Receiver:
    """The receiver that the section on webhooks shows."""
    (block,) = [block for block in commands_of(HTTP) if "def is_genuine" in block.text]
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(block.text, names)
    receiver: Receiver = names["is_genuine"]
    return receiver


def message(secret: str = SECRET) -> dict[str, str]:
    headers = sign(Secret(secret), "msg_1", NOW, BODY)
    return {name.decode(): value.decode() for name, value in headers}


def test_the_receiver_takes_what_the_server_has_signed(is_genuine: Receiver) -> None:
    assert is_genuine(SECRET, message(), BODY, now=NOW + 10)


def test_the_receiver_takes_a_message_that_is_signed_with_an_old_and_a_new_secret(is_genuine: Receiver) -> None:
    headers = message()
    headers["webhook-signature"] = "v1,AAAA " + headers["webhook-signature"]
    assert is_genuine(SECRET, headers, BODY, now=NOW)


def test_the_receiver_refuses_another_body(is_genuine: Receiver) -> None:
    assert not is_genuine(SECRET, message(), BODY + b" ", now=NOW)


def test_the_receiver_refuses_another_secret(is_genuine: Receiver) -> None:
    other = "whsec_" + SECRET.removeprefix("whsec_")[::-1]
    assert not is_genuine(SECRET, message(other), BODY, now=NOW)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp"])
def test_the_receiver_refuses_a_header_that_was_changed(is_genuine: Receiver, name: str) -> None:
    headers = message()
    headers[name] = {"webhook-id": "msg_2", "webhook-timestamp": str(NOW + 1)}[name]
    assert not is_genuine(SECRET, headers, BODY, now=NOW)


@pytest.mark.parametrize("now", [NOW - 301, NOW + 301])
def test_the_receiver_refuses_a_message_of_another_time(is_genuine: Receiver, now: int) -> None:
    assert not is_genuine(SECRET, message(), BODY, now=now)

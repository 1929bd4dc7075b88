"""The tree of errors: stable codes, HTTP statuses that fit, and a map that names every class."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus

import pytest

from ndserve import errors
from ndserve.errors import NdserveError, QueueFullError, StartupError, StoreFullError, TaskFailedError
from ndserve.types import Failure

Kind = type[NdserveError]


def below(kind: Kind) -> Iterator[Kind]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


KINDS = [kind for kind in below(NdserveError) if kind.__module__ == errors.__name__]
FOR_CLIENTS = [kind for kind in KINDS if kind not in (StartupError, TaskFailedError)]


def test_no_two_classes_share_a_code() -> None:
    codes = [kind.code for kind in FOR_CLIENTS]
    assert len(set(codes)) == len(codes)
    assert NdserveError.code not in codes


def test_every_status_is_an_http_error() -> None:
    assert [kind for kind in KINDS if HTTPStatus(kind.status) < 400] == []


# Clients branch on these: a change here is a change of the interface.
PUBLISHED = {
    "malformed_body": 400,
    "invalid_parameter": 422,
    "invalid_input": 422,
    "unsupported_media_type": 415,
    "not_acceptable": 406,
    "body_too_large": 413,
    "unknown_target": 404,
    "unknown_task": 404,
    "gone": 410,
    "conflict": 409,
    "not_failed": 409,
    "queue_full": 429,
    "store_full": 507,
    "store_unavailable": 503,
    "shutting_down": 503,
    "model_load_failed": 500,
    "model_too_large": 507,
    "execution_failed": 500,
    "engine_dead": 503,
    "timeout": 504,
    "interrupted": 500,
    "group_failed": 500,
}


def test_published_codes_keep_their_status() -> None:
    statuses = {kind.code: kind.status for kind in FOR_CLIENTS}
    assert {code: statuses.get(code) for code in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_in_the_docstring_names_every_class(kind: Kind) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_says_when_it_arises(kind: Kind) -> None:
    assert kind.__doc__


def test_the_message_is_the_text_of_the_error() -> None:
    error = StoreFullError("no room", tasks=3)
    assert str(error) == error.message == "no room"


def test_details_are_kept_beside_the_message() -> None:
    assert StoreFullError("no room", tasks=3, nbytes=5).details == {"tasks": 3, "nbytes": 5}


def test_a_failure_tells_what_the_error_tells() -> None:
    assert QueueFullError("later").failure() == Failure("queue_full", "later", 429)


def test_a_failed_task_reports_its_own_failure_and_leaves_the_class_alone() -> None:
    failure = Failure("execution_failed", "it raised", 500)
    error = TaskFailedError(failure)
    assert error.failure() == failure
    assert TaskFailedError.code == NdserveError.code


def test_a_full_queue_names_a_time_to_come_back() -> None:
    assert QueueFullError.retry_after > 0

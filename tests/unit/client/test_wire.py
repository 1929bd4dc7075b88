"""What goes out for a call and what an answer means."""

from __future__ import annotations

import io
import pickle

import httpx2 as httpx
import numpy as np
import pytest

from ndserve import errors
from ndserve.client import (
    ClientError,
    ConflictError,
    ConnectionFailedError,
    GoneError,
    InvalidInputError,
    QueueFullError,
    ServerError,
    TaskFailedError,
    UnexpectedAnswerError,
    UnfinishedTaskError,
    UnknownTaskError,
    wire,
)
from tests.unit.client.fakes import npy, npz, problem

REQUEST = httpx.Request("GET", "http://user:secret@server/result/t1?wait=1")


def answer(response: httpx.Response) -> httpx.Response:
    return httpx.Response(response.status_code, headers=response.headers, content=response.content, request=REQUEST)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.ones((2, 3), np.float16)),
        np.array(3.5),
        np.zeros((0, 4)),
        np.array([True, False]),
        np.arange(10)[::3],
        np.array([1 + 2j]),
    ],
)
def test_an_array_is_sent_bit_for_bit(array: np.ndarray) -> None:
    body, headers = wire.encode(array)
    loaded = np.load(io.BytesIO(body), allow_pickle=False)
    assert headers == {"Content-Type": "application/x-npy"}
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)
    assert loaded.flags.c_contiguous


def test_a_mapping_is_sent_as_npz_whatever_the_names_are() -> None:
    body, headers = wire.encode({"file": [1, 2], "b": np.float32(3)})
    loaded = np.load(io.BytesIO(body), allow_pickle=False)
    assert headers == {"Content-Type": "application/x-npz"}
    assert {name: loaded[name].tolist() for name in loaded.files} == {"file": [1, 2], "b": 3.0}


@pytest.mark.parametrize("inputs", [np.array([None]), {"a": np.array(["x", 1], object)}, {}])
def test_objects_and_nothing_are_refused_before_they_are_sent(inputs: object) -> None:
    with pytest.raises(TypeError):
        wire.encode(inputs)


def test_a_result_may_be_written_to() -> None:
    result = wire.decode(answer(npy([1.0, 2.0])))
    assert isinstance(result, np.ndarray)
    result *= 2
    assert result.tolist() == [2, 4]


def test_several_arrays_come_as_a_dict() -> None:
    result = wire.decode(answer(npz(a=[1], b=[2.5])))
    assert isinstance(result, dict)
    assert {name: array.tolist() for name, array in result.items()} == {"a": [1], "b": [2.5]}


def test_a_pickle_in_an_answer_is_not_loaded() -> None:
    body = io.BytesIO()
    np.save(body, np.array([{}], object), allow_pickle=True)
    with pytest.raises(UnexpectedAnswerError):
        wire.decode(answer(httpx.Response(200, content=body.getvalue())))


def test_a_result_that_is_cut_off_is_an_unexpected_answer() -> None:
    whole = npy(np.arange(100))
    with pytest.raises(UnexpectedAnswerError):
        wire.decode(answer(httpx.Response(200, headers=whole.headers, content=whole.content[:-8])))


@pytest.mark.parametrize(
    ("status", "code", "kind", "also"),
    [
        (404, "unknown_task", UnknownTaskError, errors.UnknownTaskError),
        (410, "gone", GoneError, errors.GoneError),
        (422, "invalid_input", InvalidInputError, errors.InvalidInputError),
        (429, "queue_full", QueueFullError, errors.QueueFullError),
        (409, "conflict", ConflictError, errors.ConflictError),
        (409, "not_failed", ConflictError, errors.ConflictError),
        (500, "execution_failed", TaskFailedError, errors.TaskFailedError),
        (504, "timeout", TaskFailedError, errors.TaskFailedError),
        (418, "something_new", ServerError, errors.NdserveError),
    ],
)
def test_a_code_becomes_an_error_of_its_own(
    status: int, code: str, kind: type[ServerError], also: type[Exception]
) -> None:
    error = wire.error_of(answer(problem(status, code, "too bad")))
    assert type(error) is kind
    assert isinstance(error, also)
    assert (error.status, error.code, error.detail) == (status, code, "too bad")
    assert error.document["title"] == "?"


@pytest.mark.parametrize(
    "error",
    [
        TaskFailedError(500, "timeout", "too long", {"a": 1}, "t1"),
        ConnectionFailedError("http://server", OSError("refused")),
        UnfinishedTaskError("t1", 5.0),
    ],
)
def test_an_error_leaves_a_process_whole(error: ClientError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy).keys() == vars(error).keys()


def test_a_refusing_code_is_the_tasks_own_where_its_result_was_asked_for() -> None:
    error = wire.error_of(answer(problem(422, "invalid_input")), task_id="t1")
    assert isinstance(error, TaskFailedError)
    assert (error.code, error.task_id) == ("invalid_input", "t1")


def test_a_page_of_a_proxy_is_quoted_in_short_without_its_tags() -> None:
    page = "<html><style>body{}</style><h1>Bad\nGateway</h1>" + "x" * 5000
    error = wire.error_of(answer(httpx.Response(500, headers={"content-type": "text/html"}, content=page)))
    assert type(error) is UnexpectedAnswerError
    assert "Bad Gateway xxx" in error.detail
    assert "body{}" not in error.detail
    assert len(error.detail) < 400


@pytest.mark.parametrize("body", [b"[1]", b"{", b'{"detail": 3}', b'{"code": 3}', b"[" * 100_000, b"\xff\xfe"])
def test_a_document_that_is_no_problem_is_an_unexpected_answer(body: bytes) -> None:
    response = httpx.Response(500, headers={"content-type": "application/json"}, content=body)
    assert type(wire.error_of(answer(response))) is UnexpectedAnswerError


def test_no_password_of_the_url_is_shown() -> None:
    assert "secret" not in wire.error_of(answer(httpx.Response(500))).detail


def test_a_redirect_names_where_it_leads() -> None:
    response = httpx.Response(307, headers={"location": "https://server/"})
    assert "https://server/" in wire.error_of(answer(response)).detail


@pytest.mark.parametrize("url", ["", "server:80", "ftp://server", "http://", "http://s?x=1", "http://s:port", "/tasks"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        wire.base_url(url)


def test_a_query_leaves_out_none_and_writes_flags_and_lists_as_the_server_reads_them() -> None:
    values = {"a": None, "b": True, "c": ("failed", "expired"), "d": 0.1, "e": 7, "f": "x y", "g": 1e-7}
    assert wire.query(values) == "?b=true&c=failed%2Cexpired&d=0.1&e=7&f=x+y&g=1e-07"


def test_names_are_quoted_in_a_path() -> None:
    assert wire.path("tasks", "a/b ?") == "/tasks/a%2Fb%20%3F"

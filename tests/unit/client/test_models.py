"""`Client.models`: what it asks for, what it gives, and what it raises."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from ndserve import errors
from ndserve.client import (
    ConflictError,
    ConnectionFailedError,
    DigestMismatchError,
    InvalidModelError,
    ModelMemoryFullError,
    ModelTooLargeError,
    ServerError,
    TaskFailedError,
    UnexpectedAnswerError,
    UnknownTargetError,
)
from ndserve.client.body import BLOCK
from ndserve.client.models import AsyncModels, Models
from tests.unit.client.fakes import Reply, Script, problem, refused

CONTENT = b"a model"
DIGEST = hashlib.sha256(CONTENT).digest()
VERSION = {"name": "digits", "version": "3", "state": "READY", "digest": f"sha256:{DIGEST.hex()}"}
OTHER = {**VERSION, "digest": f"sha256:{'0' * 64}"}
CONFLICT = problem(409, "conflict")


def answer(found: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=found)


def asked(script: Script) -> list[str]:
    return [f"{request.method} {path}" for request, path in zip(script.requests, script.paths, strict=True)]


@pytest.mark.parametrize(
    ("call", "request_line"),
    [
        (lambda models: models.list("digits"), "GET /models/digits"),
        (lambda models: models.load("digits"), "POST /models/digits/load"),
        (lambda models: models.load("digits", "3"), "POST /models/digits/load?version=3"),
        (lambda models: models.unload("digits"), "POST /models/digits/unload"),
        (lambda models: models.pin("digits", "3"), "POST /models/digits/pin?version=3"),
        (lambda models: models.unpin("digits"), "POST /models/digits/unpin"),
    ],
)
def test_a_call_asks_for_its_route_and_gives_the_versions(call: Callable[[Models], Any], request_line: str) -> None:
    script = Script(answer([VERSION]))
    assert call(script.client().models) == [VERSION]
    assert asked(script) == [request_line]


def test_the_list_of_all_is_that_of_the_models_alone() -> None:
    script = Script(answer({"models": [VERSION], "processes": [{"name": "scale"}], "memory": {}}))
    assert script.client().models.list() == [VERSION]
    assert asked(script) == ["GET /models"]


def test_the_memory_is_given() -> None:
    script = Script(answer({"models": [], "processes": [], "memory": {"budget_bytes": 5, "bytes": 2}}))
    assert script.client().models.memory() == {"budget_bytes": 5, "bytes": 2}


@pytest.mark.parametrize("found", [{"models": None}, [1]])
def test_an_answer_without_a_list_is_no_answer_of_ndserve(found: Any) -> None:
    with pytest.raises(UnexpectedAnswerError):
        Script(answer(found)).client().models.list()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "?"])
def test_a_name_that_would_make_another_path_is_not_sent(name: str) -> None:
    script = Script(httpx.Response(204))
    with pytest.raises(ValueError, match="no model can be called"):
        script.client().models.delete(name)
    assert script.requests == []


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (problem(404, "unknown_target"), UnknownTargetError),
        (problem(409, "conflict"), ConflictError),
        (problem(400, "digest_mismatch"), DigestMismatchError),
        (problem(422, "invalid_model"), InvalidModelError),
        (problem(507, "model_too_large"), ModelTooLargeError),
        (problem(503, "model_memory_full", **{"retry-after": "5"}), ModelMemoryFullError),
        (problem(413, "body_too_large"), ServerError),
    ],
)
def test_a_refusal_has_a_class_of_its_own_and_is_not_tried_again(reply: httpx.Response, kind: type[Exception]) -> None:
    script = Script(reply)
    with pytest.raises(ServerError) as caught:
        script.client().models.load("digits")
    assert type(caught.value) is kind
    assert len(script.requests) == 1


def test_a_refusal_is_also_the_servers_own_class() -> None:
    with pytest.raises(errors.InvalidModelError):
        Script(problem(422, "invalid_model")).client().models.upload("digits", "3", CONTENT)


@pytest.mark.parametrize("status", [500, 503, 507])
def test_what_a_load_fails_of_is_for_a_task_its_failure(status: int) -> None:
    code = {500: "model_load_failed", 503: "model_memory_full", 507: "model_too_large"}[status]
    script = Script(problem(status, code))
    with pytest.raises(TaskFailedError):
        script.client().run("digits", 1)
    assert len(script.requests) == 1


def test_a_load_is_waited_for_as_long_as_it_may_take() -> None:
    script = Script(answer([VERSION]))
    script.client(timeout=20).models.load("digits", timeout=300)
    assert script.requests[0].extensions["timeout"]["read"] == 320


def test_a_load_is_not_asked_for_again_when_its_time_is_over() -> None:
    def slow(request: httpx.Request) -> Reply:
        script.clock.now += 320
        return httpx.ReadTimeout("")

    script = Script(slow)
    with pytest.raises(ConnectionFailedError):
        script.client(timeout=20).models.load("digits", timeout=300)
    assert len(script.requests) == 1


def test_an_upload_sends_the_file_with_its_length_and_its_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * (BLOCK // 128) + b"rest"
    (tmp_path / "model.onnx").write_bytes(content)
    script = Script(answer(VERSION, 201))
    assert script.client().models.upload("digits", "3", tmp_path / "model.onnx") == VERSION
    (request,) = script.requests
    assert asked(script) == ["PUT /models/digits/versions/3"]
    assert request.content == content
    assert request.headers["content-length"] == str(len(content))
    assert "transfer-encoding" not in request.headers
    assert request.headers["content-type"] == "application/octet-stream"
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    assert request.headers["content-digest"] == f"sha-256=:{digest}:"


@pytest.mark.parametrize("content", [CONTENT, b""])
def test_an_upload_may_be_of_bytes(content: bytes) -> None:
    script = Script(answer(VERSION, 200))
    script.client().models.upload("digits", "3", content, replace=True)
    assert asked(script) == ["PUT /models/digits/versions/3?replace=true"]
    assert script.requests[0].content == content
    assert script.requests[0].headers["content-length"] == str(len(content))


def test_an_upload_that_breaks_off_is_sent_again_from_the_beginning() -> None:
    script = Script(httpx.WriteError("reset"), problem(503, "shutting_down"), answer(VERSION, 201))
    assert script.client().models.upload("digits", "3", CONTENT) == VERSION
    assert [request.content for request in script.requests[1:]] == [CONTENT, CONTENT]


def test_a_conflict_with_what_a_lost_attempt_has_put_there_is_a_success() -> None:
    script = Script(httpx.ReadError("reset"), CONFLICT, answer(VERSION))
    assert script.client().models.upload("digits", "3", CONTENT) == VERSION
    assert asked(script)[-1] == "GET /models/digits/versions/3"


@pytest.mark.parametrize("there", [answer(OTHER), answer({**VERSION, "digest": None}), problem(404, "unknown_target")])
def test_a_conflict_with_something_else_stays_one_after_a_lost_answer(there: httpx.Response) -> None:
    script = Script(httpx.ReadError("reset"), CONFLICT, there)
    with pytest.raises(ConflictError):
        script.client().models.upload("digits", "3", CONTENT)


@pytest.mark.parametrize("before", [[], [problem(503, "shutting_down")]])
def test_a_conflict_is_one_where_no_answer_was_lost(before: list[httpx.Response]) -> None:
    script = Script(*before, CONFLICT, answer(VERSION))
    with pytest.raises(ConflictError):
        script.client().models.upload("digits", "3", CONTENT)
    assert len(script.requests) == len(before) + 1


def test_a_file_that_is_not_there_is_not_sent(tmp_path: Path) -> None:
    script = Script(answer(VERSION))
    with pytest.raises(FileNotFoundError):
        script.client().models.upload("digits", "3", tmp_path / "none.onnx")
    assert script.requests == []


@pytest.mark.parametrize(
    ("version", "request_line"), [("3", "DELETE /models/digits/versions/3"), (None, "DELETE /models/digits")]
)
def test_a_version_or_all_of_them_are_deleted(version: str | None, request_line: str) -> None:
    script = Script(httpx.Response(204))
    script.client().models.delete("digits", version)
    assert asked(script) == [request_line]


def test_what_a_lost_attempt_has_deleted_is_deleted() -> None:
    script = Script(httpx.ReadError("reset"), problem(404, "unknown_target"))
    script.client().models.delete("digits")
    assert len(script.requests) == 2


@pytest.mark.parametrize("before", [[], [problem(503, "shutting_down")]])
def test_what_was_never_there_cannot_be_deleted(before: list[httpx.Response]) -> None:
    with pytest.raises(UnknownTargetError):
        Script(*before, problem(404, "unknown_target")).client().models.delete("digits")


def test_a_client_that_is_closed_says_so_of_its_models_as_well() -> None:
    client = Script(refused()).client()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.models.list()


def test_the_async_client_has_the_same_methods() -> None:
    def names(kind: type[Any]) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert names(AsyncModels) == names(Models)


def test_the_async_client_does_the_same() -> None:
    found = answer([VERSION])
    catalogue = answer({"models": [VERSION], "memory": {"bytes": 2}})
    script = Script(found, catalogue, found, found, found, found, answer(VERSION, 201), httpx.Response(204))

    async def main() -> list[Any]:
        async with script.async_client() as client:
            models = client.models
            told: list[Any] = [await models.list("digits"), await models.memory(), await models.load("digits", "3")]
            told += [await models.unload("digits"), await models.pin("digits"), await models.unpin("digits", "3")]
            told += [await models.upload("digits", "3", CONTENT)]
            await models.delete("digits", "3")
            return told

    assert asyncio.run(main()) == [[VERSION], {"bytes": 2}, [VERSION], [VERSION], [VERSION], [VERSION], VERSION]
    assert asked(script) == [
        "GET /models/digits",
        "GET /models",
        "POST /models/digits/load?version=3",
        "POST /models/digits/unload",
        "POST /models/digits/pin",
        "POST /models/digits/unpin?version=3",
        "PUT /models/digits/versions/3",
        "DELETE /models/digits/versions/3",
    ]

"""The tasks beyond submit, state and result: the list, another run, and the course of one as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from ndserve.engine.status import describe
from ndserve.engine.tasks import Tasks
from ndserve.errors import InvalidParameterError, UnknownTaskError
from ndserve.routes.base import TasksOf
from ndserve.routes.hot import is_group
from ndserve.routes.openapi import EVENTS_ANSWER, LIST_ANSWER, RETRY_ANSWER, UNKNOWN, problem_answers
from ndserve.stores import base as stores
from ndserve.types import Task, TaskState, join_names

router = APIRouter(tags=["tasks"])

POSITION_SECONDS = 1.0
"""How often the position of a queued task is looked at."""

HEARTBEAT_SECONDS = 15.0
"""How often a stream without news sends a comment, so that nobody on the way takes it for dead."""


@router.get("/tasks", summary="Tasks, newest first", responses={200: LIST_ANSWER})
async def list_tasks(
    request: Request,
    tasks: TasksOf,
    state: TaskState | None = None,
    target: str | None = None,
    group: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(description="The `next_cursor` of the page before.")] = None,
) -> Response:
    unknown = request.query_params.keys() - {"state", "target", "group", "limit", "cursor"}
    if unknown:
        raise InvalidParameterError(
            f"unknown parameters {join_names(sorted(unknown))}; see /docs for those of the list"
        )
    if cursor is not None and not (cursor.isdecimal() and len(cursor) < 19):
        raise InvalidParameterError("cursor is the next_cursor of an earlier answer")
    before = None if cursor is None else int(cursor)
    page = await tasks.page(stores.Query(limit + 1, before, state, target, group))
    shown = [describe(task, tasks.position(task)) for task in page[:limit]]
    following = str(page[limit - 1].seq) if len(page) > limit else None
    return Response(orjson.dumps({"tasks": shown, "next_cursor": following}), media_type="application/json")


@router.post(
    "/tasks/{task_id}/retry",
    status_code=202,
    summary="Run a failed task again",
    responses={
        202: RETRY_ANSWER,
        **UNKNOWN,
        **problem_answers(
            (409, "It has not failed (code `not_failed`)."),
            (429, "The queue is full; Retry-After says when to come back."),
            (503, "The server is shutting down, its device is dead, or its store cannot write."),
        ),
    },
)
async def retry(request: Request, tasks: TasksOf, task_id: str) -> JSONResponse:
    if is_group(task_id):
        raise UnknownTaskError(
            f"a group is not run again as a whole, but task by task; GET /tasks?group={task_id}&state=failed lists them"
        )
    task = await tasks.retry(task_id)
    body = {"task_id": task.id, "status": TaskState.QUEUED}
    return JSONResponse(body, 202, {"location": f"{request.scope.get('root_path', '')}/result/{task.id}"})


@router.get(
    "/tasks/{task_id}/events",
    summary="The course of a task, as Server-Sent Events",
    response_class=StreamingResponse,
    responses={200: EVENTS_ANSWER, 204: {"description": "Nothing can follow after Last-Event-ID."}, **UNKNOWN},
)
async def events(tasks: TasksOf, task_id: str, last_event_id: Annotated[str, Header()] = "0") -> Response:
    if is_group(task_id):
        raise UnknownTaskError(f"a group has no events, but its tasks have; GET /tasks/{task_id} tells its state")
    task = await tasks.service.find(task_id)
    last = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 19 else 0
    if task.public and _news(task)[-1][0] <= last:
        return Response(status_code=204)  # which tells an EventSource not to come back
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_follow(tasks, task, last), media_type="text/event-stream", headers=headers)


async def _follow(tasks: Tasks, task: Task, last: int) -> AsyncIterator[bytes]:
    """The events of a task after `last`, until its end.

    An event's id is the time of what it tells, in microseconds. So what a client has missed can be told from the task
    itself, also after a restart of the server. A position's id follows the event before it: with the time of the look
    it might come after a start that is heard of later, and hide it.
    """
    position: int | None = None
    with tasks.service.ledger.watchers.watch(task.id) as changed:
        while True:
            changed.clear()
            # Looked at before the news is told, which takes a while: an end that comes meanwhile is news, too.
            # A task that is neither public nor live could not be stored, and is gone.
            over = task.public or tasks.service.waiters.closed or tasks.service.ledger.live.get(task.id) is not task
            for mark, name, data in _news(task):
                if mark > last:
                    last = mark
                    yield _event(mark, name, data)
            if over:
                return
            place = tasks.position(task)
            if place is not None and place != position:
                position, last = place, last + 1
                yield _event(last, "position", {"position": place})
            try:
                patience = HEARTBEAT_SECONDS if place is None else POSITION_SECONDS
                await asyncio.wait_for(changed.wait(), patience)
            except TimeoutError:
                if place is None:
                    yield b": still here\n\n"


def _news(task: Task) -> list[tuple[int, str, dict[str, Any]]]:
    """What can be told of a task so far, in order: mark, name and data. The marks rise."""
    told: list[tuple[int, str, dict[str, Any]]] = []
    about = {"task_id": task.id, "attempts": task.attempts}
    told.append((_mark(task.created), "state", {**about, "status": TaskState.QUEUED}))
    if task.started is not None and task.state is not TaskState.QUEUED:
        told.append((_mark(task.started), "state", {**about, "status": TaskState.RUNNING}))
    if task.progress is not None:
        said = {"fraction": task.progress.fraction, "message": task.progress.message}
        told.append((_mark(task.progress.time), "progress", said))
    if task.public and task.ended is not None:
        told.append((_mark(task.ended), "end", describe(task)))
    for before, (mark, name, data) in enumerate(told[1:]):
        told[before + 1] = max(mark, told[before][0] + 1), name, data
    return told


def _mark(time: float) -> int:
    return int(time * 1_000_000)


def _event(mark: int, name: str, data: dict[str, Any]) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (mark, name.encode(), orjson.dumps(data))

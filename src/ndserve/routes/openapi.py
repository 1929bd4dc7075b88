"""The hot routes as OpenAPI operations: FastAPI does not see them, its documentation shows them all the same."""

from __future__ import annotations

from typing import Any

_ARRAY: dict[str, Any] = {
    "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
    "application/x-npz": {"schema": {"type": "string", "format": "binary"}},
    "application/json": {
        "schema": {"type": "object", "properties": {"array": {}, "dtype": {"type": "string"}}},
        "example": {"array": [[1.0, 2.0], [3.0, 4.0]], "dtype": "float32"},
    },
}
_UPLOAD: dict[str, Any] = {
    **_ARRAY,
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
    },
}
_ACCEPTED: dict[str, Any] = {
    "type": "object",
    "properties": {"task_id": {"type": "string"}, "status": {"type": "string", "example": "queued"}},
}
_STATUS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "task_id": {"type": "string"},
        "status": {"enum": ["queued", "running", "succeeded", "failed", "cancelled", "expired"]},
        "target": {"type": "string"},
        "version": {"type": ["string", "null"]},
        "attempts": {"type": "integer"},
        "created": {"type": "string", "format": "date-time"},
        "started": {"type": ["string", "null"], "format": "date-time"},
        "ended": {"type": ["string", "null"], "format": "date-time"},
        "error": {"type": ["object", "null"], "properties": {"code": {}, "message": {}}},
    },
}
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
    },
}


def _parameter(name: str, place: str, kind: str, description: str) -> dict[str, Any]:
    required = place == "path"
    schema = {"type": kind}
    return {"name": name, "in": place, "required": required, "schema": schema, "description": description}


_MODEL = _parameter("model", "query", "string", "Name of the model to run.")
_PROCESS = _parameter("process", "query", "string", "Name of the process to run. Its own parameters are further names.")
_VERSION = _parameter("version", "query", "string", "Version of the model; the newest by default.")
_CAST = _parameter("cast", "query", "boolean", "Convert another dtype where no value changes by more than rounding.")
_WAIT = _parameter("wait", "query", "number", "Seconds to wait for the task's end, 0 to 3600.")
_TARGET = _parameter("target", "path", "string", "Name of a model or process.")
_TASK_ID = _parameter("task_id", "path", "string", "The id that the submit gave.")


def _problems(*statuses: tuple[int, str]) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {str(status): {"description": description, "content": content} for status, description in statuses}


def _submit(summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tags": ["tasks"],
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": _UPLOAD},
        "responses": {
            "202": {
                "description": "Accepted; Location names the result.",
                "headers": {"Location": {"schema": {"type": "string"}}},
                "content": {"application/json": {"schema": _ACCEPTED}},
            },
            "200": {"description": "With wait: the task has ended and this is its result.", "content": _ARRAY},
            **_problems(
                (400, "The body is not what its type says."),
                (404, "No such model or process."),
                (413, "The body is too large."),
                (415, "The body's type is not read."),
                (422, "The arrays or parameters do not fit the target."),
                (429, "The queue is full; Retry-After says when to come back."),
                (503, "The server is shutting down."),
                (507, "The task store is full."),
            ),
        },
    }


def _result(summary: str) -> dict[str, Any]:
    return {
        "tags": ["tasks"],
        "summary": summary,
        "parameters": [_TASK_ID, _WAIT],
        "responses": {
            "200": {"description": "The outputs, in the form that Accept asks for.", "content": _ARRAY},
            "202": {
                "description": "Not finished yet; Retry-After says when to ask again.",
                "content": {"application/json": {"schema": _ACCEPTED}},
            },
            **_problems(
                (404, "No such task."),
                (406, "No accepted form can hold the outputs."),
                (410, "The task was cancelled, or its result has expired."),
                (500, "The task failed; code says how."),
            ),
        },
    }


HOT_PATHS: dict[str, Any] = {
    "/process_np_array": {
        "post": _submit("Submit an array", [_MODEL, _PROCESS, _VERSION, _CAST, _WAIT]),
    },
    "/result/{task_id}": {"get": _result("Fetch a result")},
    "/tasks/{target}": {"post": _submit("Submit an array to a target", [_TARGET, _VERSION, _CAST, _WAIT])},
    "/tasks/{task_id}": {
        "get": {
            "tags": ["tasks"],
            "summary": "The state of a task",
            "parameters": [_TASK_ID, _WAIT],
            "responses": {
                "200": {"description": "Its state.", "content": {"application/json": {"schema": _STATUS}}},
                **_problems((404, "No such task."), (410, "It was removed.")),
            },
        }
    },
    "/tasks/{task_id}/result": {"get": _result("Fetch a result (the long form of /result/{task_id})")},
}

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
    "properties": {
        "task_id": {"type": "string"},
        "status": {"type": "string", "example": "queued"},
        "group_id": {"type": "string", "description": "With split: the same as task_id."},
        "total": {"type": "integer", "description": "With split: the number of tasks."},
    },
    "required": ["task_id", "status"],
}
_TIME: dict[str, Any] = {"type": ["string", "null"], "format": "date-time"}
_SPAN: dict[str, Any] = {"type": ["number", "null"], "description": "Milliseconds."}
_STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"]
_PROGRESS: dict[str, Any] = {
    "type": ["object", "null"],
    "properties": {"fraction": {"type": "number", "minimum": 0, "maximum": 1}, "message": {"type": "string"}},
}
_STATUS: dict[str, Any] = {
    "title": "Task",
    "type": "object",
    "properties": {
        "task_id": {"type": "string"},
        "status": {"enum": _STATES},
        "target": {"type": "string"},
        "version": {"type": ["string", "null"]},
        "group": {"type": ["string", "null"]},
        "priority": {"type": "integer", "minimum": 0, "maximum": 9},
        "position": {"type": ["integer", "null"], "description": "Tasks before it in the queue."},
        "attempts": {"type": "integer"},
        "device": {"type": ["string", "null"]},
        "progress": _PROGRESS,
        "timings": {
            "type": "object",
            "properties": dict.fromkeys(("queue_ms", "load_ms", "run_ms", "store_ms"), _SPAN),
        },
        **dict.fromkeys(("created", "started", "ended", "expires", "start_by", "run_by"), _TIME),
        "error": {
            "type": ["object", "null"],
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}
_GROUP: dict[str, Any] = {
    "title": "Group",
    "type": "object",
    "properties": {
        "task_id": {"type": "string"},
        "group_id": {"type": "string"},
        "status": {"enum": _STATES},
        "target": {"type": "string"},
        "version": {"type": ["string", "null"]},
        "total": {"type": "integer"},
        "counts": {"type": "object", "properties": {state: {"type": "integer"} for state in _STATES}},
        "progress": _PROGRESS,
        "created": _TIME,
        "expires": _TIME,
    },
}
_DELETED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "task_id": {"type": "string"},
        "status": {"enum": _STATES},
        "outcome": {"enum": ["never_ran", "result_dropped", "result_removed"]},
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


def _parameter(name: str, place: str, kind: str, description: str, **limits: Any) -> dict[str, Any]:
    required = place == "path"
    schema = {"type": kind, **limits}
    return {"name": name, "in": place, "required": required, "schema": schema, "description": description}


_MODEL = _parameter("model", "query", "string", "Name of the model to run.")
_PROCESS = _parameter("process", "query", "string", "Name of the process to run. Its own parameters are further names.")
_TARGET = _parameter("target", "path", "string", "Name of a model or process.")
_TASK_ID = _parameter("task_id", "path", "string", "The id that the submit gave, of a task or a group.")
_OWN_ID = _parameter("task_id", "path", "string", "An id of your own.", maxLength=128)
_WAIT = _parameter("wait", "query", "number", "Seconds to wait for the end.", minimum=0, maximum=3600)
_PREFER = _parameter("Prefer", "header", "string", "`wait=SECONDS`: the same as the parameter `wait`.")
_KEY = _parameter("Idempotency-Key", "header", "string", "The same request under the same key is one task.")
_OPTIONS = [
    _parameter("version", "query", "string", "Version of the model; the newest by default."),
    _parameter("cast", "query", "boolean", "Convert another dtype where no value changes by more than rounding."),
    _WAIT,
    _PREFER,
    _parameter("priority", "query", "integer", "9 goes first; 5 by default.", minimum=0, maximum=9),
    _parameter("ttl", "query", "number", "Seconds for which the outcome is kept.", minimum=0),
    _parameter("start_within", "query", "number", "Seconds to the start, or the task expires.", minimum=0),
    _parameter("Start-Within", "header", "number", "The same as `start_within`."),
    _parameter("run_within", "query", "number", "Seconds from the start to the end, or the task fails.", minimum=0),
    _parameter("Run-Within", "header", "number", "The same as `run_within`."),
    _parameter("webhook", "query", "string", "URL to which the end is told."),
    _parameter("webhook_events", "query", "string", "The ends to tell, by commas; all by default."),
    _parameter("split", "query", "boolean", "One task for each item of axis 0, under one group."),
]


def _problems(*statuses: tuple[int, str]) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {str(status): {"description": description, "content": content} for status, description in statuses}


def _submit(summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tags": ["tasks"],
        "summary": summary,
        "parameters": [*parameters, *_OPTIONS],
        "requestBody": {"required": True, "content": _UPLOAD},
        "responses": {
            "202": {
                "description": "Accepted and stored; Location names the result.",
                "headers": {"Location": {"schema": {"type": "string"}}},
                "content": {"application/json": {"schema": _ACCEPTED}},
            },
            "200": {
                "description": "With wait: the task has ended and this is its result. Without: the same request came"
                " before, and this is its task.",
                "content": {**_ARRAY, "application/json": {"schema": _ACCEPTED}},
            },
            **_problems(
                (400, "The body is not what its type says."),
                (404, "No such model or process."),
                (409, "The idempotency key or the id belongs to another request."),
                (413, "The body is too large."),
                (415, "The body's type is not read."),
                (422, "The arrays, options or parameters do not fit."),
                (429, "The queue is full; Retry-After says when to come back."),
                (503, "The server is shutting down, or its store cannot write."),
                (507, "The task store is full."),
            ),
        },
    }


def _result(summary: str) -> dict[str, Any]:
    return {
        "tags": ["tasks"],
        "summary": summary,
        "parameters": [_TASK_ID, _WAIT, _PREFER],
        "responses": {
            "200": {
                "description": "The outputs, in the form that Accept asks for; of a group, stacked along a new axis 0.",
                "content": _ARRAY,
            },
            "202": {
                "description": "Not finished yet; Retry-After says when to ask again.",
                "content": {"application/json": {"schema": _ACCEPTED}},
            },
            **_problems(
                (404, "No such task."),
                (406, "No accepted form can hold the outputs."),
                (410, "The task was cancelled or has expired, or its result has."),
                (500, "The task failed; code says how."),
                (504, "The task took longer than its run_within."),
            ),
        },
    }


_JSON_OF = {
    "task": {"application/json": {"schema": {"oneOf": [_STATUS, _GROUP]}}},
    "deleted": {"application/json": {"schema": _DELETED}},
}
_UNKNOWN = _problems((404, "No such task."), (410, "It was removed."))

HOT_PATHS: dict[str, Any] = {
    "/process_np_array": {"post": _submit("Submit an array", [_MODEL, _PROCESS, _KEY])},
    "/result/{task_id}": {"get": _result("Fetch a result")},
    "/tasks/{target}": {"post": _submit("Submit an array to a target", [_TARGET, _KEY])},
    "/tasks/{target}/{task_id}": {"put": _submit("Submit an array under an id of your own", [_TARGET, _OWN_ID])},
    "/tasks/{task_id}": {
        "get": {
            "tags": ["tasks"],
            "summary": "The state of a task",
            "parameters": [_TASK_ID, _WAIT, _PREFER],
            "responses": {"200": {"description": "Its state.", "content": _JSON_OF["task"]}, **_UNKNOWN},
        },
        "delete": {
            "tags": ["tasks"],
            "summary": "Cancel a task, or remove its result",
            "parameters": [_TASK_ID],
            "responses": {"200": {"description": "What was done.", "content": _JSON_OF["deleted"]}, **_UNKNOWN},
        },
    },
    "/tasks/{task_id}/result": {"get": _result("Fetch a result (the long form of /result/{task_id})")},
}

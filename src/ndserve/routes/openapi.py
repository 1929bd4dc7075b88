"""The hot routes as OpenAPI operations: FastAPI does not see them, its documentation shows them all the same."""

from __future__ import annotations

from typing import Any

from ndserve.routes.options import MAX_ID, MAX_KEY, MAX_SPAN, MAX_WAIT

_JSON_ARRAY: dict[str, Any] = {"type": "object", "properties": {"array": {}, "dtype": {"type": "string"}}}
_ARRAY: dict[str, Any] = {
    "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
    "application/x-npz": {"schema": {"type": "string", "format": "binary"}},
    "application/json": {
        "schema": _JSON_ARRAY,
        "example": {"array": [[1.0, 2.0], [3.0, 4.0]], "dtype": "float32"},
    },
}
_UPLOAD: dict[str, Any] = {
    **_ARRAY,
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
    },
}
_STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"]
_ACCEPTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "task_id": {"type": "string"},
        "status": {"enum": _STATES},
        "group_id": {"type": "string", "description": "With split: the same as task_id."},
        "total": {"type": "integer", "description": "With split: the number of tasks."},
    },
    "required": ["task_id", "status"],
}
_TIME: dict[str, Any] = {"type": ["string", "null"], "format": "date-time"}
_SPAN: dict[str, Any] = {"type": ["number", "null"], "description": "Milliseconds."}
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
        "position": {"type": ["integer", "null"], "description": "Tasks before it in the queue; null once it runs."},
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
_OWN_ID = _parameter(
    "task_id", "path", "string", "An id of your own; it must not begin with `group-`.", minLength=1, maxLength=MAX_ID
)
_WAIT = _parameter("wait", "query", "number", "Seconds to wait for the end.", minimum=0, maximum=MAX_WAIT)
_PREFER = _parameter(
    "Prefer", "header", "string", "`wait=SECONDS`: the same as `wait`, which counts if both are there."
)
_KEY = _parameter(
    "Idempotency-Key",
    "header",
    "string",
    "The same request under the same key is one task: 200 and its id. Another request is refused with 409.",
    minLength=1,
    maxLength=MAX_KEY,
)


def _span(name: str, description: str) -> dict[str, Any]:
    return _parameter(name, "query", "number", description, minimum=0, maximum=MAX_SPAN)


_OPTIONS = [
    _parameter("version", "query", "string", "Version of the model; the newest by default."),
    _parameter("cast", "query", "boolean", "Convert another dtype where no value changes by more than rounding."),
    _WAIT,
    _PREFER,
    _parameter("priority", "query", "integer", "9 goes first; 5 by default.", minimum=0, maximum=9),
    _span("ttl", "Seconds for which the outcome is kept after the end; `--result-ttl` by default."),
    _span("start_within", "Seconds within which the task starts, or it expires."),
    _parameter("Start-Within", "header", "number", "The same as `start_within`, which counts if both are there."),
    _span("run_within", "Seconds from the first start to the end, or the task fails with the code `timeout`."),
    _parameter("Run-Within", "header", "number", "The same as `run_within`, which counts if both are there."),
    _parameter("webhook", "query", "string", "URL to which the end is told; needs `--webhook-secret`."),
    _parameter(
        "webhook_events",
        "query",
        "string",
        "Of succeeded, failed, cancelled and expired those to tell, by commas; all by default.",
    ),
    {
        "name": "parameters",
        "in": "query",
        "required": False,
        "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        "description": "Every other name is a parameter of the process; a model has none.",
    },
]
_SPLIT = _parameter(
    "split", "query", "boolean", "One task for each item of axis 0, under one group; not together with `webhook`."
)


_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
_LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Where the result is, or will be."}}


def problem_answers(*statuses: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    """Refusals by status, as OpenAPI and FastAPI take them."""
    content = {"application/problem+json": {"schema": _PROBLEM}}
    answers: dict[int | str, dict[str, Any]] = {}
    for status, description in statuses:
        headers = {"headers": _RETRY_AFTER} if status in (429, 503) else {}
        answers[str(status)] = {"description": description, **headers, "content": content}
    return answers


def _submit(summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tags": ["tasks"],
        "summary": summary,
        "parameters": [*parameters, *_OPTIONS],
        "requestBody": {"required": True, "content": _UPLOAD},
        "responses": {
            "202": {
                "description": "Accepted and stored; Location names the result.",
                "headers": _LOCATION,
                "content": {"application/json": {"schema": _ACCEPTED}},
            },
            "200": {
                "description": "With wait: the task has ended and this is its result. Without: the same request came"
                " before, and this is its task.",
                "headers": _LOCATION,
                "content": {**_ARRAY, "application/json": {"schema": {"anyOf": [_ACCEPTED, _JSON_ARRAY]}}},
            },
            **problem_answers(
                (400, "The body is not what its type says."),
                (404, "No such model or process."),
                (406, "With wait: no accepted form can hold the outputs."),
                (409, "The idempotency key or the id belongs to another request."),
                (410, "With wait: the task has expired or was cancelled. The id was used, and its task is gone."),
                (413, "The body is too large."),
                (415, "The body's type is not read."),
                (422, "The arrays, options or parameters do not fit."),
                (429, "The queue is full; Retry-After says when to come back."),
                (500, "With wait: the task failed; code says how."),
                (503, "The server is shutting down, its device is dead, or its store cannot write."),
                (504, "With wait: the task took longer than its run_within (code `timeout`)."),
                (507, "The task store is full; tasks, nbytes and max_bytes are the figures."),
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
                "headers": _RETRY_AFTER,
                "content": {"application/json": {"schema": _ACCEPTED}},
            },
            **problem_answers(
                (404, "No such task."),
                (406, "No accepted form can hold the outputs."),
                (410, "The task was cancelled or has expired, or its result has."),
                (422, "An unknown parameter, or a wait of no use."),
                (500, "The task failed, or one of the group's (`group_failed`); code says how."),
                (503, "The device is dead, or the server shut down before the task had ended."),
                (504, "The task took longer than its run_within (code `timeout`)."),
            ),
        },
    }


_JSON_OF = {
    "task": {"application/json": {"schema": {"oneOf": [_STATUS, _GROUP]}}},
    "deleted": {"application/json": {"schema": _DELETED}},
}
UNKNOWN = problem_answers((404, "No such task."), (410, "It was removed."))

LIST_ANSWER: dict[str, Any] = {
    "description": "A page of them.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "tasks": {"type": "array", "items": _STATUS},
                    "next_cursor": {"type": ["string", "null"], "description": "null on the last page."},
                },
            }
        }
    },
}
RETRY_ANSWER: dict[str, Any] = {
    "description": "Queued again.",
    "headers": _LOCATION,
    "content": {"application/json": {"schema": _ACCEPTED}},
}
EVENTS_ANSWER: dict[str, Any] = {
    "description": "Events `state`, `position`, `progress` and `end`, which holds the whole state.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}

HOT_PATHS: dict[str, Any] = {
    "/process_np_array": {"post": _submit("Submit an array", [_MODEL, _PROCESS, _KEY, _SPLIT])},
    "/result/{task_id}": {"get": _result("Fetch a result")},
    "/tasks/{target}": {"post": _submit("Submit an array to a target", [_TARGET, _KEY, _SPLIT])},
    "/tasks/{target}/{task_id}": {"put": _submit("Submit an array under an id of your own", [_TARGET, _OWN_ID])},
    "/tasks/{task_id}": {
        "get": {
            "tags": ["tasks"],
            "summary": "The state of a task",
            "parameters": [_TASK_ID, _WAIT, _PREFER],
            "responses": {"200": {"description": "Its state.", "content": _JSON_OF["task"]}, **UNKNOWN},
        },
        "delete": {
            "tags": ["tasks"],
            "summary": "Cancel a task, or remove its result",
            "parameters": [_TASK_ID],
            "responses": {"200": {"description": "What was done.", "content": _JSON_OF["deleted"]}, **UNKNOWN},
        },
    },
    "/tasks/{task_id}/result": {"get": _result("Fetch a result (the long form of /result/{task_id})")},
}

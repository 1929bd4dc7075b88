"""The protocol's paths as OpenAPI operations. FastAPI does not see them, its documentation shows them all the same."""

from __future__ import annotations

from typing import Any

_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
_OBJECT = {"application/json": {"schema": {"type": "object"}}}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

_TENSOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_REQUEST: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "parameters": {"type": "object"},
                "inputs": {"type": "array", "items": _TENSOR},
                "outputs": {"type": "array", "items": {"type": "object"}},
            },
            "required": ["inputs"],
        },
        "example": {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]}]},
    },
    **_BINARY,
}
_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "schema": {"type": "integer"},
    "description": "Bytes of JSON in front of binary tensors; 0 where the body is the only input.",
}
_LOAD: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "parameters": {
                    "type": "object",
                    "properties": {
                        "config": {"type": "string", "description": "Triton's model configuration as JSON."}
                    },
                    "additionalProperties": {"type": "string", "description": "`file:PATH`: a file in base64."},
                }
            },
        }
    }
}


def _named(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _operation(summary: str, *names: str, body: Any = None, answer: Any = _OBJECT, **more: Any) -> dict[str, Any]:
    statuses = {
        400: "The request is of no use; the text says why.",
        404: "No such model or version.",
        503: "Not now: the model is unloaded, the queue is full, or the server is shutting down.",
    }
    operation: dict[str, Any] = {
        "tags": ["open inference"],
        "summary": summary,
        "parameters": [*_named(*names), *more.get("parameters", ())],
        "responses": {
            "200": {"description": "Done.", "content": answer},
            **{str(status): {"description": text, "content": _ERROR} for status, text in statuses.items()},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": more.get("required", False), "content": body}
    return operation


def _of_model(path: str, method: str, summary: str, **more: Any) -> dict[str, Any]:
    """The operation for the newest version, and for one that the path names."""
    return {
        f"/v2/models/{{model}}{path}": {method: _operation(summary, "model", **more)},
        f"/v2/models/{{model}}/versions/{{version}}{path}": {method: _operation(summary, "model", "version", **more)},
    }


PATHS: dict[str, Any] = {
    "/v2": {"get": _operation("What the server is, and which extensions it has")},
    "/v2/health/live": {"get": _operation("200 while the process answers")},
    "/v2/health/ready": {"get": _operation("200 while requests are taken, else 400")},
    **_of_model("", "get", "A model's inputs and outputs"),
    **_of_model("/ready", "get", "200 while the model answers, else 400"),
    **_of_model("/config", "get", "A model's configuration in Triton's form"),
    **_of_model("/stats", "get", "A model's statistics"),
    **_of_model(
        "/infer",
        "post",
        "Arrays in, arrays out",
        body=_REQUEST,
        answer={**_OBJECT, **_BINARY},
        parameters=[_LENGTH],
        required=True,
    ),
    "/v2/models/stats": {"get": _operation("The statistics of all models")},
    "/v2/repository/index": {"post": _operation("All models and their states", body=_OBJECT)},
    "/v2/repository/models/{model}/load": {"post": _operation("Load a model", "model", body=_LOAD)},
    "/v2/repository/models/{model}/unload": {"post": _operation("Unload a model", "model", body=_OBJECT)},
}

"""As much of ndserve's HTTP as the command line needs, behind a socket, with the answers in the test's hand."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def array(self) -> Any:
        return np.load(io.BytesIO(self.body), allow_pickle=False)


class Reply(NamedTuple):
    status: int
    media_type: str
    body: bytes


class FakeServer(ThreadingHTTPServer):
    """`double` doubles at once, `pair` gives two arrays, `broken` fails, `slow` never ends; others are unknown."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[Request] = []
        self.documents: dict[str, dict[str, Any]] = {}
        """By task id: what `GET /tasks/{id}` gives."""
        self.models: list[dict[str, Any]] = []
        """The documents of all versions of all models; `digits` of version 9 does not load."""
        self.results: dict[str, Reply] = {}
        self._lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep it from stderr, which the tests look at, that a client has closed a connection that was kept open."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def reply(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            parts = request.path.strip("/").split("/")
            if request.method == "POST" and len(parts) == 2 and parts[0] == "tasks":
                return self._submit(parts[1], request)
            if parts[0] == "models":
                return self._model(parts[1:], request)
            if parts[0] == "result":
                return self.results.get(parts[1]) or problem(404, "unknown_task", f"there is no task {parts[1]}")
            if parts == ["tasks"]:
                return document(200, {"tasks": list(self.documents.values()), "next_cursor": None})
            return self._task(parts, request)

    def _submit(self, target: str, request: Request) -> Reply:
        if target not in ("double", "pair", "broken", "slow"):
            return problem(404, "unknown_target", f"there is no {target}")
        task_id = f"task{len(self.documents)}"
        self.documents[task_id] = {"task_id": task_id, "status": "queued", "target": target}
        self.results[task_id] = reply = _outcome(target, task_id, request)
        return reply if "wait" in request.query else document(202, {"task_id": task_id, "status": "queued"})

    def _task(self, parts: list[str], request: Request) -> Reply:
        known = self.documents.get(parts[1])
        if known is None:
            return problem(404, "unknown_task", f"there is no task {parts[1]}")
        if request.method == "DELETE":
            return document(200, {"task_id": parts[1], "status": "cancelled", "outcome": "never_ran"})
        if parts[2:] == ["retry"]:
            return problem(409, "not_failed", "it has not failed")
        return document(200, known)

    def _model(self, parts: list[str], request: Request) -> Reply:
        if not parts:
            account = {"budget_bytes": 4_000_000_000, "bytes": 1_500_000, "loads": 3, "evictions": 1}
            return document(200, {"models": self.models, "processes": [], "memory": account})
        if request.method == "PUT":
            return self._upload(parts[0], parts[2], request)
        asked = {"name": parts[0], "version": request.query.get("version")}
        if parts[1:2] == ["versions"]:
            asked["version"] = parts[2]
        found = [each for each in self.models if all(value in (None, each[name]) for name, value in asked.items())]
        if not found:
            return problem(404, "unknown_target", f"there is no model {parts[0]}")
        if request.method == "DELETE":
            self.models = [each for each in self.models if each not in found]
            return Reply(204, "application/json", b"")
        if parts[1:] == ["load"] and "9" in [each["version"] for each in found]:
            return problem(422, "invalid_model", "it does not load")
        return document(200, found)

    def _upload(self, name: str, version: str, request: Request) -> Reply:
        if not request.body.startswith(b"a model"):
            return problem(422, "invalid_model", "the file is not an ONNX model")
        there = [each for each in self.models if (each["name"], each["version"]) == (name, version)]
        if there and "replace" not in request.query:
            return problem(409, "conflict", f"{name} has a version {version}")
        new = {"name": name, "version": version, "state": "READY", "bytes": {"file": len(request.body)}}
        self.models.append(new)
        return document(200 if there else 201, new)


def document(status: int, values: Any) -> Reply:
    return Reply(status, "application/json", json.dumps(values).encode())


def problem(status: int, code: str, detail: str) -> Reply:
    body = json.dumps({"type": "about:blank", "status": status, "code": code, "detail": detail})
    return Reply(status, "application/problem+json", body.encode())


def array(values: Any) -> Reply:
    body = io.BytesIO()
    np.save(body, np.asarray(values), allow_pickle=False)
    return Reply(200, "application/x-npy", body.getvalue())


def _outcome(target: str, task_id: str, request: Request) -> Reply:
    if target == "slow":
        return document(202, {"task_id": task_id, "status": "running"})
    if target == "broken":
        return problem(500, "execution_failed", "it cannot be done")
    if target == "double":
        return array(request.array * 2)
    body = io.BytesIO()
    np.savez(body, low=request.array, high=request.array + 1)
    return Reply(200, "application/x-npz", body.getvalue())


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.reply(Request(self.command, unquote(url.path), dict(parse_qsl(url.query)), headers, body))
        self.send_response(reply.status)
        self.send_header("content-type", reply.media_type)
        if reply.status != 204:
            self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name for it
        """Nothing: stderr is what the tests look at."""

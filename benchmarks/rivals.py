"""What ndserve is compared with: a bare answer, and what a user writes first."""

from __future__ import annotations

import io
import os
import queue
import threading
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response, UploadFile

Message = MutableMapping[str, Any]

ANSWER = bytes(192)
HEADERS = [(b"content-type", b"application/x-npy"), (b"content-length", b"192")]


async def bare(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """The floor: reads the body and answers 192 bytes."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


obvious = FastAPI()
results: dict[str, np.ndarray[Any, Any]] = {}
tasks: queue.Queue[tuple[str, np.ndarray[Any, Any]]] = queue.Queue()


def work(model: str) -> None:
    """One background thread that takes tasks one by one."""
    session = onnxruntime.InferenceSession(model)
    while True:
        task_id, array = tasks.get()
        (results[task_id],) = session.run(None, {"x": array})


if "TINY_MODEL" in os.environ:
    threading.Thread(target=work, args=[os.environ["TINY_MODEL"]], daemon=True).start()


def enqueue(body: bytes) -> dict[str, str]:
    task_id = str(uuid.uuid4())
    tasks.put((task_id, np.load(io.BytesIO(body))))
    return {"task_id": task_id, "status": "queued"}


@obvious.post("/process_np_array")
async def submit(file: UploadFile) -> dict[str, str]:
    """As FastAPI's tutorial takes a file."""
    return enqueue(await file.read())


@obvious.post("/process_raw_array")
async def submit_raw(request: Request) -> dict[str, str]:
    """As somebody does who has measured the form."""
    return enqueue(await request.body())


@obvious.get("/result/{task_id}")
async def result(task_id: str) -> Response:
    array = results.get(task_id)
    if array is None:
        return Response(f'{{"task_id": "{task_id}", "status": "queued"}}', media_type="application/json")
    body = io.BytesIO()
    np.save(body, array)
    return Response(body.getvalue(), media_type="application/x-npy")

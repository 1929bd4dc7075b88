"""`POST /v2/models/{model}[/versions/{version}]/infer`: arrays in, arrays out, in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from ndserve.codecs.base import Buffer, Payload
from ndserve.codecs.npy import SMALL
from ndserve.codecs.open_inference import LENGTH_HEADER, Origin, Request, check_outputs, decode, encode
from ndserve.engine.ledger import outputs_of
from ndserve.engine.service import InferenceService
from ndserve.engine.targets import Target
from ndserve.errors import MalformedBodyError, TaskTimeoutError
from ndserve.routes.asgi import Call, ClientGoneError, Headers, Intake
from ndserve.routes.front import Answer
from ndserve.routes.open_inference.compression import asked_coding, deflate, inflate
from ndserve.routes.open_inference.parameters import read_options
from ndserve.routes.open_inference.paths import Named
from ndserve.routes.waiting import until_ended
from ndserve.types import Task, TaskState, Tensors

PATIENCE = 3600.0
"""Seconds after which a wait without a deadline looks again whether there is something to wait for."""


class Inference:
    """The handler."""

    def __init__(self, service: InferenceService, intake: Intake) -> None:
        self._service = service
        self._intake = intake

    async def __call__(self, call: Call, named: Named) -> Answer:
        headers = call.headers
        target = find_target(self._service, named)
        self._intake.expect(headers.get(b"content-length"))
        message = await call.receive()
        more = message.get("more_body")
        body: Buffer = await self._intake.rest(message, call.receive) if more else self._intake.whole(message)
        request, tensors = await self._read(target, body, headers)
        check_outputs(target.name, target.outputs, request)
        options, parameters = read_options(request.parameters, target)
        task = await self._service.submit(
            target, tensors, parameters, options=options, keep=False, whole=target.inputs[0].shape is not None
        )
        if not task.public:
            await self._ended(task, call, options.start_within)
        return await answer(task, target, request, headers)

    async def _read(self, target: Target, body: Buffer, headers: Mapping[bytes, bytes]) -> tuple[Request, Tensors]:
        """What the body says; a body that takes long to read is read on a thread."""
        limit = self._intake.max_body_bytes
        coding = headers.get(b"content-encoding")
        if coding is not None:
            unpack = partial(inflate, body, coding, limit)
            body = unpack() if len(body) <= SMALL // 16 else await asyncio.to_thread(unpack)
        length = json_length(headers)
        read = partial(decode, body, length, target.inputs, limit, has_batch=target.has_batch)
        cheap = len(body) <= SMALL or (length is not None and length <= SMALL)
        return read() if cheap else await asyncio.to_thread(read)

    async def _ended(self, task: Task, call: Call, seconds: float | None) -> None:
        """Wait for the task's end, and end it where its time or its caller has gone.

        Raises:
            ClientGoneError: the caller hung up.
            TaskTimeoutError: it has not ended within `seconds`.
        """
        waiters = self._service.waiters
        try:
            if seconds is None:
                while not task.public and not waiters.closed:
                    await until_ended(waiters, task.id, lambda: task.public, call.receive, PATIENCE)
                return
            await until_ended(waiters, task.id, lambda: task.public, call.receive, seconds)
        except ClientGoneError:
            self._service.cancel(task)
            raise
        if not task.public or task.state is TaskState.EXPIRED:
            error = TaskTimeoutError(
                f"the request had not ended within its timeout of {seconds * 1e6:.0f} microseconds"
            )
            self._service.ledger.settle([(task, TaskState.FAILED, None, error.failure())])
            raise error


def find_target(service: InferenceService, named: Named) -> Target:
    """The model or process of a path. A process has one version, which the protocol calls 1.

    Raises:
        UnknownTargetError, ModelLoadError, UnavailableError: as `Targets.find` says.
    """
    target = service.target(named.model, None if named.version in ("", "1") else named.version)
    if named.version == "1" and target.version not in ("", "1"):
        return service.target(named.model, "1")
    return target


def json_length(headers: Mapping[bytes, bytes]) -> int | None:
    """The bytes of JSON in front of the binary tensors; None without the header.

    Raises:
        MalformedBodyError: it is no number.
    """
    length = headers.get(LENGTH_HEADER)
    if length is None:
        return None
    if not length.isdigit() or len(length) > 18:
        raise MalformedBodyError(f"Inference-Header-Content-Length {length[:40].decode('latin1')!r} is not a number")
    return int(length)


async def answer(task: Task, target: Target, request: Request, headers: Mapping[bytes, bytes]) -> Answer:
    """The outputs of an ended task as the request wants them.

    Raises:
        NdserveError: the task's own failure, or an output has no such form.
    """
    outputs = outputs_of(task)
    rows = task.rows if target.has_batch and not task.single else None
    write = partial(encode, Origin(target.name, target.version or "1", rows), request, outputs)
    payload = write() if task.output_bytes <= SMALL or request.outputs is None else await asyncio.to_thread(write)
    further: Headers = list(payload.headers)
    accept = headers.get(b"accept-encoding")
    if accept is None:
        return 200, payload.content_type, payload.chunks, further, None
    return 200, payload.content_type, await _compressed(payload, accept, further), further, None


async def _compressed(payload: Payload, accept: bytes, headers: Headers) -> tuple[bytes | memoryview, ...]:
    """The body as Accept-Encoding asks, and the header that says so.

    Binary tensors hardly become smaller, at a hundred times the cost of the request: they are compressed only for
    who asks for nothing else.
    """
    coding, alone = asked_coding(accept)
    if not coding or not (alone or not payload.headers):
        return payload.chunks
    headers.append((b"content-encoding", coding))
    headers.append((b"vary", b"accept-encoding"))
    squeeze = partial(deflate, payload.chunks, coding)
    small = sum(map(len, payload.chunks)) <= SMALL // 16
    return (squeeze() if small else await asyncio.to_thread(squeeze),)

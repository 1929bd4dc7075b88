"""`POST /v2/models/{model}[/versions/{version}]/infer`: arrays in, arrays out, in one request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from ndserve.codecs.base import Buffer
from ndserve.codecs.npy import SMALL
from ndserve.codecs.open_inference import Origin, Request, check_outputs, decode, encode, is_binary
from ndserve.engine.ledger import outputs_of
from ndserve.engine.service import InferenceService
from ndserve.engine.targets import Target
from ndserve.errors import NdserveError, ShuttingDownError, TaskTimeoutError
from ndserve.routes.answers import protocol_answer
from ndserve.routes.asgi import Answer, Call, ClientGoneError, Exchange, Intake
from ndserve.routes.compression import compressed, inflated
from ndserve.routes.open_inference.parameters import json_length, read_options
from ndserve.routes.open_inference.paths import Named
from ndserve.routes.problems import INTERNAL
from ndserve.routes.waiting import until_ended
from ndserve.types import Task, TaskState, Tensors

logger = logging.getLogger(__name__)

PATIENCE = 3600.0
"""Seconds after which a wait without a deadline looks again whether there is something to wait for."""


class Inference:
    """The handler, which also begins a request without a coroutine: most are small and binary, with no deadline."""

    def __init__(self, service: InferenceService, intake: Intake) -> None:
        self._service = service
        self._intake = intake

    def begin(self, named: Named, headers: Mapping[bytes, bytes], exchange: Exchange) -> bool:
        """Queue a request whose body has arrived; its answer is written when the task ends.

        False leaves it to `__call__`, because it takes long to read or to answer, or has a deadline.
        """
        if b"content-encoding" in headers or b"accept-encoding" in headers:
            return False
        try:
            target = find_target(self._service, named)
            body = self._intake.at_hand(headers, exchange)
            if body is None:
                return False
            length = json_length(headers)
            if not _is_cheap(body, length):
                return False
            request, tensors = self._decode(target, body, length)
            options, parameters = read_options(request.parameters, target)
            if options.start_within is not None or not is_binary(request):
                return False
            task = self._service.start_inference(target, tensors, parameters, options)
        except NdserveError as error:
            exchange.reply(protocol_answer(error))
            return True
        self._service.waiters.call(task.id, partial(self._finish, task, target, request, exchange))
        exchange.when_gone(partial(self._service.cancel, task))
        return True

    def _finish(self, task: Task, target: Target, request: Request, exchange: Exchange) -> None:
        """Answer a request that has begun so; its task has ended, or nobody waits any more."""
        try:
            if not task.public:
                raise ShuttingDownError("the server ends before the request does; send it again")
            payload = encode(_origin(task, target), request, outputs_of(task))
            exchange.reply((200, payload.content_type, payload.chunks, payload.headers, None))
        except NdserveError as error:
            exchange.reply(protocol_answer(error))
        except Exception:
            logger.exception("an inference of %s could not be answered", target.name)
            exchange.reply(protocol_answer(NdserveError(INTERNAL)))

    async def __call__(self, call: Call, named: Named) -> Answer:
        headers = call.headers
        target = find_target(self._service, named)
        body: Buffer = await self._intake.read(call)
        if b"content-encoding" in headers:
            body = await inflated(body, headers[b"content-encoding"], self._intake.max_body_bytes)
        length = json_length(headers)
        decode_it = partial(self._decode, target, body, length)
        request, tensors = decode_it() if _is_cheap(body, length) else await asyncio.to_thread(decode_it)
        options, parameters = read_options(request.parameters, target)
        task = self._service.start_inference(target, tensors, parameters, options)
        await self._ended(task, call, options.start_within)
        encode_it = partial(encode, _origin(task, target), request, outputs_of(task))
        cheap = task.output_bytes <= SMALL or is_binary(request)
        payload = encode_it() if cheap else await asyncio.to_thread(encode_it)
        if b"accept-encoding" in headers:
            payload = await compressed(payload, headers[b"accept-encoding"])
        return 200, payload.content_type, payload.chunks, payload.headers, None

    def _decode(self, target: Target, body: Buffer, length: int | None) -> tuple[Request, Tensors]:
        limit = self._intake.max_body_bytes
        request, tensors = decode(body, length, target.inputs, limit, has_batch=target.has_batch)
        if request.outputs is not None:
            check_outputs(target.name, target.outputs, request.outputs)
        return request, tensors

    async def _ended(self, task: Task, call: Call, seconds: float | None) -> None:
        """Wait for the task's end, and end it where its time or its caller has gone.

        Raises:
            ClientGoneError: the caller hung up.
            TaskTimeoutError: it has not ended within `seconds`.
        """
        waiters = self._service.waiters
        try:
            while not task.public and not waiters.closed:
                patience = PATIENCE if seconds is None else seconds
                await until_ended(waiters, task.id, lambda: task.public, call.receive, patience)
                if seconds is not None:
                    break
        except ClientGoneError:
            self._service.cancel(task)
            raise
        if seconds is not None and (not task.public or task.state is TaskState.EXPIRED):
            error = TaskTimeoutError(
                f"the request had not ended within its timeout of {seconds * 1e6:.0f} microseconds"
            )
            self._service.ledger.settle([(task, TaskState.FAILED, None, error.failure())])
            raise error


def _is_cheap(body: Buffer, length: int | None) -> bool:
    """Whether the event loop may read the body: it is small, or its large part is binary."""
    return len(body) <= SMALL or (length is not None and length <= SMALL)


def _origin(task: Task, target: Target) -> Origin:
    rows = task.rows if target.has_batch and not task.single else None
    return Origin(target.name, target.version or "1", rows)


def find_target(service: InferenceService, named: Named) -> Target:
    """The model or process of a path. A process has one version, which the protocol calls 1.

    Raises:
        UnknownTargetError, ModelLoadError, UnavailableError: as `Targets.find` says.
    """
    target = service.target(named.model, None if named.version in ("", "1") else named.version)
    if named.version == "1" and target.version not in ("", "1"):
        return service.target(named.model, "1")
    return target

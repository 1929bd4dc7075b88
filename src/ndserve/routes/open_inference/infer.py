"""`POST /v2/models/{model}[/versions/{version}]/infer`: arrays in, arrays out, in one request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ndserve.codecs.base import Buffer
from ndserve.codecs.json import MAX_JSON_BYTES
from ndserve.codecs.npy import SMALL
from ndserve.codecs.open_inference import CACHED, Origin, Request, arrays_of, check_outputs, decode, encode, is_binary
from ndserve.engine.admission import form_of, plan_for
from ndserve.engine.ledger import outputs_of
from ndserve.engine.service import InferenceService
from ndserve.engine.target import Plan, Target
from ndserve.errors import NdserveError, TaskTimeoutError
from ndserve.routes.answers import protocol_answer
from ndserve.routes.asgi import Answer, Call, ClientGoneError, Exchange, Intake
from ndserve.routes.compression import compressed
from ndserve.routes.open_inference.parameters import json_length, read_options
from ndserve.routes.open_inference.paths import Named, read_path
from ndserve.routes.problems import INTERNAL
from ndserve.routes.waiting import until_ended
from ndserve.types import Parameter, Task, TaskOptions, TaskState, Tensors

logger = logging.getLogger(__name__)

PATIENCE = 3600.0
"""Seconds after which a wait without a deadline looks again whether there is something to wait for."""


class Recipe(NamedTuple):
    """What a path and a request's JSON come to; a client sends the same ones again and again."""

    target: Target
    origin: Origin
    request: Request
    plan: Plan
    options: TaskOptions
    parameters: Mapping[str, Parameter]


MAX_RECIPES = 1024


class _Pending:
    """A request that has begun without a coroutine, until its task ends or its client goes."""

    __slots__ = ("_exchange", "_recipe", "_service", "_task")

    def __init__(self, service: InferenceService, task: Task, recipe: Recipe, exchange: Exchange) -> None:
        self._service = service
        self._task = task
        self._recipe = recipe
        self._exchange = exchange

    def finish(self) -> None:
        """Answer, for the task has ended."""
        task, recipe = self._task, self._recipe
        task.on_end = None  # which holds this, and this the task
        try:
            payload = encode(recipe.origin, recipe.request, outputs_of(task))
            answer: Answer = 200, payload.content_type, payload.chunks, payload.headers, None
        except NdserveError as error:
            answer = protocol_answer(error)
        except Exception:
            logger.exception("an inference of %s could not be answered", recipe.target.name)
            answer = protocol_answer(NdserveError(INTERNAL))
        self._exchange.reply(answer)

    def give_up(self) -> None:
        """Drop the task, for its client has gone."""
        self._service.cancel(self._task)


class Inference:
    """The handler, which also begins a request without a coroutine: most are small and binary, with no deadline."""

    def __init__(self, service: InferenceService, intake: Intake) -> None:
        self._service = service
        self._intake = intake
        self._recipes: dict[tuple[str, bytes], Recipe] = {}
        self._changes = 0

    def begin(self, path: str, headers: Mapping[bytes, bytes], exchange: Exchange) -> bool:
        """Queue a request whose body has arrived; its answer is written when the task ends.

        False leaves it to `__call__`, because it is large, takes long to read or to answer, or has a deadline.
        """
        if b"content-encoding" in headers or b"accept-encoding" in headers:
            return False
        service = self._service
        try:
            body = self._intake.at_hand(headers, exchange)
            length = json_length(headers)
            if body is None or len(body) > SMALL:
                return False
            if self._changes != service.targets.changes:
                self._changes = service.targets.changes
                self._recipes.clear()
            recipe = self._recipes.get((path, body[:length])) if length and length <= len(body) else None
            if recipe is not None:
                tensors = arrays_of(recipe.request, body, length or 0, self._intake.max_body_bytes)
            else:
                named = read_path(path)
                if named is None or named.action != "infer":
                    return False
                recipe, tensors = self._read(named, length, body)
                if recipe.options.start_within is not None or not is_binary(recipe.request):
                    return False
                if length and length <= CACHED:
                    if len(self._recipes) >= MAX_RECIPES:
                        self._recipes.clear()
                    self._recipes[path, body[:length]] = recipe
            target, _, _, plan, options, parameters = recipe
            task = service.start_inference(target, plan, tensors, parameters, options)
        except NdserveError as error:
            exchange.reply(protocol_answer(error))
            return True
        except Exception:
            # Never further up: this may run while other requests' tasks are being settled.
            logger.exception("an inference at %s could not begin", path)
            exchange.reply(protocol_answer(NdserveError(INTERNAL)))
            return True
        pending = _Pending(service, task, recipe, exchange)
        task.on_end = pending.finish
        exchange.when_gone(pending.give_up)
        return True

    async def __call__(self, call: Call, named: Named) -> Answer:
        headers = call.headers
        plain = find_target(self._service, named).plain  # before the body is read
        body: Buffer = await self._intake.read(call)
        length = json_length(headers)
        read = partial(self._read, named, length)
        if b"content-encoding" in headers:
            limit = self._intake.max_body_bytes
            limit = limit if length is not None else min(limit, MAX_JSON_BYTES)
            recipe, tensors = await self._intake.inflated(body, headers[b"content-encoding"], limit, read)
        elif _is_cheap(body, length, plain=plain):
            recipe, tensors = read(body)
        else:
            recipe, tensors = await asyncio.to_thread(read, body)
        target, origin, request, plan, options, parameters = recipe
        task = self._service.start_inference(target, plan, tensors, parameters, options)
        await self._ended(task, call, options.start_within)
        rows = task.rows if target.has_batch and not task.single else None
        write = partial(encode, origin, request, outputs_of(task), rows)
        outputs = outputs_of(task)
        numbers = not any(array.dtype.hasobject for array in outputs.values())
        cheap = task.output_bytes <= SMALL or (is_binary(request) and numbers)
        payload = write() if cheap else await asyncio.to_thread(write)
        if b"accept-encoding" in headers:
            payload = await compressed(payload, headers[b"accept-encoding"])
        return 200, payload.content_type, payload.chunks, payload.headers, None

    def _read(self, named: Named, length: int | None, body: Buffer) -> tuple[Recipe, Tensors]:
        """What a request comes to, and its arrays.

        Raises:
            NdserveError: it is of no use, or there is no such model.
        """
        target = find_target(self._service, named)
        limit = self._intake.max_body_bytes
        request, tensors = decode(body, length, target.inputs, limit, has_batch=target.has_batch)
        if request.outputs is not None:
            check_outputs(target.name, target.outputs, request.outputs)
        options, parameters = read_options(request.parameters, target)
        if named.version:
            options = replace(options, version_named=True)
        plan = plan_for(target, form_of(tensors), whole=True)
        origin = Origin(target.name, target.version or "1")
        return Recipe(target, origin, request, plan, options, parameters), tensors

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


def _is_cheap(body: Buffer, length: int | None, *, plain: bool) -> bool:
    """Whether the event loop may read the body: it is small, or its large part is binary and holds numbers alone."""
    return len(body) <= SMALL or (plain and length is not None and length <= SMALL)


def find_target(service: InferenceService, named: Named) -> Target:
    """The model or process of a path. A process has one version, which the protocol calls 1.

    Raises:
        UnknownTargetError, ModelLoadError, UnavailableError: as `Targets.find` says.
    """
    target = service.target(named.model, None if named.version in ("", "1") else named.version)
    if named.version == "1" and target.version not in ("", "1"):
        return service.target(named.model, "1")
    return target

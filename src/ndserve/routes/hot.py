"""Submit, status and result as plain ASGI callables, in front of FastAPI.

FastAPI's routing, middleware and dependencies cost two to four times all the rest of such a request
(docs/design.md, "Speed"). They are described in its OpenAPI all the same, by `routes/openapi.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import orjson

from ndserve import codecs
from ndserve.codecs.base import Buffer
from ndserve.codecs.npy import SMALL
from ndserve.codecs.open_inference import OpenInferenceForm, Origin
from ndserve.engine.groups import PREFIX
from ndserve.engine.ledger import outputs_of
from ndserve.engine.status import describe, describe_group
from ndserve.engine.target import Target
from ndserve.engine.tasks import GroupStatus, Tasks
from ndserve.errors import EngineDeadError, InvalidParameterError
from ndserve.routes.asgi import Answer, Call, ClientGoneError, Found, Handler, Headers, Intake
from ndserve.routes.open_inference.parameters import json_length, merged
from ndserve.routes.options import Options, asked_wait, check_id, fingerprint, read_options
from ndserve.routes.waiting import until_ended
from ndserve.types import LIVE, Task, TaskState, Tensors

RETRY: Headers = [(b"retry-after", b"1")]

_JSON = b"application/json"


class HotRoutes:
    """The handlers, and the choice among them by path and method."""

    def __init__(
        self, tasks: Tasks, intake: Intake, default_process: str, check_webhook: Callable[[str], object]
    ) -> None:
        """`check_webhook` raises InvalidParameterError for a URL that no webhook may go to."""
        self._tasks = tasks
        self._service = tasks.service
        self._intake = intake
        self._default_process = default_process
        self._check_webhook = check_webhook
        self._on_submit: dict[str, Handler] = {"POST": self._submit}
        self._on_result: dict[str, Handler] = {"GET": self._result}
        self._on_task: dict[str, Handler] = {"GET": self._status, "POST": self._submit, "DELETE": self._delete}

    def match(self, path: str, method: str) -> Found | None:
        """The handlers of a hot path by method, and the name or id in it."""
        if path == "/process_np_array":
            return self._on_submit, ""
        if path.startswith("/result/"):
            return self._on_result, path[8:]
        if path.startswith("/tasks/"):
            name, slash, rest = path[7:].partition("/")
            if slash and name and method == "PUT":
                return {"PUT": partial(self._submit, task_id=rest)}, name
            if rest == "result":
                return self._on_result, name
            if not slash and name:
                return self._on_task, name
        return None

    async def _submit(self, call: Call, name: str, task_id: str | None = None) -> Answer:
        """POST /process_np_array, POST /tasks/{target} and PUT /tasks/{target}/{id}."""
        options = read_options(call.query, call.headers)
        asked = options.task
        if name and options.target:
            raise InvalidParameterError("the path names the target already; leave model= and process= out")
        if task_id is not None:
            check_id(task_id)
            if options.split:
                raise InvalidParameterError("split gives ids of its own; use POST, with an Idempotency-Key to be safe")
        if asked.webhook is not None:
            self._check_webhook(asked.webhook.url)
        target = self._service.target(name or options.target or self._default_process, options.version)
        body: Buffer = self._intake.at_hand(call.headers, call.exchange) or await self._intake.read(call)
        if b"content-encoding" in call.headers:
            limit, read = self._intake.max_body_bytes, partial(self._decode, call, target)
            inputs, request = await self._intake.inflated(body, call.headers[b"content-encoding"], limit, read)
        elif codecs.is_cheap(body):
            inputs, request = self._decode(call, target, body)
        else:
            inputs, request = await asyncio.to_thread(self._decode, call, target, body)
        if request is not None:
            options = merged(options, request, target)
            asked = options.task
        if task_id is not None or asked.idempotency_key is not None or options.split:
            return await self._submit_named(call, target, inputs, options, task_id)
        # A caller who waits learns no id unless the wait runs out: until then there is nothing to keep.
        keep = not options.wait or asked.webhook is not None
        given = options.parameters
        task = await self._service.submit(target, inputs, given, cast=options.cast, options=asked, keep=keep)
        if options.wait:
            try:
                await self._wait(task, call, options.wait)
            except ClientGoneError:
                if not keep:
                    self._service.cancel(task)  # nobody can fetch the result
                raise
            if task.public:
                return await _outcome(task, call)
            if not keep:
                await self._service.keep(task)
                return 202, _JSON, (_accepted(task),), call.location(task.id), None
        return 202, _JSON, (_queued(task.id),), call.location(task.id), None

    def _decode(self, call: Call, target: Target, body: Buffer) -> codecs.Decoded:
        length, limit = json_length(call.headers), self._intake.max_body_bytes
        return codecs.decode(
            call.content_type, body, target.inputs, limit, json_length=length, has_batch=target.has_batch
        )

    async def _submit_named(
        self, call: Call, target: Target, inputs: Tensors, options: Options, task_id: str | None
    ) -> Answer:
        """A submit whose id or key its client knows, so that it may have come before, or that gives many tasks."""
        asked, given = options.task, options.parameters
        once = task_id is not None or asked.idempotency_key is not None
        if once:
            mark = await _fingerprint(target, options, inputs)
            asked = replace(asked, fingerprint=mark, idempotency_key=None if task_id else asked.idempotency_key)

        async def submit() -> str:
            cast = options.cast
            if options.split:
                return (await self._tasks.submit_split(target, inputs, given, cast=cast, options=asked)).id
            submitted = self._service.submit(target, inputs, given, cast=cast, options=asked, task_id=task_id)
            return (await submitted).id

        new, found = await self._tasks.submit_once(submit, asked, task_id) if once else (True, await submit())
        status = 202 if new else 200
        if is_group(found):
            return await self._group_outcome(call, found, options.wait or 0.0, status)
        task = await self._service.find(found)
        if options.wait:
            await self._wait(task, call, options.wait)
            if task.public:
                return await _outcome(task, call)
        body = _queued(found) if new else _accepted(task)
        return status, _JSON, (body,), call.location(found), None

    async def _result(self, call: Call, name: str) -> Answer:
        """GET /result/{task_id} and GET /tasks/{task_id}/result."""
        wait = asked_wait(call.query, call.headers)
        if is_group(name):
            return await self._group_outcome(call, name, wait, 202, always=True)
        task = self._service.ledger.live.get(name) or await self._service.find(name)
        if wait:
            await self._wait(task, call, wait)
        if not task.public:
            if wait:
                self._check_alive()
            return 202, _JSON, (_accepted(task),), RETRY, None
        return await _outcome(task, call)

    async def _group_outcome(self, call: Call, name: str, wait: float, status: int, *, always: bool = False) -> Answer:
        """The stacked result of a group where it has ended and the caller waits for it, else its state."""
        group = await self._tasks.group(name)
        if wait:
            await self._wait_for_group(call, name, wait)
            group = await self._tasks.group(name)
        if group.state in LIVE or not (wait or always):
            if wait:
                self._check_alive()
            new = status == 202 and not always
            headers = RETRY if always else call.location(name)
            return status, _JSON, (_accepted_group(group, TaskState.QUEUED if new else group.state),), headers, None
        outputs = await self._tasks.stacked(group)
        form = codecs.encoder(call.accept, outputs)
        if isinstance(form, OpenInferenceForm):
            form = form.of(Origin(group.group.target, plain_version(group.group.version)), group.group.id)
        payload = await asyncio.to_thread(form.encode, outputs)
        return 200, payload.content_type, payload.chunks, payload.headers, None

    async def _status(self, call: Call, name: str) -> Answer:
        """GET /tasks/{task_id}."""
        wait = asked_wait(call.query, call.headers)
        if is_group(name):
            group = await self._tasks.group(name)
            if wait:
                await self._wait_for_group(call, name, wait)
                group = await self._tasks.group(name)
            return 200, _JSON, (orjson.dumps(describe_group(group)),), [], None
        task = await self._service.find(name)
        if wait:
            await self._wait(task, call, wait)
        return 200, _JSON, (orjson.dumps(describe(task, self._tasks.position(task))),), [], None

    async def _delete(self, call: Call, name: str) -> Answer:
        """DELETE /tasks/{task_id}."""
        if is_group(name):
            group = await self._tasks.group(name)
            outcome = await self._tasks.delete_group(group)
            state = group.state if outcome == "result_removed" else (await self._tasks.group(name)).state
        else:
            task = await self._service.find(name)
            outcome = await self._tasks.delete(task)
            state = task.state
        return 200, _JSON, (orjson.dumps({"task_id": name, "status": state, "outcome": outcome}),), [], None

    def _check_alive(self) -> None:
        """Refuse to tell that a task runs where nothing runs any more."""
        if self._service.dead:
            raise EngineDeadError(f"the engine has stopped: {self._service.dead}; ask again when it is back")

    def _wait(self, task: Task, call: Call, seconds: float) -> Awaitable[None]:
        return until_ended(self._service.waiters, task.id, lambda: task.public, call.receive, seconds)

    async def _wait_for_group(self, call: Call, name: str, seconds: float) -> None:
        is_live = self._service.ledger.group_is_live
        await until_ended(self._service.waiters, name, lambda: not is_live(name), call.receive, seconds)


async def _fingerprint(target: Target, options: Options, inputs: Tensors) -> str:
    if sum(array.nbytes for array in inputs.values()) <= SMALL:
        return fingerprint(target.name, options, inputs)
    return await asyncio.to_thread(fingerprint, target.name, options, inputs)


def is_group(name: str) -> bool:
    """Whether this is a group's id, and not that of one of its tasks."""
    return name.startswith(PREFIX) and "-" not in name[len(PREFIX) :]


def plain_version(label: str) -> str:
    """A version as Open Inference has it: without what a client has changed, and never empty."""
    return label.partition("+")[0] or "1"


def _queued(task_id: str) -> bytes:
    """The answer for a new task: what it was when it was accepted, though it may well run already."""
    return f'{{"task_id":"{task_id}","status":"queued"}}'.encode()


def _accepted(task: Task) -> bytes:
    """The answer for a task whose outcome is not here yet."""
    return f'{{"task_id":"{task.id}","status":"{task.visible_state}"}}'.encode()


def _accepted_group(status: GroupStatus, state: TaskState) -> bytes:
    group = status.group
    return orjson.dumps({"task_id": group.id, "group_id": group.id, "status": state, "total": group.total})


async def _outcome(task: Task, call: Call) -> Answer:
    """The answer that delivers an ended task: its outputs as Accept asks.

    Raises:
        TaskFailedError, GoneError: it has no outputs.
        NotAcceptableError: they have no accepted form.
    """
    outputs = outputs_of(task)
    form = codecs.encoder(call.accept, outputs)
    if isinstance(form, OpenInferenceForm):
        form = form.of(Origin(task.key.target, plain_version(task.key.version)), task.id)
    cheap = form.cheap or task.output_bytes <= SMALL
    payload = form.encode(outputs) if cheap else await asyncio.to_thread(form.encode, outputs)
    return 200, payload.content_type, payload.chunks, payload.headers, task if task.kept else None

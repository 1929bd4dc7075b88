"""Tasks as rows, and rows as tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ndserve.stores.base import Group
from ndserve.types import (
    DEFAULT_OPTIONS,
    BatchKey,
    Failure,
    Parameter,
    Progress,
    Task,
    TaskOptions,
    TaskState,
    Tensors,
    Webhook,
)

INSERT = (
    "INSERT INTO tasks (seq, id, target, version, parameters, options, idempotency_key, group_id, rows, single,"
    " created, state, attempts, started, run_by, nbytes, filed, arrays)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?)"
)
INSERT_USUAL = (
    "INSERT INTO tasks (seq, id, target, version, rows, single, created, state, attempts, nbytes, filed, arrays)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', 0, ?, ?, ?)"
)
"""For a task without options, parameters and group: binding a NULL costs more than all the rest of a column."""

INSERT_GROUP = "INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

_END = (
    "state = ?2, attempts = ?3, started = ?4, run_by = ?5, ended = ?6,"
    # The end of the group may have been written before this one, which had to be tried again.
    " expires = coalesce(?7, (SELECT expires FROM groups WHERE id = group_id)), device = ?8, load_seconds = ?9,"
    " store_seconds = ?10, progress = ?11, failure = ?12, nbytes = ?13"
)
FINISH = f"UPDATE tasks SET {_END}, filed = ?14, arrays = ?15 WHERE seq = ?1"  # noqa: S608 - our own text
FINISH_USUAL = (
    "UPDATE tasks SET state = 'succeeded', attempts = ?2, started = ?3, ended = ?4, expires = ?5, device = ?6,"
    " load_seconds = ?7, store_seconds = nullif(?8, -1), nbytes = ?9, filed = ?10, arrays = ?11 WHERE seq = ?1"
)
"""For a task that has succeeded without deadline, progress and group."""

FINISH_FAILED = f"UPDATE tasks SET {_END} WHERE seq = ?1"  # noqa: S608 - its inputs stay, to run again
REOPEN = (
    "UPDATE tasks SET state = 'queued', attempts = 0, started = NULL, run_by = NULL, ended = NULL, expires = NULL,"
    " created = ?2, progress = NULL, failure = NULL, device = NULL, load_seconds = NULL, store_seconds = NULL"
    " WHERE seq = ?1 AND state = 'failed'"
)

COLUMNS = (
    "seq, id, target, version, parameters, options, idempotency_key, group_id, rows, single, created, state, attempts,"
    " started, run_by, ended, expires, device, load_seconds, store_seconds, progress, failure, nbytes, filed"
)
"""What `read` takes, in its order."""


Statement: TypeAlias = tuple[str, tuple[Any, ...]]
"""A statement and the values for its places. Python's sqlite3 binds int, float, str and bytearray fastest."""


def insert(task: Task, filed: int, arrays: bytearray) -> Statement:
    """How a new task is written; `arrays` is empty where they are in a file."""
    key, options = task.key, task.options
    if options is DEFAULT_OPTIONS and task.group is None and not key.parameters and task.started is None:
        single = 1 if task.single else 0
        usual = (task.seq, task.id, key.target, key.version, task.rows, single, task.created, task.input_bytes)
        return INSERT_USUAL, (*usual, filed, arrays)
    return INSERT, (
        *(task.seq, task.id, key.target, key.version, json.dumps(key.parameters) if key.parameters else None),
        *(None if options is DEFAULT_OPTIONS else write_options(options), options.idempotency_key, task.group),
        # A task that is stored because its caller has stopped waiting may be running, without a note in the ring.
        *(task.rows, task.single, task.created, task.attempts, task.started, task.run_by),
        *(task.input_bytes, filed, arrays),
    )


def finish(task: Task, filed: int, arrays: bytearray) -> Statement:
    """How an ended task is written that has not failed."""
    if task.state is TaskState.SUCCEEDED and task.expires is not None and task.run_by is None and task.progress is None:
        store = -1.0 if task.store_seconds is None else task.store_seconds
        times = (task.started, task.ended, task.expires, task.device, task.load_seconds, store)
        return FINISH_USUAL, (task.seq, task.attempts, *times, task.output_bytes, filed, arrays)
    return FINISH, (*end(task), filed, arrays)


def end(task: Task) -> tuple[Any, ...]:
    """The columns of `_END` for an ended task."""
    progress, failure = task.progress, task.failure
    return (
        *(task.seq, task.state.value, task.attempts, task.started, task.run_by, task.ended, task.expires),
        *(task.device, task.load_seconds, task.store_seconds, json.dumps(progress) if progress else None),
        *(json.dumps(failure) if failure else None, task.nbytes),
    )


def insert_group(group: Group) -> tuple[Any, ...]:
    return tuple(group)


def write_options(options: TaskOptions) -> str:
    """The options that are not the usual ones, as JSON."""
    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("priority", "ttl", "start_within", "run_within", "fingerprint", "version_named")
        if getattr(options, name) != getattr(DEFAULT_OPTIONS, name)
    }
    if options.webhook is not None:
        given["webhook"] = [options.webhook.url, list(options.webhook.events)]
    return json.dumps(given)


def read_options(text: str | None, idempotency_key: str | None) -> TaskOptions:
    if text is None:
        return DEFAULT_OPTIONS
    given = json.loads(text)
    webhook = given.pop("webhook", None)
    if webhook is not None:
        given["webhook"] = Webhook(webhook[0], tuple(TaskState(event) for event in webhook[1]))
    return TaskOptions(idempotency_key=idempotency_key, **given)


def state_of(row: Sequence[Any]) -> TaskState:
    return TaskState(row[11])


def read(row: Sequence[Any], arrays: Tensors | None) -> Task:
    """The task of a row in the order of `COLUMNS`.

    `arrays` are its outputs where it has succeeded, else its inputs; None leaves it without.
    """
    (seq, task_id, target, version, parameters, options, idempotency_key, group, rows, single, created, *rest) = row
    state_name, attempts, started, run_by, ended, expires, device, load, store, progress, failure, nbytes, _ = rest
    state = TaskState(state_name)
    succeeded = state is TaskState.SUCCEEDED
    inputs: Tensors = arrays or {} if not succeeded else {}
    task = Task(
        id=task_id,
        key=_key(target, version, parameters, inputs),
        inputs=inputs,
        rows=rows,
        single=bool(single),
        created=created,
        options=read_options(options, idempotency_key),
        group=group,
        state=state,
        attempts=attempts,
        started=started,
        run_by=run_by,
        ended=ended,
        expires=expires,
        outputs=arrays if succeeded else None,
        failure=Failure(*json.loads(failure)) if failure else None,
        live=ended is None,
        kept=True,
        public=ended is not None,
        seq=seq,
        device=device,
        load_seconds=load or 0.0,
        store_seconds=store,
        progress=Progress(*json.loads(progress)) if progress else None,
    )
    if succeeded:
        task.output_bytes = nbytes
    else:
        task.input_bytes = nbytes
    return task


def _key(target: str, version: str, parameters: str | None, inputs: Tensors) -> BatchKey:
    """The batch key, as admission made it from the same arrays."""
    given: tuple[tuple[str, Parameter], ...] = ()
    if parameters:
        given = tuple((name, value) for name, value in json.loads(parameters))
    signature: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...] = tuple(
        (name, array.dtype, array.shape[1:]) for name, array in inputs.items()
    )
    return BatchKey(target, version, given, signature)

"""The commands that talk to a server. They need the extra `client`."""

from __future__ import annotations

import argparse
import logging
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ndserve.cli import files, show
from ndserve.cli.exits import DONE, INTERRUPTED, UNFINISHED, USAGE, UsageError, code_of
from ndserve.cli.mapping import map_files
from ndserve.cli.models import OnServer, manage
from ndserve.client import Client, ClientError, ConnectionFailedError, GoneError, ServerError, TaskFailedError
from ndserve.client.wire import Result, without_password

Command = Callable[[Client, argparse.Namespace], int]

TASK_OPTIONS = ("priority", "ttl", "start_within", "run_within", "version", "cast", "split")
RESERVED = {
    *TASK_OPTIONS,
    *("idempotency_key", "model", "process", "wait", "webhook", "webhook_events"),
    *("target", "inputs", "iterable", "concurrency", "progress", "return_errors"),
}
"""Names that the server or the client takes for its own."""

PATIENCE = 60.0
SHORT_PATIENCE = 5.0
"""For what takes one request, and a person waits for it."""


class _Once(logging.Handler):
    """Says that a server does not answer, once, while the client goes on trying."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._said:
            self._said = True
            show.note(record.getMessage())


def run(options: argparse.Namespace) -> int:
    """Run one of the commands; gives its exit code."""
    logger, handler = logging.getLogger("ndserve.client"), _Once()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with _connect(options) as client:
            return COMMANDS[options.command](client, options)
    except UsageError as error:
        show.note(str(error))
        return USAGE
    except ClientError as error:
        return _report(error, options)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _connect(options: argparse.Namespace) -> Client:
    patience = options.patience
    if patience is None:
        patience = PATIENCE if options.command == "map" or _waits(options) else SHORT_PATIENCE
    try:
        return Client(options.url, patience=patience, headers=_pairs("--header", options.header))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _report(error: ClientError, options: argparse.Namespace) -> int:
    """Tell of an error in words, and in JSON where that is asked for."""
    show.note(error.message)
    if options.json:
        task_id = error.task_id if isinstance(error, ServerError) else None
        fault = {"code": error.code, "message": error.detail if isinstance(error, ServerError) else error.message}
        ended = {"task_id": task_id} if task_id else {}
        if isinstance(error, TaskFailedError):
            ended["status"] = "failed"
        show.document({**ended, "error": fault})
    return code_of(error)


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise UsageError(f"{option} {word}: write NAME=VALUE")
    return dict(word.split("=", 1) for word in words)


def task_options(options: argparse.Namespace) -> dict[str, Any]:
    """What of the command line goes with every submit.

    Raises:
        UsageError: a parameter that is not NAME=VALUE.
    """
    parameters = _pairs("--param", options.param)
    for name in RESERVED & parameters.keys():
        raise UsageError(f"--param {name}=…: no parameter of a process has this name")
    given = {name: getattr(options, name, None) for name in TASK_OPTIONS}
    # A flag that was not given leaves the server's default in force, as an option without a value does.
    return {**parameters, **{name: value for name, value in given.items() if value not in (None, False)}}


def _waits(options: argparse.Namespace) -> bool:
    """Whether a command waits for a result: to have it written, it must be there."""
    submits_to_file = options.command == "submit" and options.output is not None
    return getattr(options, "wait", None) is not None or submits_to_file


def submit(client: Client, options: argparse.Namespace) -> int:
    """`ndserve submit`."""
    files.check_output(options.output)
    inputs = files.read(options.file)
    # Named here, so that a submit that breaks off can be repeated without a second task.
    key = options.key or uuid.uuid4().hex
    again = f"the task may have been accepted; the same command with --key {key} finds out and makes no second one"
    try:
        task_id = client.submit_task(options.target, inputs, idempotency_key=key, **task_options(options))
    except KeyboardInterrupt:
        show.note(f"interrupted; {again}")
        return INTERRUPTED
    except ConnectionFailedError:
        show.note(again)
        raise
    except TypeError as error:
        raise UsageError(f"{options.file}: {error}") from None
    if _waits(options):
        return _fetch(client, task_id, math.inf if options.wait is None else options.wait, options)
    if options.json:
        show.document({"task_id": task_id, "status": "queued"})
    else:
        print(task_id)
    return DONE


def result(client: Client, options: argparse.Namespace) -> int:
    """`ndserve result`."""
    files.check_output(options.output)
    return _fetch(client, options.id, options.wait or 0.0, options)


def _fetch(client: Client, task_id: str, wait: float, options: argparse.Namespace) -> int:
    """Wait for a result and hand it over."""
    try:
        found = client.get_result(task_id, None if math.isinf(wait) else wait)
    except KeyboardInterrupt:
        show.note(f"interrupted; the task goes on: ndserve result {task_id} --wait")
        return INTERRUPTED
    except GoneError as error:
        if options.json:
            raise
        show.note(f"{task_id}: {error.detail}")
        return code_of(error)
    except ConnectionFailedError:
        show.note(f"the task was accepted: ndserve result {task_id} --wait")
        raise
    if found is None:
        show.note(f"not finished; the task goes on: ndserve result {task_id} --wait")
        if options.json:
            show.document({"task_id": task_id, "status": client.status(task_id).get("status")})
        elif options.command == "submit":
            print(task_id)
        return UNFINISHED
    _hand_over(found, task_id, options)
    return DONE


def _hand_over(found: Result, task_id: str, options: argparse.Namespace) -> None:
    if options.output is not None:
        try:
            files.write(found, options.output)
        except UsageError:
            show.note(f"the result is on the server still: ndserve result {task_id} -o FILE")
            raise
        show.note(f"task {task_id}: {show.summary(found)} written to {options.output}")
        if options.json and options.output != "-":
            description = show.described(found, values=False)
            show.document({"task_id": task_id, "status": "succeeded", "file": options.output, **description})
    elif options.json:
        show.document({"task_id": task_id, "status": "succeeded", **show.described(found)})
    else:
        show.result(found)


def status(client: Client, options: argparse.Namespace) -> int:
    """`ndserve status`."""
    return _told(client.status(options.id), options, show.status)


def cancel(client: Client, options: argparse.Namespace) -> int:
    """`ndserve cancel`."""
    return _told(client.cancel(options.id), options, show.status)


def retry(client: Client, options: argparse.Namespace) -> int:
    """`ndserve retry`."""
    return _told(client.retry(options.id), options, show.status)


def _told(answer: Mapping[str, Any], options: argparse.Namespace, people: Callable[[Mapping[str, Any]], None]) -> int:
    (show.document if options.json else people)(answer)
    return DONE


def tasks(client: Client, options: argparse.Namespace) -> int:
    """`ndserve tasks`."""
    found = list(client.tasks(state=options.state, target=options.target, group=options.group, limit=options.limit))
    if options.json:
        show.document({"tasks": found})
    elif found:
        show.tasks(found)
    else:
        show.note("no such tasks")
    return DONE


def map_command(client: Client, options: argparse.Namespace) -> int:
    """`ndserve map`."""
    return map_files(client, options, task_options(options))


def models(client: Client, options: argparse.Namespace) -> int:
    """`ndserve models`."""
    return manage(OnServer(client, without_password(options.url)), options)


COMMANDS: Mapping[str, Command] = {
    "submit": submit,
    "result": result,
    "status": status,
    "cancel": cancel,
    "retry": retry,
    "tasks": tasks,
    "map": map_command,
    "models": models,
}

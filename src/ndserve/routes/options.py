"""What a submit asks for beside its arrays: the query string, and the headers that say the same."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ndserve import byte_strings
from ndserve.codecs.base import excerpt
from ndserve.dtypes import name_of
from ndserve.engine.groups import PREFIX
from ndserve.errors import InvalidParameterError
from ndserve.routes.asgi import parse_query
from ndserve.types import DEFAULT_OPTIONS, LIVE, NAME, Parameter, TaskOptions, TaskState, Tensors, Webhook, join_names

MAX_WAIT = 3600.0
MAX_SPAN = 366 * 24 * 3600.0
"""The longest `ttl`, `start_within` and `run_within`, in seconds: a year."""

MAX_KEY = 255
MAX_ID = 128

RESERVED = frozenset(
    {
        *("model", "process", "version", "cast", "wait", "priority", "ttl", "start_within", "run_within"),
        *("webhook", "webhook_events", "split"),
    }
)
"""Query parameters that are the server's own; a process cannot have a parameter of that name."""

ENDS = tuple(state for state in TaskState if state not in LIVE)

Headers = Mapping[bytes, bytes]

_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9.]+)", re.IGNORECASE)
_KEY = re.compile(rb"[\x21-\x7e]+(?: +[\x21-\x7e]+)*")


class Options(NamedTuple):
    """What a submit asks for."""

    target: str | None
    version: str | None
    cast: bool
    split: bool
    wait: float | None
    task: TaskOptions
    parameters: Mapping[str, Parameter]


def read_options(query: bytes, headers: Headers) -> Options:
    """The options of a submit; where the query and a header say different things, the query counts.

    Raises:
        InvalidParameterError: a value is of no use; names it and what would be.
    """
    options = _from_query(query)
    return options if _HEADERS.isdisjoint(headers) else _with_headers(options, headers)


@lru_cache(maxsize=1024)
def _from_query(query: bytes) -> Options:
    given = dict(parse_query(query))
    model, process = given.pop("model", None), given.pop("process", None)
    if model is not None and process is not None:
        raise InvalidParameterError("name either a model or a process, not both")
    version = given.pop("version", None)
    cast, split = _flag(given, "cast"), _flag(given, "split")
    wait = _given_wait(given)
    task = _task_options(given)
    if version is not None:
        task = replace(task, version_named=True)
    if split and task.webhook is not None:
        raise InvalidParameterError("webhook and split do not go together: a webhook tells of one task")
    return Options(model or process, version, cast, split, wait, task, given)


def _task_options(given: dict[str, str]) -> TaskOptions:
    """Takes the options of a task out of a query's parameters."""
    spans: dict[str, Any] = {
        name: seconds(name, given.pop(name), MAX_SPAN)
        for name in ("ttl", "start_within", "run_within")
        if name in given
    }
    priority = given.pop("priority", "5")
    if priority not in tuple("0123456789"):
        raise InvalidParameterError(f"priority is a digit from 0 to 9, and 9 goes first; not {excerpt(priority)}")
    webhook = _webhook(given)
    if not spans and priority == "5" and webhook is None:
        return DEFAULT_OPTIONS
    return TaskOptions(priority=int(priority), webhook=webhook, **spans)


def _webhook(given: dict[str, str]) -> Webhook | None:
    url, events = given.pop("webhook", None), given.pop("webhook_events", None)
    if url is None:
        if events is not None:
            raise InvalidParameterError("webhook_events is of no use without webhook")
        return None
    if events is None:
        return Webhook(url, ENDS)
    names = [name.strip() for name in events.split(",")]
    unknown = [name for name in names if name not in ENDS]
    if unknown:
        raise InvalidParameterError(f"webhook_events are {join_names(ENDS)}; not {excerpt(', '.join(unknown))}")
    return Webhook(url, tuple(TaskState(name) for name in names))


def _with_headers(options: Options, headers: Headers) -> Options:
    task, wait = options.task, options.wait
    if b"start-within" in headers and task.start_within is None:
        task = replace(task, start_within=_span("Start-Within", headers[b"start-within"]))
    if b"run-within" in headers and task.run_within is None:
        task = replace(task, run_within=_span("Run-Within", headers[b"run-within"]))
    if b"idempotency-key" in headers:
        key = headers[b"idempotency-key"]
        if len(key) > MAX_KEY or not _KEY.fullmatch(key):
            raise InvalidParameterError(f"Idempotency-Key holds 1 to {MAX_KEY} printable ASCII characters")
        task = replace(task, idempotency_key=key.decode())
    return options._replace(task=task, wait=_preferred_wait(headers) if wait is None else wait)


def _span(name: str, value: bytes) -> float:
    return seconds(name, value.decode("latin1"), MAX_SPAN)


_HEADERS = frozenset({b"prefer", b"start-within", b"run-within", b"idempotency-key"})


def _preferred_wait(headers: Headers) -> float:
    """The seconds of `Prefer: wait=SECONDS` (RFC 7240, 4.3); 0 without."""
    found = _WAIT.search(headers.get(b"prefer", b"").decode("latin1"))
    return seconds("Prefer: wait", found[1], MAX_WAIT) if found else 0.0


def asked_wait(query: bytes, headers: Headers) -> float:
    """The seconds that the caller of a path waits that knows no other parameter; 0 for none.

    Raises:
        InvalidParameterError: the query holds something else, or the seconds are of no use.
    """
    wait = _wait_only(query)
    return _preferred_wait(headers) if wait is None else wait


@lru_cache(maxsize=1024)
def _wait_only(query: bytes) -> float | None:
    given = dict(parse_query(query))
    wait = _given_wait(given)
    if given:
        raise InvalidParameterError(f"unknown parameters {', '.join(given)}; this path knows wait")
    return wait


def _given_wait(given: dict[str, str]) -> float | None:
    """Takes `wait` out of a query's parameters; None where it is not there, so that the header counts."""
    return seconds("wait", given.pop("wait"), MAX_WAIT) if "wait" in given else None


def seconds(name: str, text: str, limit: float) -> float:
    """A span of time as it stands in a query or header."""
    try:
        span = float(text)
    except ValueError:
        span = math.nan
    if not 0 <= span <= limit:
        raise InvalidParameterError(f"{name} is a number of seconds from 0 to {limit:g}, not {excerpt(text)}")
    return span


def _flag(given: dict[str, str], name: str) -> bool:
    value = given.pop(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise InvalidParameterError(f"{name} is true or false, not {excerpt(value)}")
    return value in ("true", "1")


def check_id(task_id: str) -> None:
    """Refuse an id that a client must not choose.

    Raises:
        InvalidParameterError: it has other characters than names have, is too long, or looks like a group's.
    """
    if len(task_id) > MAX_ID or not NAME.fullmatch(task_id) or task_id.startswith(PREFIX):
        raise InvalidParameterError(
            f"the id {excerpt(task_id)} must consist of 1 to {MAX_ID} letters, digits, '.', '_' and '-', begin with a"
            f" letter or digit, and not with {PREFIX!r}"
        )


def fingerprint(target: str, options: Options, inputs: Tensors) -> str:
    """What tells a request from another: its target, the parameters that change the result, and its arrays.

    The arrays and not the body, because a form has another boundary every time that it is sent.
    """
    asked = (target, options.version, options.cast, options.split, sorted(options.parameters.items()))
    digest = hashlib.sha256(repr(asked).encode())
    for name, array in sorted(inputs.items()):
        digest.update(repr((name, name_of(array.dtype), array.shape)).encode())
        if array.dtype.hasobject:
            digest.update(byte_strings.pack(array))
        elif array.nbytes:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()

"""The `parameters` of a request: Triton's reserved ones, and those of a process.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_parameters.md and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_schedule_policy.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ndserve.codecs.open_inference import LENGTH_HEADER, Request, check_outputs
from ndserve.engine.target import Target
from ndserve.errors import InvalidInputError, MalformedBodyError, UnsupportedError
from ndserve.routes.asgi import MAX_DIGITS
from ndserve.routes.options import Options
from ndserve.types import DEFAULT_OPTIONS, Parameter, TaskOptions

_RESERVED = frozenset({"priority", "timeout", "headers", "binary_data_output"})
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")

_NONE: Mapping[str, Parameter] = {}


def read_options(given: Mapping[str, Parameter], target: Target) -> tuple[TaskOptions, Mapping[str, Parameter]]:
    """What a request asks for beside its arrays, and the parameters of a process.

    `timeout` is in microseconds. Of `priority` 1 goes first, as in Triton, and 0 is the default. ndserve has ten levels
    of which 9 goes first, so that whatever is above 9 comes last. A model has no parameters of its own: others that
    come for it change nothing.

    Raises:
        MalformedBodyError: a value is of no use.
        UnsupportedError: the request is part of a sequence.
    """
    if not given or given.keys() == {"binary_data_output"}:
        return DEFAULT_OPTIONS, _NONE
    for name in _SEQUENCE:
        if given.get(name):
            raise UnsupportedError(f"sequences are not supported ({name}); every request stands for itself")
    priority, timeout = _whole(given, "priority"), _whole(given, "timeout")
    options = DEFAULT_OPTIONS
    if priority or timeout:
        level = max(0, 10 - priority) if priority else DEFAULT_OPTIONS.priority
        options = TaskOptions(priority=level, start_within=timeout / 1e6 if timeout else None)
    if target.process is None:
        return options, _NONE
    own = {
        name: value
        for name, value in given.items()
        if name not in _RESERVED and name not in _SEQUENCE and not name.startswith("triton_")
    }
    return options, own


def _whole(given: Mapping[str, Parameter], name: str) -> int:
    value = given.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise MalformedBodyError(f"the parameter {name} must be a whole number from 0 up, not {value!r:.100}")
    return value


def merged(options: Options, request: Request, target: Target) -> Options:
    """The options of a submit whose body is such a request; where the query says something else, the query counts.

    A timeout bounds the time in the queue, as Triton's does, and from its start on the run as well.

    Raises:
        InvalidInputError: the model has no such output, or classes are asked for, which a task does not keep.
        MalformedBodyError, UnsupportedError: as `read_options` says.
    """
    for asked in request.outputs or ():
        if asked.classes:
            raise InvalidInputError(
                f"output {asked.name[:100]!r}: a task keeps its outputs whole; classification is for /v2/.../infer"
            )
    check_outputs(target.name, target.outputs, request.outputs or ())
    given, parameters = read_options(request.parameters, target)
    task = options.task
    if given is not DEFAULT_OPTIONS:
        within = given.start_within
        task = replace(
            task,
            priority=given.priority if task.priority == DEFAULT_OPTIONS.priority else task.priority,
            start_within=within if task.start_within is None else task.start_within,
            run_within=within if task.run_within is None else task.run_within,
        )
    return options._replace(task=task, parameters={**parameters, **options.parameters})


def json_length(headers: Mapping[bytes, bytes]) -> int | None:
    """The bytes of JSON in front of the binary tensors; None without the header.

    Raises:
        MalformedBodyError: it is no number.
    """
    length = headers.get(LENGTH_HEADER)
    if length is None:
        return None
    if not length.isdigit() or len(length) > MAX_DIGITS:
        raise MalformedBodyError(f"Inference-Header-Content-Length {length[:40].decode('latin1')!r} is not a number")
    return int(length)

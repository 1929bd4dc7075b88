"""What a lane does with one batch: to the device, through the model or process, back to the host, apart again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import Any, NamedTuple

from ndserve import byte_strings
from ndserve.devices.base import Device
from ndserve.dtypes import PLAIN, uncarried
from ndserve.engine.statistics import Spans
from ndserve.engine.target import Target
from ndserve.model_cache import batch_safety
from ndserve.model_cache.on_host import host_run, sent
from ndserve.model_cache.session import Session
from ndserve.model_info import Batching
from ndserve.processes.base import ModelCall
from ndserve.types import Array, Batch, HostArray, Tensors


class Executed(NamedTuple):
    """One mapping of outputs a task, what the batch took, and what it has shown of the target's batch safety, if so."""

    results: list[Tensors]
    spans: Spans
    batching: Batching | None


def execute(
    device: Device, target: Target, sessions: Mapping[str, Session], batch: Batch, parts: Mapping[str, list[HostArray]]
) -> Executed:
    """Run a batch on the device; called on the lane's thread.

    `parts` are the batch's inputs, taken by the event loop, which owns the tasks.

    Raises:
        Exception: whatever the model or the process raised.
        TypeError: an output holds Python objects that are no texts.
        ValueError: the outputs do not have one row for each row that went in, or a text is no Unicode.
    """
    begun = monotonic_ns()
    call = _call(device, target, sessions, batch)
    inputs = {
        name: device.to_device(arrays) if arrays[0].dtype in _PLAIN else sent(device, arrays)
        for name, arrays in parts.items()
    }
    given = monotonic_ns()
    outputs = call(inputs)
    device.synchronize()
    inferred = monotonic_ns()
    on_host = {name: device.to_host(array) for name, array in outputs.items()}
    for name, array in on_host.items():
        if target.process is not None:
            on_host[name] = array = _own(array, outputs[name])
        if array.dtype.kind in _MORE_THAN_NUMBERS:
            on_host[name] = _told(target, name, array)
    results = batch.split(on_host)
    spans = Spans(given - begun, inferred - given, monotonic_ns() - inferred)
    if target.batching.mode != "untested":
        return Executed(results, spans, None)
    run = host_run(device, call)
    first = {name: arrays[0] for name, arrays in parts.items()}
    return Executed(results, spans, batch_safety.with_request(run, first, target.outputs))


_PLAIN = frozenset(PLAIN.values())

_MORE_THAN_NUMBERS = "uOUST"
"""The kinds of arrays that may hold the bits of narrow floats, or texts: as objects or as NumPy's own strings."""


def _own(array: HostArray, output: Array) -> HostArray:
    """A process's output as nobody else has it: the process may keep its array, and write to it at the next call."""
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    return array.copy() if array is output else array


def _told(target: Target, name: str, array: HostArray) -> HostArray:
    """One output as it is stored and sent: texts as byte strings, and narrow floats as such, no more as their bits."""
    if target.process is None:  # a session gives byte strings
        return uncarried(array, next((spec.dtype for spec in target.outputs if spec.name == name), None))
    if array.dtype.kind == "u":
        return array
    try:
        return byte_strings.encoded(array)
    except TypeError as error:
        raise TypeError(
            f"output {name!r} is an array of Python objects, which can be neither stored nor sent: {error}"
        ) from None
    except UnicodeEncodeError as error:
        raise ValueError(f"output {name!r} holds a text that is no Unicode: {error.reason}") from None


def _call(
    device: Device, target: Target, sessions: Mapping[str, Session], batch: Batch
) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    process = target.process
    if process is None:
        return sessions[target.name].run
    models = {name: _model_call(session) for name, session in sessions.items()}
    parameters = dict(batch.key.parameters)
    return lambda inputs: process.run(device.xp, models, inputs, parameters)


def _model_call(session: Session) -> ModelCall:
    """A session as a process calls it: `models["digits"](x)`, or by input name where there are several."""

    def call(*args: Array, **named: Array) -> Any:
        names = [spec.name for spec in session.info.inputs]
        if len(args) > len(names):
            raise TypeError(f"model {session.info.name!r} takes {len(names)} inputs, not {len(args)}")
        outputs = session.run({**dict(zip(names, args, strict=False)), **named})
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    return call

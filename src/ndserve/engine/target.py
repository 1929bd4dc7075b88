"""One thing that tasks can be sent to: a version of a model, or a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ndserve.engine.statistics import Statistics
from ndserve.errors import StartupError
from ndserve.model_cache import batch_safety
from ndserve.model_info import Batching, ModelInfo, ModelKey
from ndserve.processes.base import Process
from ndserve.types import BatchKey, Parameter, TensorSpec, join_names

TargetKey: TypeAlias = tuple[str, str, int]
"""A target's name, version and revision; a process's version is empty."""


Form: TypeAlias = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
"""Names, dtypes and shapes of arrays as they were posted."""


class Plan(NamedTuple):
    """What becomes of arrays of one form: (input name, posted name) pairs, and the fields of `Admitted`."""

    key: BatchKey
    names: tuple[tuple[str, str], ...]
    rows: int
    single: bool


@dataclass(slots=True, eq=False)
class Target:
    """One version of a model, or a process.

    `stacks` says that axis 0 of every input and output is the batch axis; `batching` whether tasks may share it.
    `plans` is the memory of `admission.admit`. `revision` tells apart what has had this name and version. `label` is
    the version and, behind a `+`, what clients have changed about the models, if they have: it goes with stored tasks,
    and what it names is gone with the process. `forgotten` says that it takes no tasks any more. `specified` says that
    all inputs have shapes, `takes_rows` that axis 0 is free in all of them, and `plain` that they are numbers.
    """

    name: str
    version: str
    kind: Literal["model", "process"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    models: tuple[ModelInfo, ...]
    stacks: bool
    batching: Batching
    max_batch_size: int
    max_wait: float
    source: str
    process: Process | None = None
    probes_left: int = 0
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    revision: int = 0
    forgotten: bool = False
    label: str = field(init=False)
    specified: bool = field(init=False)
    takes_rows: bool = field(init=False)
    plain: bool = field(init=False)
    plans: dict[Form, Plan] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=Statistics)

    def __post_init__(self) -> None:
        changes = [info.change for info in self.models if info.change]
        self.label = f"{self.version}+{'-'.join(changes)}" if changes else self.version
        self.specified = all(spec.shape is not None for spec in self.inputs)
        self.plain = all(spec.dtype is not None and not spec.dtype.hasobject for spec in self.inputs)
        self.takes_rows = all(spec.shape and spec.shape[0] is None for spec in self.inputs)

    @property
    def key(self) -> TargetKey:
        return self.name, self.label, self.revision

    @property
    def model_keys(self) -> list[ModelKey]:
        return [info.key for info in self.models]

    @property
    def has_batch(self) -> bool:
        """Whether callers send any number of rows along axis 0 of every input."""
        return self.stacks and self.batching.mode != "off" and self.takes_rows

    @property
    def limit(self) -> int:
        """The most rows in a batch of several tasks."""
        return self.max_batch_size if self.batching.mode == "on" else 1


@dataclass(frozen=True, slots=True)
class BatchDefaults:
    """The server's defaults: rows in a batch, and seconds to wait for more of them."""

    max_batch_size: int = 32
    max_wait: float = 0.0


PROBES = 3
"""How many requests a model may fail to be judged by before it is left unbatched for good."""


def model_target(info: ModelInfo, defaults: BatchDefaults) -> Target:
    options, batching = info.options, batch_safety.before_loading(info)
    wait = defaults.max_wait if options.max_wait_ms is None else options.max_wait_ms / 1000
    return Target(
        name=info.name,
        version=info.version,
        kind="model",
        inputs=info.inputs,
        outputs=info.outputs,
        models=(info,),
        stacks=batch_safety.has_batch_axis(info),
        batching=batching,
        max_batch_size=options.max_batch_size or defaults.max_batch_size,
        max_wait=wait,
        source=str(info.path),
        probes_left=PROBES,
        revision=info.revision,
    )


def process_target(process: Process, models: Mapping[str, ModelInfo], defaults: BatchDefaults) -> Target:
    """Raises StartupError where the process calls a model that is not there."""
    missing = [name for name in process.models if name not in models]
    if missing:
        raise StartupError(
            f"process {process.name!r} ({process.source}) calls the model(s) {join_names(missing)}, which are not"
            f" there; known models: {join_names(models)}"
        )
    batching = Batching("on", "declared batched") if process.batched else Batching("off", "declared batched=False")
    return Target(
        name=process.name,
        version="",
        kind="process",
        inputs=process.inputs,
        outputs=(),
        models=tuple(models[name] for name in process.models),
        stacks=process.batched,
        batching=batching,
        max_batch_size=defaults.max_batch_size,
        max_wait=defaults.max_wait,
        source=process.source,
        process=process,
        parameters=process.parameters,
    )


def moved(target: Target, info: ModelInfo) -> Target:
    """The target of a model whose files now lie where `info` says; nothing else is different."""
    return replace(target, models=(info,), source=str(info.path))

"""What tasks can be sent to: models and processes, in one namespace."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ndserve.errors import ModelLoadError, StartupError, UnknownTargetError
from ndserve.model_cache import batch_safety
from ndserve.processes.base import Process
from ndserve.types import Batching, BatchKey, ModelInfo, Parameter, TensorSpec, join_names

TargetKey: TypeAlias = tuple[str, str]
"""A target's name and version; a process's version is empty."""


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
    `plans` is the memory of `admission.admit`.
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
    plans: dict[Form, Plan] = field(default_factory=dict)

    @property
    def key(self) -> TargetKey:
        return self.name, self.version

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


class Targets:
    """All targets by name and version. The newest version of a model answers where none is asked for."""

    def __init__(self, models: Sequence[ModelInfo], processes: Iterable[Process], defaults: BatchDefaults) -> None:
        """Models in the order that `repository.scan` gives: by name, then by version.

        Raises:
            StartupError: two targets share a name, or a process calls a model that is not there.
        """
        self._by_key: dict[TargetKey, Target] = {}
        self._newest: dict[str, Target] = {}
        usable = [info for info in models if not info.problem]
        self.broken = {(info.name, info.version): info for info in models if info.problem}
        for info in usable:
            self._newest[info.name] = self._by_key[info.name, info.version] = model_target(info, defaults)
        newest_models = {info.name: info for info in usable}
        for process in processes:
            target = process_target(process, newest_models, defaults)
            other = self._newest.get(process.name)
            if other is not None:
                raise StartupError(
                    f"the name {process.name!r} is taken twice: by the {other.kind} in {other.source}"
                    f" and by the process in {target.source}; rename one"
                )
            self._newest[process.name] = self._by_key[target.key] = target

    def __iter__(self) -> Iterator[Target]:
        return iter(self._by_key.values())

    def of(self, key: BatchKey) -> Target:
        """The target of an admitted task."""
        return self._by_key[key.target, key.version]

    def find(self, name: str, version: str | None = None) -> Target:
        """The target that a caller named.

        Raises:
            UnknownTargetError: there is none; suggests names that look alike.
            ModelLoadError: the file of that name is no usable model; says why.
        """
        target = self._newest.get(name) if version is None else self._by_key.get((name, version))
        if target is not None:
            return target
        for (broken, number), info in self.broken.items():
            if broken == name and version in (None, number):
                raise ModelLoadError(f"model {name!r} version {number} cannot be served: {info.problem}")
        if name in self._newest:
            versions = [number or "none" for known, number in self._by_key if known == name]
            raise UnknownTargetError(f"{name!r} has no version {version!r}; it has {join_names(versions)}")
        alike = difflib.get_close_matches(name, self._newest, n=3)
        hint = f"did you mean {' or '.join(alike)}?" if alike else "GET /models lists what there is"
        raise UnknownTargetError(f"no model or process is called {name!r}; {hint}")

"""What tasks can be sent to: models and processes, in one namespace."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ndserve.engine.statistics import Statistics
from ndserve.errors import ModelLoadError, StartupError, UnavailableError, UnknownTargetError
from ndserve.model_cache import batch_safety
from ndserve.model_info import Batching, ModelInfo
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


class Withdrawn(NamedTuple):
    """What can no longer be found under a name, and why."""

    targets: Sequence[Target]
    reason: str


UNLOADED = "unloaded"


class Targets:
    """All targets by name and version. The newest version of a model answers where none is asked for.

    What is replaced or withdrawn is no longer found, but goes on for the tasks that have been admitted to it, until
    it is forgotten.
    """

    def __init__(self, models: Sequence[ModelInfo], processes: Iterable[Process], defaults: BatchDefaults) -> None:
        """Models in the order that `repository.scan` gives: by name, then by version.

        Raises:
            StartupError: two targets share a name, or a process calls a model that is not there.
        """
        self.broken = {(info.name, info.version): info for info in models if info.problem}
        self.withdrawn: dict[str, Withdrawn] = {}
        self.processes: dict[str, Process] = {}
        self._defaults = defaults
        self._all: dict[TargetKey, Target] = {}
        self._found: dict[str, dict[str, Target]] = {}
        self._revision = 0
        self.changes = 0
        """Goes up whenever a name means something else."""
        for info in models:
            if not info.problem:
                self._enter(model_target(info, defaults))
        newest = {name: versions[-1].models[0] for name in self._found if (versions := self.versions(name))}
        for process in processes:
            target = process_target(process, newest, defaults)
            if process.name in self._found:
                other = self.find(process.name)
                raise StartupError(
                    f"the name {process.name!r} is taken twice: by the {other.kind} in {other.source}"
                    f" and by the process in {target.source}; rename one"
                )
            self.processes[process.name] = process
            self._enter(target)

    def __iter__(self) -> Iterator[Target]:
        """Every target that can be found."""
        return (target for versions in self._found.values() for target in versions.values())

    def of(self, key: BatchKey) -> Target:
        """The target of an admitted task."""
        return self._all[key.target, key.version, key.revision]

    def admitted(self, key: BatchKey) -> Target | None:
        """The same; None for a task that was stored, and whose target is gone."""
        return self._all.get((key.target, key.version, key.revision))

    def find(self, name: str, version: str | None = None) -> Target:
        """The target that a caller named.

        Raises:
            UnknownTargetError: there is none; suggests names that look alike.
            ModelLoadError: the file of that name is no usable model; says why.
            UnavailableError: it was unloaded.
        """
        versions = self._found.get(name)
        if versions is not None:
            # The newest stands last.
            target = next(reversed(versions.values())) if version is None else versions.get(version)
            if target is not None:
                return target
        if name in self.withdrawn:
            raise UnavailableError(f"{name!r} cannot be asked now: {self.withdrawn[name].reason}")
        for (broken, number), info in self.broken.items():
            if broken == name and version in (None, number):
                raise ModelLoadError(f"model {name!r} version {number} cannot be served: {info.problem}")
        if versions is not None:
            has = join_names(number or "none" for number in versions)
            raise UnknownTargetError(f"{name!r} has no version {version!r}; it has {has}")
        alike = difflib.get_close_matches(name, self._found, n=3)
        hint = f"did you mean {' or '.join(alike)}?" if alike else "GET /models lists what there is"
        raise UnknownTargetError(f"no model or process is called {name!r}; {hint}")

    def versions(self, name: str) -> list[Target]:
        """What can be found under a name, the newest version last."""
        return list(self._found.get(name, {}).values())

    def prepare(self, infos: Iterable[ModelInfo]) -> list[Target]:
        """Targets for versions of a model that may take over. Nobody finds them yet."""
        self._revision += 1
        usable = [replace(info, revision=self._revision) for info in infos if not info.problem]
        return [model_target(info, self._defaults) for info in usable]

    def replace(self, name: str, targets: Sequence[Target], broken: Iterable[ModelInfo] = ()) -> list[Target]:
        """Have these versions of a model, the newest one last, answer to the name.

        The processes that call the model call its newest version from now on. Gives the targets whose place was
        taken, which are to be forgotten once the tasks that were admitted to them have ended.
        """
        retired = self._take_out(name)
        self.broken = {key: info for key, info in self.broken.items() if key[0] != name}
        self.broken |= {(info.name, info.version): info for info in broken}
        for target in targets:
            self._enter(target)
        return retired + self._adapt_processes()

    def withdraw(self, name: str) -> list[Target]:
        """Have nothing answer to the name any more, nor to the processes that call it; gives what is retired."""
        retired = self._take_out(name)
        self.withdrawn[name] = Withdrawn(retired, UNLOADED)
        return retired + self._adapt_processes()

    def restore(self, name: str) -> None:
        """Have a withdrawn process answer again.

        Raises:
            UnavailableError: it calls a model that is unloaded.
        """
        withdrawn = self.withdrawn.pop(name)
        self._adapt_processes()
        if name in self.withdrawn:
            reason = self.withdrawn[name].reason
            self.withdrawn[name] = withdrawn
            raise UnavailableError(f"{name!r} cannot be loaded: {reason}")

    def forget(self, target: Target) -> None:
        """Drop a retired target: no task belongs to it any more."""
        target.forgotten = True
        self._all.pop(target.key, None)

    def uses(self, info: ModelInfo) -> bool:
        """Whether any target, found or not, runs that very revision of a model."""
        return any(info.key == model.key for target in self._all.values() for model in target.models)

    def _enter(self, target: Target) -> None:
        self.changes += 1
        self._all[target.key] = target
        self._found.setdefault(target.name, {})[target.version] = target

    def _take_out(self, name: str) -> list[Target]:
        self.changes += 1
        self.withdrawn.pop(name, None)
        return list(self._found.pop(name, {}).values())

    def _adapt_processes(self) -> list[Target]:
        """Fit the processes to the models that can be found now; gives what is retired."""
        retired: list[Target] = []
        for name, process in self.processes.items():
            if name in self.withdrawn and self.withdrawn[name].reason == UNLOADED:
                continue
            missing = [model for model in process.models if model not in self._found]
            models = {model: self.versions(model)[-1].models[0] for model in process.models if model not in missing}
            present = self._found.get(name, {}).get("")
            if missing:
                before = self.withdrawn.get(name)
                old = self._take_out(name) or (before.targets if before is not None else [])
                self.withdrawn[name] = Withdrawn(old, f"it calls {join_names(missing)}, which is unloaded")
                retired += [present] if present is not None else []
            elif present is None or present.models != tuple(models.values()):
                retired += self._take_out(name)
                self._revision += 1
                target = process_target(process, models, self._defaults)
                target.revision = self._revision
                self._enter(target)
        return retired

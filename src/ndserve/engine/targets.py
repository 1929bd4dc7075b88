"""What tasks can be sent to: models and processes, in one namespace."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ndserve.engine.target import BatchDefaults, Target, TargetKey, model_target, process_target
from ndserve.errors import ModelLoadError, StartupError, UnavailableError, UnknownTargetError
from ndserve.model_info import ModelInfo, ModelKey
from ndserve.processes.base import Process
from ndserve.types import BatchKey, join_names


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
        self._failing: set[ModelKey] = set()
        self._revision = 0
        self.changes = 0
        """Goes up whenever a name means something else."""
        for info in models:
            if not info.problem:
                self._enter(model_target(info, defaults))
        newest = {name: self._default(versions).models[0] for name, versions in self._found.items()}
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
            target = self._default(versions) if version is None else versions.get(version)
            if target is not None:
                return target
        if name in self.withdrawn:
            reason = self.withdrawn[name].reason
            remedy = f"; POST /models/{name}/load brings it back" if reason == UNLOADED else ""
            raise UnavailableError(f"{name!r} cannot be asked now: {reason}{remedy}")
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

    def default(self, name: str) -> Target | None:
        """What answers to the name where no version is asked for: the newest version that has not failed to load."""
        versions = self._found.get(name)
        return None if versions is None else self._default(versions)

    def served(self, name: str, version: str) -> Target | None:
        """What answers now where that version is asked for."""
        return self._found.get(name, {}).get(version)

    def _default(self, versions: dict[str, Target]) -> Target:
        newest = next(reversed(versions.values()))  # it stands last
        if not self._failing:
            return newest
        loadable = (each for each in reversed(versions.values()) if not self._failing.intersection(each.model_keys))
        return next(loadable, newest)

    def note_load(self, info: ModelInfo, *, failed: bool) -> list[Target]:
        """Note that a model has failed to load, or has loaded after all; gives the processes that are retired."""
        if failed == (info.key in self._failing):
            return []
        if failed:
            self._failing.add(info.key)
        else:
            self._failing.discard(info.key)
        self.changes += 1
        return self._adapt_processes()

    def forgive(self, target: Target) -> None:
        """Drop what is known of the loads of a target that nothing has come of."""
        self._failing.difference_update(target.model_keys)

    def prepare(self, info: ModelInfo) -> Target | None:
        """The target for a version of a model, which nobody finds yet; None where it cannot be served.

        One that is served already, and has not changed, is given as it is.
        """
        if info.problem:
            return None
        present = self._found.get(info.name, {}).get(info.version)
        if present is not None and present.process is None:
            (served,) = present.models
            if (replace(served, revision=0), served.stamp) == (replace(info, revision=0), info.stamp):
                return present
        self._revision += 1
        return model_target(replace(info, revision=self._revision), self._defaults)

    def replace(self, name: str, targets: Sequence[Target], broken: Iterable[ModelInfo] = ()) -> list[Target]:
        """Have these versions of a model, the newest one last, answer to the name.

        The processes that call the model call its newest version from now on. Gives the targets whose place was
        taken, which are to be forgotten once the tasks that were admitted to them have ended.
        """
        retired = [target for target in self._take_out(name) if target not in targets]
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
        self._failing.difference_update(target.model_keys)
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
            models = {model: found.models[0] for model in process.models if (found := self.default(model)) is not None}
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

"""What is served, changed while the server runs: load, unload, and the index of both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ndserve.engine.once import Once
from ndserve.engine.service import InferenceService
from ndserve.engine.targets import Target, TargetKey
from ndserve.errors import InvalidInputError, ModelLoadError, StartupError
from ndserve.model_cache import repository
from ndserve.model_cache.sent import SentFolder, write_files
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.types import NAME

logger = logging.getLogger(__name__)

READY, UNAVAILABLE, LOADING, UNLOADING = "READY", "UNAVAILABLE", "LOADING", "UNLOADING"


class Entry(NamedTuple):
    """One line of the index. Version and state are empty for what lies in the folder and was never served."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class Change(NamedTuple):
    """How a model is to differ from what lies in the repository.

    `options` gives a version's options instead of those of its `model.toml`; `files` are the model's own, by their
    paths in its folder, instead of those in the repository. `mark` tells the change from others.
    """

    options: Callable[[ModelInfo], ModelOptions] | None = None
    files: Mapping[str, bytes] | None = None
    mark: str = ""


UNCHANGED = Change()


class Management:
    """Loads and unloads what a service serves. All methods are for the event loop's thread."""

    def __init__(self, service: InferenceService, root: Path | None) -> None:
        """`root` is the model repository; without one only models that clients send can be loaded."""
        self._service = service
        self._targets = service.targets
        self._root = root
        self._once = Once()
        self._loading: set[str] = set()
        self._folders: dict[str, SentFolder] = {}
        self._retiring: dict[asyncio.Task[None], list[Target]] = {}
        self._leaving: list[tuple[SentFolder, list[ModelInfo]]] = []  # and the models that lie in them

    async def index(self) -> list[Entry]:
        """Everything that is served, was served, or could be loaded, by name and version."""
        entries = [Entry(target.name, target.version or "1", READY) for target in self._targets]
        leaving = {target.key for targets in self._retiring.values() for target in targets}
        entries += [
            Entry(target.name, target.version or "1", self._state(target, leaving), withdrawn.reason)
            for withdrawn in self._targets.withdrawn.values()
            for target in withdrawn.targets
        ]
        entries += [Entry(i.name, i.version, UNAVAILABLE, i.problem) for i in self._targets.broken.values()]
        known = {entry.name for entry in entries}
        if self._root is not None:
            entries += [Entry(n) for n in await asyncio.to_thread(_names, self._root) if n not in known]
        return sorted(entries, key=lambda entry: (entry.name, int(entry.version or 0)))

    async def load(self, name: str, change: Change = UNCHANGED) -> None:
        """Load a model's newest version that can be, and have those that lie in the repository now answer to its name.

        What is served stays until the new version is there, and stays if that fails. Tasks that were admitted before
        run on what they were admitted to.

        Raises:
            InvalidInputError: the name or the change is of no use.
            ModelLoadError: there is no such model, or it does not load; says why.
            UnavailableError: a process calls a model that is unloaded.
        """
        if not NAME.fullmatch(name):
            raise InvalidInputError(f"a model cannot be called {name[:100]!r}: use letters, digits, '.', '_' and '-'")
        async with self._once.hold(name):
            self._loading.add(name)
            try:
                if name in self._targets.processes:
                    await self._load_process(name, change)
                else:
                    await self._load_model(name, change)
            finally:
                self._loading.discard(name)
        logger.info("%s is loaded", name)

    async def unload(self, name: str, *, dependents: bool = False) -> None:
        """Have nothing answer to the name any more, and free its memory once the tasks that it has are done.

        Args:
            dependents: unload the models that a process calls as well.

        Raises:
            UnknownTargetError, ModelLoadError, UnavailableError: nothing of that name is served.
        """
        async with self._once.hold(name):
            target = self._targets.find(name)
            self._retire(self._targets.withdraw(name), self._folders.pop(name, None))
        logger.info("%s is unloaded", name)
        if dependents and target.process is not None:
            for model in target.process.models:
                if self._targets.versions(model):
                    await self.unload(model)

    async def close(self) -> None:
        """Stop waiting for what is left, and remove the files that clients have sent."""
        for job in self._retiring:
            job.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        for folder in (*self._folders.values(), *(folder for folder, _ in self._leaving)):
            await asyncio.to_thread(folder.cleanup)

    async def _load_process(self, name: str, change: Change) -> None:
        if change != UNCHANGED:
            raise InvalidInputError(f"{name!r} is a process, which takes no configuration and no files")
        if name in self._targets.withdrawn:
            self._targets.restore(name)
        await self._service.worker.loading.warm(self._targets.find(name))

    async def _load_model(self, name: str, change: Change) -> None:
        infos, folder = await asyncio.to_thread(_read, self._root, name, change)
        try:
            served = self._targets.versions(name)
            if folder is None and name not in self._folders and _same(served, infos):
                await self._service.worker.loading.warm(served[-1])
                return
            targets = self._targets.prepare(infos)
            broken = [info for info in infos if info.problem]
            if not targets:
                newest = broken[-1]
                raise ModelLoadError(f"model {name!r} version {newest.version} cannot be served: {newest.problem}")
            await self._warm(targets[-1])
        except BaseException:
            if folder is not None:
                folder.cleanup()
            raise
        former = self._folders.pop(name, None)
        if folder is not None:
            self._folders[name] = folder
        self._retire(self._targets.replace(name, targets, broken), former)

    async def _warm(self, target: Target) -> None:
        try:
            await self._service.worker.loading.warm(target)
        except BaseException:
            for info in target.models:
                self._service.cache.drop(info)
            raise

    def _retire(self, targets: list[Target], folder: SentFolder | None) -> None:
        if folder is not None:
            self._leaving.append((folder, [info for target in targets for info in target.models]))
        job = asyncio.create_task(self._let_go(targets))
        self._retiring[job] = targets  # the loop alone would not keep it alive
        job.add_done_callback(self._retiring.pop)

    async def _let_go(self, targets: list[Target]) -> None:
        """Forget targets once no task of theirs is left, and the models and folders that no other target has."""
        loading = self._service.worker.loading
        for target in targets:
            await loading.left(target)
            self._targets.forget(target)
            loading.forget(target)
        for info in {info.key: info for target in targets for info in target.models}.values():
            if not self._targets.uses(info):
                self._service.cache.drop(info)
        for entry in [entry for entry in self._leaving if not any(map(self._targets.uses, entry[1]))]:
            await asyncio.to_thread(entry[0].cleanup)
            if entry in self._leaving:
                self._leaving.remove(entry)

    def _state(self, target: Target, leaving: set[TargetKey]) -> str:
        """The state of what cannot be found."""
        return LOADING if target.name in self._loading else UNLOADING if target.key in leaving else UNAVAILABLE


def _read(root: Path | None, name: str, change: Change) -> tuple[list[ModelInfo], SentFolder | None]:
    """The model's versions as they are to be, and the folder of the files that were sent for it.

    Raises:
        ModelLoadError: there is none.
        InvalidInputError, StoreFullError: as `write_files` says, or the options do not fit the model.
    """
    folder = None if change.files is None else write_files(name, change.files)
    try:
        place = root if folder is None else folder.path
        infos = [] if place is None else _scan(place, name)
        if not infos:
            where = "the model repository" if folder is None else "the files that were sent"
            raise ModelLoadError(f"{where} has no {name}/VERSION/{repository.MODEL_FILE}")
        if change.options is not None:
            infos = [
                info if info.problem else replace(info, options=change.options(info), change=change.mark)
                for info in infos
            ]
    except BaseException:
        if folder is not None:
            folder.cleanup()
        raise
    return infos, folder


def _names(root: Path) -> list[str]:
    try:
        return repository.names(root)
    except OSError as error:
        logger.error("the model repository cannot be read: %s", error)
        return []


def _scan(place: Path, name: str) -> list[ModelInfo]:
    try:
        return repository.scan(place, name)
    except OSError as error:
        raise ModelLoadError(f"the model repository cannot be read: {error.strerror}") from None
    except StartupError:  # its message is for the operator, and names files
        raise ModelLoadError(f"one version of {name!r} lies in the model repository twice; remove one") from None


def _same(served: Sequence[Target], infos: Sequence[ModelInfo]) -> bool:
    """Whether the repository holds what is served, unchanged."""
    known = [(replace(target.models[0], revision=0), target.models[0].stamp) for target in served]
    return bool(served) and known == [(info, info.stamp) for info in infos]

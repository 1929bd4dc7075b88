"""What is served, changed while the server runs: load, unload, pin, and the index of it all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ndserve.engine.retiring import Retiring
from ndserve.engine.service import InferenceService
from ndserve.engine.takeover import Takeover, read_repository
from ndserve.engine.target import Target
from ndserve.errors import (
    InvalidInputError,
    ModelLoadError,
    UnknownTargetError,
)
from ndserve.model_cache.disk import repository
from ndserve.model_cache.disk.sent import SentFolder, write_files
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
        self.service = service
        self.root = root
        self._targets = service.targets
        self._loading: set[str] = set()
        self.retiring = Retiring(service)
        self.takeover = Takeover(service, self.retiring)

    async def index(self) -> list[Entry]:
        """Everything that is served, was served, or could be loaded, by name and version."""
        entries = [Entry(target.name, target.version or "1", READY) for target in self._targets]
        entries += [
            Entry(target.name, target.version or "1", self._state(target), withdrawn.reason)
            for withdrawn in self._targets.withdrawn.values()
            for target in withdrawn.targets
        ]
        entries += [Entry(i.name, i.version, UNAVAILABLE, i.problem) for i in self._targets.broken.values()]
        known = {entry.name for entry in entries}
        if self.root is not None:
            entries += [Entry(n) for n in await asyncio.to_thread(_names, self.root) if n not in known]
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
        async with self.takeover.once.hold(name):
            self._loading.add(name)
            try:
                if name in self._targets.processes:
                    await self._load_process(name, change)
                else:
                    await self._load_model(name, change)
            finally:
                self._loading.discard(name)
        logger.info("%s is loaded", name)

    async def load_version(self, name: str, version: str) -> None:
        """Load one version that is served; the newest that loads goes on to answer where none is named.

        Raises:
            UnknownTargetError, ModelLoadError, UnavailableError: there is none, or it does not load.
        """
        async with self.takeover.once.hold(name):
            await self.takeover.warm(self._targets.find(name, version))

    async def unload(self, name: str, *, dependents: bool = False) -> None:
        """Have nothing answer to the name any more, and free its memory once the tasks that it has are done.

        Args:
            dependents: unload the models that a process calls as well.

        Raises:
            UnknownTargetError, ModelLoadError, UnavailableError: nothing of that name is served.
        """
        async with self.takeover.once.hold(name):
            target = self._targets.find(name)
            self.retiring.add(self._targets.withdraw(name), self.takeover.folders.pop(name, None))
        logger.info("%s is unloaded", name)
        if dependents and target.process is not None:
            for model in target.process.models:
                if self._targets.versions(model):
                    await self.unload(model)

    def pin(self, name: str, version: str | None, *, pinned: bool) -> None:
        """Keep the versions of a model, or one of them, from being evicted once they are loaded, or no more.

        Raises:
            UnknownTargetError, ModelLoadError, UnavailableError: there is none.
        """
        found = self._targets.find(name, version)
        if found.process is not None:
            raise UnknownTargetError(f"{name!r} is a process, and only models can be pinned")
        pins = self.takeover.pins
        if version is None:
            for key in [key for key in pins if key[0] == name]:
                del pins[key]
        pins[name, version] = pinned
        for target in [found] if version is not None else self._targets.versions(name):
            self.service.cache.pin(target.models[0], pinned=pinned)
            logger.info("%s/%s is %s", name, target.version, "pinned" if pinned else "no longer pinned")

    async def close(self) -> None:
        """Stop waiting for what is left, and remove the files that clients have sent."""
        await self.takeover.close()
        await self.retiring.close()
        for folder in self.takeover.folders.values():
            await asyncio.to_thread(folder.cleanup)

    async def _load_process(self, name: str, change: Change) -> None:
        if change != UNCHANGED:
            raise InvalidInputError(f"{name!r} is a process, which takes no configuration and no files")
        if name in self._targets.withdrawn:
            self._targets.restore(name)
        await self.takeover.warm(self._targets.find(name))

    async def _load_model(self, name: str, change: Change) -> None:
        infos, folder = await asyncio.to_thread(_read, self.root, name, change)
        try:
            await self.takeover.adopt(name, infos, eager=True, folder=folder)
            default = self._targets.default(name)
            if default is not None:
                await self.takeover.warm(default)
        except BaseException:
            if folder is not None and self.takeover.folders.get(name) is not folder:
                folder.cleanup()
            raise

    def _state(self, target: Target) -> str:
        """The state of what cannot be found."""
        if target.name in self._loading:
            return LOADING
        return UNLOADING if self.retiring.has(target) else UNAVAILABLE


def _read(root: Path | None, name: str, change: Change) -> tuple[list[ModelInfo], SentFolder | None]:
    """The model's versions as they are to be, and the folder of the files that were sent for it.

    Raises:
        ModelLoadError: there is none.
        InvalidInputError, StoreFullError: as `write_files` says, or the options do not fit the model.
    """
    folder = None if change.files is None else write_files(name, change.files)
    try:
        place = root if folder is None else folder.path
        infos = [] if place is None else read_repository(place, name)
        if not infos:
            where = "the model repository" if folder is None else "the files that were sent"
            raise ModelLoadError(f"{where} has no {name}/VERSION/{repository.MODEL_FILE}")
        if any(info.options.provider_options for info in infos) and folder is not None:
            # They may name files of this machine to be written.
            raise InvalidInputError(
                "the files that were sent set provider_options, which is for the model folder alone"
            )
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

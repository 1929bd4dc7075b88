"""How what lies in the repository comes to be served: a new version takes over only once it is loaded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ndserve.engine.once import Once
from ndserve.engine.retiring import Retiring
from ndserve.engine.service import InferenceService
from ndserve.engine.succession import Succession, is_newer, unusable
from ndserve.engine.target import Target
from ndserve.engine.targets import UNLOADED
from ndserve.errors import ModelLoadError, NdserveError, StartupError
from ndserve.model_cache.disk import repository
from ndserve.model_cache.disk.sent import SentFolder
from ndserve.model_cache.jobs import MOST_DOUBLINGS
from ndserve.model_info import ModelInfo

logger = logging.getLogger(__name__)


class Takeover:
    """Changes what answers to the names of models. All methods are for the event loop's thread."""

    def __init__(self, service: InferenceService, retiring: Retiring) -> None:
        self.once = Once()
        """One change of a name at a time."""
        self.folders: dict[str, SentFolder] = {}
        """What clients have sent, by the name that it answers to."""
        self.faults: dict[tuple[str, str], str] = {}
        """Why what lies in the repository as this name and version is not what is served."""
        self.pins: dict[tuple[str, str | None], bool] = {}
        """What clients have said of pins, by name and version, or by name for all versions."""
        self._jobs: set[asyncio.Task[None]] = set()
        self._service = service
        self._targets = service.targets
        self._retiring = retiring
        service.cache.on_outcome(self._note_load)

    def follows(self, name: str) -> bool:
        """Whether the name answers with what lies in the repository.

        It does not where a client has unloaded it, or has sent files or options for it, nor where it is a process's.
        """
        withdrawn = self._targets.withdrawn.get(name)
        if name in self._targets.processes or name in self.folders or (withdrawn and withdrawn.reason == UNLOADED):
            return False
        return not any(target.models[0].change for target in self._targets.versions(name))

    def names(self) -> set[str]:
        """What answers with, or could not be served of, what lies in the repository."""
        served = {target.name for target in self._targets if target.process is None}
        return {name for name in served | {name for name, _ in self._targets.broken} if self.follows(name)}

    def differs(self, name: str, infos: Sequence[ModelInfo]) -> bool:
        """Whether other versions of a model lie in the repository than those that answer, or could not be served."""
        prepared = [target for info in infos if (target := self._targets.prepare(info)) is not None]
        problems = {(info.name, info.version): info.problem for info in infos if info.problem}
        known = {key: info.problem for key, info in self._targets.broken.items() if key[0] == name}
        return (prepared, problems) != (self._targets.versions(name), known)

    def follow(self, root: Path) -> None:
        """Read a name anew also when one of its models turns out to have changed."""
        self._service.worker.loading.read_anew = partial(self.refresh, root=root)

    async def refresh(self, name: str, root: Path) -> None:
        """Have what lies in the repository now answer to the name, as far as it loads; for changes of its files.

        A name that nothing has answered to is loaded at its first request, as after a start.

        Raises:
            NdserveError: the repository cannot be read, or what is new there does not load.
        """
        async with self.once.hold(name):
            if self.follows(name):
                infos = await asyncio.to_thread(read_repository, root, name)
                if not self.differs(name, infos):
                    return
                await self.adopt(name, infos)
                served = ", ".join(target.version for target in self._targets.versions(name)) or "none"
                logger.info("%s: the model folder has changed; served is version %s", name, served)
                for info in self._targets.broken.values():
                    if info.name == name:
                        logger.warning("not served: %s/%s: %s", name, info.version, info.problem)

    async def adopt(
        self,
        name: str,
        infos: Sequence[ModelInfo],
        *,
        eager: bool = False,
        folder: SentFolder | None = None,
        ready: Target | None = None,
    ) -> None:
        """Have these versions of a model answer to its name; whoever calls it holds the name.

        What is new is loaded before it takes over: from another version, or from what the same version was before.

        Args:
            infos: in the order of their versions.
            eager: load one also where nothing is served yet.
            folder: what a client has sent them in. Then it is all of them or none.
            ready: one of them, which is loaded already.

        Raises:
            NdserveError: what was to take over does not load, or is no model. The others answer all the same, and what
                it was to take over from goes on.
        """
        served = {target.version: target for target in self._targets.versions(name)}
        succession = Succession(served, self._targets.default(name), eager=eager, ready=ready)
        try:
            for info in reversed(infos):
                target = ready if ready is not None and ready.version == info.version else self._targets.prepare(info)
                succession.offer(target)
                succession.note(info, target, await self._fault(info, target, succession))
            succession.check(whole=folder is not None)
        except BaseException:
            self.drop(succession.fresh)
            raise
        self._install(name, succession, folder)
        failures = succession.failures
        self._note_faults(name, served, failures)
        for target in succession.accepted:
            if target.version in failures:
                self._retry_later(target)
        if failures:
            raise next(iter(failures.values()))

    def _install(self, name: str, succession: Succession, folder: SentFolder | None) -> None:
        """Have what is to answer to the name do so, and retire what did."""
        former_folder = self.folders.pop(name, None)
        if folder is not None:
            self.folders[name] = folder
        self._retiring.add(self._targets.replace(name, succession.answering, succession.broken), former_folder)
        self.drop(succession.refused)
        self._keep_pins(succession.accepted)

    async def _fault(self, info: ModelInfo, target: Target | None, succession: Succession) -> NdserveError | None:
        """Why a version cannot take over; None where it can, or where that is not to be tried now."""
        if target is None:
            return unusable(info)
        if succession.must_load(target):
            try:
                await self.warm(target, succession.instead_of(target))
            except NdserveError as error:
                return error
        return None

    async def warm(self, target: Target, instead_of: Sequence[Target] = ()) -> None:
        """Load a target's models, which may take the room of what they are to replace.

        Raises:
            NdserveError: as `ModelCache.loaded` says.
        """
        await self._service.worker.loading.warm(target, instead_of)

    def drop(self, targets: Iterable[Target]) -> None:
        """Let go of models that nothing has come of."""
        for target in targets:
            self._targets.forgive(target)
            for info in target.models:
                self._service.cache.drop(info)

    def _keep_pins(self, targets: Iterable[Target]) -> None:
        """What a client has said of a model's pin holds for its new files, and for its new versions."""
        for target in targets:
            pinned = self.pins.get((target.name, target.version), self.pins.get((target.name, None)))
            if pinned is not None:
                self._service.cache.pin(target.models[0], pinned=pinned)

    def _note_faults(self, name: str, served: Iterable[str], failures: dict[str, NdserveError]) -> None:
        for version in [version for known, version in self.faults if known == name]:
            del self.faults[name, version]
        self.faults |= {(name, version): error.message for version, error in failures.items() if version in served}

    def _note_load(self, info: ModelInfo, failed: bool) -> None:
        """Have another version be the default where one does not load, and that one again once it does."""
        retired = self._targets.note_load(info, failed=failed)
        if retired:
            self._retiring.add(retired)
        target = self._targets.served(info.name, info.version)
        if failed and target is not None and target.models == (info,):
            self._retry_later(target)

    def _retry_later(self, target: Target) -> None:
        """Try again in a while what is newer than the default and did not load: that may not be its own fault."""
        known, default = self._service.cache.known(target.models[0]), self._targets.default(target.name)
        if is_newer(target, default) and known.failures < MOST_DOUBLINGS:
            job = asyncio.create_task(self._retry(target, max(0.0, known.retry_at - self._service.clock())))
            self._jobs.add(job)  # the loop alone would not keep it alive
            job.add_done_callback(self._jobs.discard)

    async def _retry(self, target: Target, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._targets.served(target.name, target.version) is target and not self._service.closing:
            with contextlib.suppress(NdserveError):  # which the cache has noted
                await self.warm(target)

    async def close(self) -> None:
        """Give up what is tried again."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)


def read_repository(root: Path, name: str) -> list[ModelInfo]:
    """Every version of a model in the repository.

    Raises:
        ModelLoadError: it cannot be read, or holds one version twice.
    """
    try:
        return repository.scan(root, name)
    except OSError as error:
        raise ModelLoadError(f"the model repository cannot be read: {error.strerror}") from None
    except StartupError:  # its message is for the operator, and names files
        raise ModelLoadError(f"one version of {name!r} lies in the model repository twice; remove one") from None

"""What is no longer found, and goes once the tasks that were admitted to it have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ndserve.engine.service import InferenceService
from ndserve.engine.target import Target
from ndserve.model_cache.disk.sent import SentFolder
from ndserve.model_info import ModelInfo


class Retiring:
    """Forgets targets, and lets go of the models and folders that no other target has."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._targets = service.targets
        self._jobs: dict[asyncio.Task[None], Sequence[Target]] = {}
        self._leaving: list[tuple[SentFolder, list[ModelInfo]]] = []  # and the models that lie in them

    def add(self, targets: Sequence[Target], folder: SentFolder | None = None) -> asyncio.Task[None]:
        """Retire these targets, with the folder of files that a client has sent for them; ends when they are gone."""
        if folder is not None:
            self._leaving.append((folder, [info for target in targets for info in target.models]))
        job = asyncio.create_task(self._let_go(targets))
        self._jobs[job] = targets  # the loop alone would not keep it alive
        job.add_done_callback(self._jobs.pop)
        return job

    def has(self, target: Target) -> bool:
        """Whether tasks of a retired target are still there."""
        return any(target in targets for targets in self._jobs.values())

    async def all_gone(self) -> None:
        """Wait until everything that is retired now has been forgotten."""
        await asyncio.gather(*self._jobs)

    async def gone(self, name: str) -> None:
        """Wait until all that is retired of one name has been forgotten."""
        jobs = [job for job, targets in self._jobs.items() if any(target.name == name for target in targets)]
        if jobs:
            await asyncio.wait(jobs)

    async def close(self) -> None:
        """Stop waiting, and remove the files that clients have sent."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        for folder, _ in self._leaving:
            await asyncio.to_thread(folder.cleanup)

    async def _let_go(self, targets: Sequence[Target]) -> None:
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

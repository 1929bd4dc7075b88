"""Follows the model repository: what is added, changed or removed there is served, or no more, a moment later."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path

from ndserve.engine.takeover import Takeover
from ndserve.errors import ModelMemoryFullError, NdserveError, StartupError
from ndserve.model_cache.disk import repository
from ndserve.model_info import ModelInfo

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 0.5
"""How long files must have been left alone before they are read, since they may still be written."""

ROOM_SECONDS = 10.0
"""After how long a version is tried again for which there was no room."""


class Settling:
    """Names that have changed, until they have been left alone for long enough. Pure."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def note(self, names: Iterable[str], due: float) -> None:
        """These names are to be looked at, and not before `due`; a later word counts."""
        for name in names:
            self._due[name] = due

    def take(self, now: float) -> list[str]:
        """The names that are to be looked at now."""
        settled = sorted(name for name, due in self._due.items() if due <= now)
        for name in settled:
            del self._due[name]
        return settled


class Follower:
    """Has the names of models answer with what lies in the repository."""

    def __init__(
        self,
        takeover: Takeover,
        root: Path,
        changes: Callable[[], AsyncGenerator[set[str], None]],
        clock: Callable[[], float],
        mishap_seconds: float = 5.0,
    ) -> None:
        """`changes` gives the names that have changed under `root`, and empty sets in between.

        Where that comes to an end, the folder is watched again after `mishap_seconds`.
        """
        self._takeover = takeover
        self._root = root
        self._changes = changes
        self._clock = clock
        self._mishap_seconds = mishap_seconds
        self._settling = Settling()
        self._task: asyncio.Task[None] | None = None
        self._jobs: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        self._takeover.follow(self._root)
        self._task = asyncio.create_task(self._follow_on())

    async def close(self) -> None:
        """Follow no more, and give up what is being loaded."""
        tasks = [*self._jobs.values(), *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_on(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception as error:  # whatever the watcher raises, the server goes on
                logger.warning("the model folder cannot be watched, and is tried again: %s", error)
            await asyncio.sleep(self._mishap_seconds)

    async def _follow(self) -> None:
        caught_up = False
        async with contextlib.aclosing(self._changes()) as changes:
            async for names in changes:
                now = self._clock()
                self._settling.note(names, now + SETTLE_SECONDS)
                if not caught_up:
                    self._settling.note(await self._missed(), now + SETTLE_SECONDS)
                    caught_up = True
                for name in self._settling.take(now):
                    self._begin(name, now)

    async def _missed(self) -> list[str]:
        """The names that have changed while nobody watched."""
        found: dict[str, list[ModelInfo]] = {}
        try:
            for info in await asyncio.to_thread(repository.scan, self._root):
                found.setdefault(info.name, []).append(info)
        except StartupError:  # one model lies there twice, which is for its own refresh to tell
            return await asyncio.to_thread(repository.names, self._root)
        return [name for name in {*found, *self._takeover.names()} if self._takeover.differs(name, found.get(name, []))]

    def _begin(self, name: str, now: float) -> None:
        """Look at a name beside all the others: what it has may take long to load."""
        if name in self._jobs:
            self._settling.note([name], now + SETTLE_SECONDS)
            return
        job = self._jobs[name] = asyncio.create_task(self._refresh(name))
        job.add_done_callback(lambda _: self._jobs.pop(name))

    async def _refresh(self, name: str) -> None:
        try:
            await self._takeover.refresh(name, self._root)
        except ModelMemoryFullError as error:
            logger.warning("%s: %s", name, error)
            self._settling.note([name], self._clock() + ROOM_SECONDS)
        except NdserveError as error:
            logger.warning("%s: what the model folder has now is not served: %s", name, error)
        except Exception:
            logger.exception("%s: the model folder could not be followed", name)

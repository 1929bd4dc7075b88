"""A store that outlives its service, as far as a test can see: it commits when the test says so, or refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from ndserve.stores.base import Closing, Delivery, Group
from ndserve.stores.memory import MemoryStore
from ndserve.types import Task

Commit = asyncio.Future[None]


class DurableFake(MemoryStore):
    """What is changed is visible at once, but each commit waits for the test unless `prompt`."""

    durable = True

    def __init__(self, unfinished: Sequence[Task] = (), *, prompt: bool = False) -> None:
        super().__init__(1000, 1 << 30)
        self.prompt = prompt
        self.puts: list[Commit] = []
        self.finishes: list[Commit] = []
        self.started: list[tuple[str, float]] = []
        self.finished: list[tuple[list[Task], list[Delivery], list[Closing]]] = []
        self._unfinished = list(unfinished)

    async def unfinished(self) -> list[Task]:
        for task in self._unfinished:
            task.kept = True
            super().put([task], task.created)
        return self._unfinished

    def put(self, tasks: Sequence[Task], now: float, group: Group | None = None) -> Awaitable[None]:
        super().put(tasks, now, group)
        return self._commit(self.puts)

    def start(self, tasks: Sequence[Task], now: float) -> None:
        self.started += [(task.id, now) for task in tasks]

    def finish(
        self, tasks: Sequence[Task], deliveries: Sequence[Delivery] = (), closing: Sequence[Closing] = ()
    ) -> Awaitable[None]:
        super().finish(tasks, deliveries, closing)
        self.finished.append((list(tasks), list(deliveries), list(closing)))
        return self._commit(self.finishes)

    def commit(self) -> None:
        """Have everything safe that was changed so far, and from now on at once."""
        self.prompt = True
        for commit in self.puts + self.finishes:
            if not commit.done():
                commit.set_result(None)

    def _commit(self, commits: list[Commit]) -> Awaitable[None]:
        commit: Commit = asyncio.get_running_loop().create_future()
        commits.append(commit)
        if self.prompt:
            commit.set_result(None)
        return commit

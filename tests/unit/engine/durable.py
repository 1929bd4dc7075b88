"""A store that outlives its service, as far as a test can see: it commits when the test says so, or refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence

from ndserve.stores.base import Closing, Delivery, Gone, Group
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
        self.reopened: list[str] = []
        self.gate: Commit | None = None
        """Where set, what stands in front of `reopen` and `remove`."""
        self._unfinished = list(unfinished)
        self._latest: Sequence[Task] = ()

    async def unfinished(self) -> list[Task]:
        for task in self._unfinished:
            task.kept = True
            super().put([task], task.created)
        return self._unfinished

    def put(self, tasks: Sequence[Task], now: float, group: Group | None = None) -> Awaitable[None]:
        super().put(tasks, now, group)
        self._latest = tasks
        return self._commit(self.puts)

    def refuse(self, error: Exception) -> None:
        """Have the latest `put` end with an error; what it brought is not there, as if it had never come."""
        for task in self._latest:
            self._remove(task, Gone("refused"), 0.0)
            del self._traces[task.id]
            self._traces.pop(task.group or "", None)
        self.puts[-1].set_exception(error)

    def start(self, tasks: Sequence[Task], now: float) -> None:
        self.started += [(task.id, now) for task in tasks]

    def finish(
        self, tasks: Sequence[Task], deliveries: Sequence[Delivery] = (), closing: Sequence[Closing] = ()
    ) -> Awaitable[None]:
        # What was refused may have ended before its service heard of that.
        there = [task for task in tasks if self._tasks.get(task.id) is task]
        super().finish(there, deliveries, [closed for closed in closing if closed.group in self._groups])
        self.finished.append((list(tasks), list(deliveries), list(closing)))
        return self._commit(self.finishes)

    async def reopen(self, task: Task, now: float) -> Task:
        if self.gate is not None:
            await asyncio.shield(self.gate)
        self.reopened.append(task.id)
        return await super().reopen(task, now)

    def remove(self, tasks: Sequence[Task], gone: Gone, now: float) -> Awaitable[object]:
        return self._remove_after(self.gate, tasks, gone, now)

    async def _remove_after(self, gate: Commit | None, tasks: Sequence[Task], gone: Gone, now: float) -> None:
        if gate is not None:
            await asyncio.shield(gate)
        await super().remove(tasks, gone, now)

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

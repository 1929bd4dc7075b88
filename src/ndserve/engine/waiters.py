"""Who waits for which task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ndserve.types import Task


class Waiters:
    """Futures that are done as soon as their task has ended. A task that nobody waits for costs nothing."""

    def __init__(self) -> None:
        self._futures: dict[str, list[asyncio.Future[bool]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._futures.values()))

    def add(self, task: Task) -> asyncio.Future[bool]:
        """A future that gives True when this live task ends; `remove` it if it is given up before."""
        future = asyncio.get_running_loop().create_future()
        futures = self._futures.get(task.id)
        if futures is None:
            self._futures[task.id] = [future]
        else:
            futures.append(future)
        return future

    def remove(self, task: Task, future: asyncio.Future[bool]) -> None:
        futures = self._futures.get(task.id, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[task.id]

    def wake(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            for future in self._futures.pop(task.id, ()):
                if not future.done():
                    future.set_result(True)

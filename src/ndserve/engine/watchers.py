"""Who follows a task's course, event by event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ndserve.types import Task


class Watchers:
    """An event for each follower of a task, set whenever something about the task has changed."""

    def __init__(self) -> None:
        self._watching: dict[str, list[asyncio.Event]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._watching.values()))

    @contextmanager
    def watch(self, task_id: str) -> Iterator[asyncio.Event]:
        changed = asyncio.Event()
        watching = self._watching.setdefault(task_id, [])
        watching.append(changed)
        try:
            yield changed
        finally:
            watching.remove(changed)
            if not watching and self._watching.get(task_id) is watching:
                del self._watching[task_id]

    def notify(self, task: Task) -> None:
        for changed in self._watching.get(task.id, ()):
            changed.set()

    def notify_all(self) -> None:
        for watching in self._watching.values():
            for changed in watching:
                changed.set()

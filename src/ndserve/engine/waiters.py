"""Who waits for which task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ndserve.types import Task

PATIENCE = 0.05
"""Seconds, up to twice as many, after which `add_patient` gives up."""

Waiter = asyncio.Future[bool]
"""Gives True when its task ends, False when the wait is to be looked at again."""


class Waiters:
    """Futures that are done as soon as their task has ended. A task that nobody waits for costs nothing."""

    def __init__(self) -> None:
        self._waiters: dict[str, list[Waiter]] = {}
        self._young: list[Waiter] = []
        self._old: list[Waiter] = []

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

    def add(self, task: Task) -> Waiter:
        """A waiter for a live task; `remove` it if it is given up before."""
        return self._add(task, asyncio.get_running_loop())

    def add_patient(self, task: Task) -> Waiter:
        """The same, but it gives False after `PATIENCE`.

        One timer serves all of them, because most tasks end sooner and a timer each would cost more than the
        waiting.
        """
        loop = asyncio.get_running_loop()
        waiter = self._add(task, loop)
        if not self._young and not self._old:
            loop.call_later(PATIENCE, self._tick, loop)
        self._young.append(waiter)
        return waiter

    def remove(self, task: Task, waiter: Waiter) -> None:
        waiters = self._waiters.get(task.id, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[task.id]

    def wake(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            for waiter in self._waiters.pop(task.id, ()):
                if not waiter.done():
                    waiter.set_result(True)

    def _add(self, task: Task, loop: asyncio.AbstractEventLoop) -> Waiter:
        waiter: Waiter = loop.create_future()
        waiters = self._waiters.get(task.id)
        if waiters is None:
            self._waiters[task.id] = [waiter]
        else:
            waiters.append(waiter)
        return waiter

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        for waiter in self._old:
            nudge(waiter)
        self._old, self._young = self._young, []
        if self._old:
            loop.call_later(PATIENCE, self._tick, loop)


def nudge(waiter: Waiter) -> None:
    """Wake a waiter although its task has not ended."""
    if not waiter.done():
        waiter.set_result(False)

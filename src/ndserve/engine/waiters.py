"""Who waits for the end of what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

PATIENCE = 0.05
"""Seconds, up to twice as many, after which `add_patient` gives up."""

Waiter = asyncio.Future[bool]
"""Gives True when its task has ended, False when the wait is to be looked at again."""


class Waiters:
    """Futures that are done as soon as a task, or a group of tasks, has ended.

    An id that nobody waits for costs nothing. Once `closed`, nobody waits any more.
    """

    def __init__(self) -> None:
        self.closed = False
        self._waiters: dict[str, list[Waiter]] = {}
        self._young: list[Waiter] = []
        self._old: list[Waiter] = []

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

    def add(self, task_id: str) -> Waiter:
        """A waiter for what has not ended; `remove` it if it is given up before."""
        return self._add(task_id, asyncio.get_running_loop())

    def add_patient(self, task_id: str) -> Waiter:
        """The same, but it gives False after `PATIENCE`.

        One timer serves all of them, because most tasks end sooner and a timer each would cost more than the
        waiting.
        """
        loop = asyncio.get_running_loop()
        waiter = self._add(task_id, loop)
        if not self._young and not self._old:
            loop.call_later(PATIENCE, self._tick, loop)
        self._young.append(waiter)
        return waiter

    def remove(self, task_id: str, waiter: Waiter) -> None:
        waiters = self._waiters.get(task_id, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[task_id]

    def wake(self, ids: Iterable[str]) -> None:
        for task_id in ids:
            for waiter in self._waiters.pop(task_id, ()):
                if not waiter.done():
                    waiter.set_result(True)

    def close(self) -> None:
        """Have everybody look again, and nobody wait from now on."""
        self.closed = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                nudge(waiter)
        self._waiters.clear()

    def _add(self, task_id: str, loop: asyncio.AbstractEventLoop) -> Waiter:
        waiter: Waiter = loop.create_future()
        if self.closed:
            waiter.set_result(False)
            return waiter
        waiters = self._waiters.get(task_id)
        if waiters is None:
            self._waiters[task_id] = [waiter]
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

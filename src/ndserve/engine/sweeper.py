"""Removes from the store what has expired."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ndserve.stores.base import TaskStore

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
SWEEP_TASKS = 200
"""Tasks removed at a time: few enough for commits in between."""


class Sweeper:
    """Sweeps a store from time to time, a little at a time."""

    def __init__(self, store: TaskStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            removed = 0
            try:
                removed = await self._store.sweep(self._clock(), SWEEP_TASKS)
            except Exception:  # what could not be removed now is removed next time
                logger.exception("the task store could not be swept")
            await asyncio.sleep(0 if removed == SWEEP_TASKS else SWEEP_SECONDS)

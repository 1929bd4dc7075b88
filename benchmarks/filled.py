"""A data directory with many finished tasks, as a server that has been busy for a while leaves it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np

from ndserve.engine.ids import RandomIds
from ndserve.stores import open_store
from ndserve.types import BatchKey, Task, TaskState

CHUNK = 1000


def fill(folder: Path, number: int) -> list[str]:
    """Put that many finished tasks of 64 bytes into a new store; gives their ids."""
    return asyncio.run(_fill(folder, number))


async def _fill(folder: Path, number: int) -> list[str]:
    store = open_store("sqlite", folder=folder, durability="normal", max_tasks=10 * number, max_bytes=1 << 40)
    await store.unfinished()
    array, ids, given = np.ones((1, 16), np.float32), RandomIds(), []
    key = BatchKey("tiny", "1", (), (("x", array.dtype, (16,)),))
    for _ in range(0, number, CHUNK):
        now = time.time()
        tasks = [Task(ids.next(now), key, {"x": array}, 1, False, now) for _ in range(CHUNK)]
        await store.put(tasks, now)
        for task in tasks:
            task.start(now, "cpu")
            task.settle(TaskState.SUCCEEDED, now, outputs={"y": array})
            task.expires = now + 24 * 3600
        await store.finish(tasks)
        given += [task.id for task in tasks]
    await store.close()
    return given

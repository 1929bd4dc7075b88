"""What is the memory store's own: it answers at once, bounds its traces, and lets arrays go."""

from __future__ import annotations

import asyncio
import weakref

import numpy as np
import pytest

from ndserve.stores import memory
from ndserve.stores.base import DONE, Gone
from ndserve.stores.memory import MemoryStore
from tests.contract.stores import TTL, end, new


def test_nothing_is_waited_for() -> None:
    store = MemoryStore(10, 100)
    task = new(1)
    assert store.put([task], 0.0) is DONE
    assert store.finish([end(task, 1.0)]) is DONE


def test_the_oldest_traces_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_TRACES", 3)
    store = MemoryStore(10, 100)
    tasks = [new(number) for number in range(5)]
    store.put(tasks, 0.0)
    store.finish([end(task, 0.0) for task in tasks])
    store.sweep(TTL, 10)

    async def traces() -> list[bool]:
        return [isinstance(await store.get(task.id), Gone) for task in tasks]

    assert asyncio.run(traces()) == [False, False, True, True, True]


@pytest.mark.parametrize("how", ["sweep", "room", "close"])
def test_the_arrays_of_a_removed_task_are_freed(how: str) -> None:
    store = MemoryStore(1, 100)
    task = new(1)
    output = np.zeros(4, np.uint8)
    arrays = [weakref.ref(output), weakref.ref(task.inputs["x"])]
    store.put([task], 0.0)
    store.finish([end(task, 0.0)])
    task.outputs = {"output": output}
    store.delivered(task)
    del task, output
    if how == "sweep":
        store.sweep(TTL, 1)
    elif how == "room":
        store.put([new(2)], 0.0)
    else:
        asyncio.run(store.close())
    assert [array() for array in arrays] == [None, None]

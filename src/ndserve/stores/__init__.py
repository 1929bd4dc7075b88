"""Task stores: where tasks and results are kept. `open_store` is the lookup by name."""

from __future__ import annotations

from collections.abc import Callable

from ndserve.stores.base import TaskStore
from ndserve.stores.memory import MemoryStore

StoreOpener = Callable[[float, int, int], TaskStore]

STORES: dict[str, StoreOpener] = {"memory": MemoryStore}


def open_store(name: str, *, ttl: float, max_tasks: int, max_bytes: int) -> TaskStore:
    """The store of that name. `ttl` is the seconds for which a result is kept after its task's end."""
    return STORES[name](ttl, max_tasks, max_bytes)

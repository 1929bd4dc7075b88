"""Task stores: where tasks and results are kept. `open_store` is the lookup by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ndserve.stores.base import TaskStore
from ndserve.stores.memory import MemoryStore
from ndserve.stores.sqlite import SqliteStore

StoreOpener = Callable[[Path, str, int, int], TaskStore]

STORES: dict[str, StoreOpener] = {
    "memory": lambda folder, durability, max_tasks, max_bytes: MemoryStore(max_tasks, max_bytes),
    "sqlite": SqliteStore,
}


def open_store(name: str, *, folder: Path, durability: str, max_tasks: int, max_bytes: int) -> TaskStore:
    """The store of that name; what lies in `folder` is read by its `unfinished`."""
    return STORES[name](folder, durability, max_tasks, max_bytes)

"""What the tests of the task stores share: a loop, an open store, tasks in every state."""

from __future__ import annotations

import asyncio
import functools
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias

import numpy as np
import pytest

from ndserve import byte_strings
from ndserve.errors import NdserveError, StoreFullError
from ndserve.stores import STORES, open_store
from ndserve.stores.base import Closing, Delivery, Gone, Group, TaskStore
from ndserve.types import DEFAULT_OPTIONS, BatchKey, Failure, HostArray, Task, TaskOptions, TaskState, Tensors

TTL = 60.0
DAY = 24 * 3600.0
KEY = BatchKey("normalize", "", (), (("x", np.dtype(np.uint8), (8,)),))
FAILURE = Failure("execution_failed", "no", 500)

P = ParamSpec("P")


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def make(name: str, folder: Path, *, max_tasks: int = 1000, max_bytes: int = 10**7) -> TaskStore:
    return open_store(name, folder=folder, durability="normal", max_tasks=max_tasks, max_bytes=max_bytes)


DURABLE = [name for name in sorted(STORES) if make(name, Path()).durable]


@asynccontextmanager
async def opened(
    name: str, folder: Path | None = None, /, *, max_tasks: int = 1000, max_bytes: int = 10**7
) -> AsyncIterator[TaskStore]:
    """The store, open; in a folder that goes with it where none is given."""
    kept = folder or Path(tempfile.mkdtemp())
    store = make(name, kept, max_tasks=max_tasks, max_bytes=max_bytes)
    try:
        await store.unfinished()
        yield store
    finally:
        await store.close()
        if folder is None:
            shutil.rmtree(kept)


@asynccontextmanager
async def resumed(name: str, folder: Path, *, max_tasks: int = 1000) -> AsyncIterator[tuple[TaskStore, list[Task]]]:
    """The store on a folder that another one has left, and the tasks that it has not finished."""
    store = make(name, folder, max_tasks=max_tasks)
    try:
        yield store, await store.unfinished()
    finally:
        await store.close()


def killed(folder: Path) -> Path:
    """What `kill -9` would leave: a copy made while the store is open. The lock does not travel with it."""
    copy = folder.with_name(folder.name + "-killed")
    shutil.copytree(folder, copy)
    return copy


def zeros(nbytes: int) -> HostArray:
    return np.zeros((1, nbytes), np.uint8)


def new(
    number: int,
    nbytes: int = 8,
    *,
    created: float = 0.0,
    options: TaskOptions = DEFAULT_OPTIONS,
    group: str | None = None,
    inputs: Tensors | None = None,
    key: BatchKey = KEY,
) -> Task:
    given = {"x": zeros(nbytes)} if inputs is None else inputs
    return Task(f"{number:032x}", key, given, 1, True, created, options, group)


def members(numbers: range, group: Group) -> list[Task]:
    return [new(number, group=group.id) for number in numbers]


def a_group(name: str = "group-1", total: int = 2, key: str | None = None) -> Group:
    return Group(name, "normalize", "", total, 0.0, key, "print of the request" if key else "")


def a_delivery(name: str, due: float) -> Delivery:
    return Delivery(name, f"http://there/{name}", b'{"id": "%s"}' % name.encode(), 0, due)


def end(task: Task, now: float, nbytes: int = 8, *, outputs: Tensors | None = None) -> Task:
    """Let it succeed; what the ledger does before `finish`."""
    task.start(now)
    task.settle(TaskState.SUCCEEDED, now, outputs={"output": zeros(nbytes)} if outputs is None else outputs)
    return _to_expire(task, now)


def fail(task: Task, now: float) -> Task:
    task.start(now)
    task.settle(TaskState.FAILED, now, failure=FAILURE)
    return _to_expire(task, now)


def cancel(task: Task, now: float) -> Task:
    task.settle(TaskState.CANCELLED, now)
    return _to_expire(task, now)


def _to_expire(task: Task, now: float) -> Task:
    if task.group is None:
        task.expires = now + TTL
    return task


async def put(store: TaskStore, tasks: Sequence[Task], now: float = 0.0, group: Group | None = None) -> None:
    """Put, as the service does."""
    await store.put(tasks, now, group)
    for task in tasks:
        task.kept = True


async def finish(
    store: TaskStore, tasks: Sequence[Task], deliveries: Sequence[Delivery] = (), closing: Sequence[Closing] = ()
) -> None:
    """Finish, and make the ends public, as the ledger does."""
    await store.finish(tasks, deliveries, closing)
    for task in tasks:
        task.public = True


async def put_ended(store: TaskStore, numbers: range, now: float = 0.0, *, delivered: bool = False) -> list[Task]:
    tasks = [new(number, created=now) for number in numbers]
    await put(store, tasks, now)
    await finish(store, [end(task, now) for task in tasks])
    for task in tasks if delivered else ():
        store.delivered(task)
    return tasks


async def found(store: TaskStore, task_id: str) -> Task:
    task = await store.get(task_id)
    assert isinstance(task, Task)
    return task


async def what_is_left(store: TaskStore, tasks: Sequence[Task]) -> list[str]:
    """For each task: `task`, `gone` or `none`."""
    kinds = {Task: "task", Gone: "gone", type(None): "none"}
    return [kinds[type(await store.get(task.id))] for task in tasks]


async def settled(store: TaskStore) -> None:
    """Return when all that was asked of the store has been done, such as the removal of results that made room."""
    await store.finish([])


async def refusal(putting: Callable[[], Awaitable[None]]) -> NdserveError:
    with pytest.raises(NdserveError) as raised:
        await putting()
    return raised.value


async def refused(putting: Callable[[], Awaitable[None]]) -> StoreFullError:
    error = await refusal(putting)
    assert isinstance(error, StoreFullError)
    return error


Facts: TypeAlias = dict[str, object]

FACTS = (
    *("id", "rows", "single", "created", "options", "group", "state", "attempts", "started", "run_by", "ended"),
    *("expires", "failure", "live", "public", "seq", "device", "load_seconds", "store_seconds", "progress", "nbytes"),
)


def facts(task: Task) -> Facts:
    """All that a store must give back of a task, save the arrays."""
    key = task.key
    return {"key": (key.target, key.version, key.parameters)} | {name: getattr(task, name) for name in FACTS}


def bits(tensors: Tensors | None) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], bytes]] | None:
    """Arrays so that they compare bit for bit."""
    if tensors is None:
        return None
    return {name: (array.dtype, array.shape, _raw(array)) for name, array in tensors.items()}


def _raw(array: HostArray) -> bytes:
    return byte_strings.pack(array) if array.dtype.hasobject else array.tobytes()

"""What the engine's tests build on: a clock that stands still, a gate to hold a thread at, fake models, a service.

Everything but the models is the real thing. A model here is a plain class with `info` and `run`, so that a test can
see and steer every call.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ndserve.devices.base import Device
from ndserve.devices.cpu import CpuDevice
from ndserve.engine.lane import Lane
from ndserve.engine.ledger import Ledger
from ndserve.engine.service import InferenceService, QueueBounds
from ndserve.engine.target import BatchDefaults
from ndserve.engine.targets import Targets
from ndserve.model_cache import batch_safety
from ndserve.model_cache.cache import ModelCache, Patience
from ndserve.model_cache.costs import Cost
from ndserve.model_cache.on_host import host_run
from ndserve.model_cache.residency import Loaded
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo, ModelOptions
from ndserve.processes.base import Process, process
from ndserve.stores.base import TaskStore
from ndserve.stores.memory import MemoryStore
from ndserve.types import Array, BatchKey, HostArray, Task, Tensors, TensorSpec

T = TypeVar("T")

HANG = 20.0
"""Seconds after which a test that hangs is ended with an error. No test waits for it."""

FLOAT = np.dtype("float32")
ROOMY = QueueBounds(100_000, 1 << 40)
PATIENCE = Patience(load_wait=HANG, load_retry=0.0)


class Clock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """Holds the thread that passes it until the test opens it. An open gate lets everyone through."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def hold(self) -> None:
        """Called where the thread is to stand still."""
        self._reached.set()
        assert self._opened.wait(HANG), "the test has not opened the gate"

    def open(self) -> None:
        self._opened.set()

    async def reached(self) -> None:
        """Wait until a thread stands at the gate."""
        assert await asyncio.to_thread(self._reached.wait, HANG), "nobody has come to the gate"


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine. An exception that nobody catches in a callback of the loop ends it at once."""

    async def guarded() -> T:
        this = asyncio.current_task()
        assert this is not None
        lost: list[str] = []

        def on_lost(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            lost.append(f"{context['message']}: {context.get('exception')!r}")
            this.cancel()

        asyncio.get_running_loop().set_exception_handler(on_lost)
        try:
            async with asyncio.timeout(HANG):
                return await main
        except asyncio.CancelledError:
            assert not lost, f"the loop has lost an exception: {lost}"
            raise

    return asyncio.run(guarded())


async def tick(turns: int = 5) -> None:
    """Let the loop do what is due now."""
    for _ in range(turns):
        await asyncio.sleep(0)


def model_info(
    name: str = "m",
    version: str = "1",
    *,
    axes: tuple[int | None, ...] | None = (None, 4),
    outputs: tuple[int | None, ...] | None = (None, 4),
    nbytes: int = 10,
    options: ModelOptions | None = None,
    problem: str = "",
) -> ModelInfo:
    """A float32 model with the input `x` and the output `y`."""
    path = Path(f"models/{name}/{version}/model.onnx")
    inputs, gives = (TensorSpec("x", FLOAT, axes),), (TensorSpec("y", FLOAT, outputs),)
    return ModelInfo(name, version, path, nbytes, inputs, gives, options or ModelOptions(), problem)


class FakeSession:
    """A model on the device: `function` is what it computes, and `rows` the length of every call so far."""

    def __init__(self, info: ModelInfo, function: Callable[[Array], Array]) -> None:
        self.info = info
        self.rows: list[int] = []
        self._function = function

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        (array,) = inputs.values()
        self.rows.append(len(array))
        return {self.info.outputs[0].name: self._function(array)}


@dataclass
class Shelf:
    """Where the cache opens its sessions: the functions by model name, and the names opened so far."""

    functions: dict[str, Callable[[Array], Array]] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    sessions: dict[str, FakeSession] = field(default_factory=dict)
    on_open: Callable[[ModelInfo], object] = lambda info: None

    def open(self, info: ModelInfo) -> Session:
        self.opened.append(info.name)
        self.on_open(info)
        session = self.sessions[info.name] = FakeSession(info, self.functions.get(info.name, double))
        return cast(Session, session)


class ShelfLoads:
    """The cache's loads from a shelf: of the size that the model says, and with a trial of its batch safety."""

    def __init__(self, shelf: Shelf, device: Device) -> None:
        self._shelf = shelf
        self._device = device

    def known_cost(self, info: ModelInfo) -> Cost:
        return Cost(info.nbytes, info.nbytes, measured=False)

    def cost(self, info: ModelInfo) -> Cost:
        return self.known_cost(info)

    def load(self, info: ModelInfo, cost: Cost, *, judge: bool) -> Loaded:
        session = self._shelf.open(info)
        run = host_run(self._device, session.run)
        with self._device:
            return Loaded(session, verdict=batch_safety.at_load(run, info) if judge else None)

    def known_digest(self, info: ModelInfo) -> str | None:
        return None

    def gone(self, nbytes: int) -> None:
        pass


def double(array: Array) -> Array:
    return array * np.float32(2)


@asynccontextmanager
async def serving(
    *processes: Process,
    models: Sequence[ModelInfo] = (),
    shelf: Shelf | None = None,
    device: Device | None = None,
    store: TaskStore | None = None,
    clock: Callable[[], float] | None = None,
    max_batch: int = 32,
    max_wait: float = 0.0,
    bounds: QueueBounds = ROOMY,
    budget: int = 1000,
    on_dead: Callable[[str], None] = lambda reason: None,
    gates: Iterable[Gate] = (),
    start: bool = True,
    patience: Patience = PATIENCE,
) -> AsyncIterator[InferenceService]:
    """A started service; at the end all `gates` are opened, so that its lane can end."""
    clock, device = clock or Clock(), device or CpuDevice()
    service = InferenceService(
        targets=Targets(models, processes, BatchDefaults(max_batch, max_wait)),
        ledger=Ledger(store or MemoryStore(max_tasks=100_000, max_bytes=1 << 40), clock, 3600.0, None),
        cache=ModelCache(ShelfLoads(shelf or Shelf(), device), budget, clock, patience),
        lane=Lane(device),
        bounds=bounds,
        clock=clock,
        on_dead=on_dead,
    )
    try:
        if start:
            await service.start()
        yield service
    finally:
        for gate in gates:
            gate.open()
        await service.close()


async def ended(service: InferenceService, *tasks: Task) -> None:
    """Wait until all of these tasks have ended."""
    await asyncio.gather(*(service.waiters.add(task.id) for task in tasks if not task.public))


async def all_closed(service: InferenceService) -> None:
    """Wait until every session that was let go of is closed."""
    await asyncio.get_running_loop().run_in_executor(service.cache._books._closer, int)
    await tick()


def check_empty(service: InferenceService) -> None:
    """Nothing is left of tasks that have all ended."""
    ledger = service.ledger
    assert (ledger.live, ledger.nbytes, ledger._groups, ledger._commits) == ({}, 0, {}, set())
    assert (len(ledger.waiters), len(ledger.watchers), len(ledger.deadlines)) == (0, 0, 0)
    assert len(service.worker.batcher) == 0


def gated(gate: Gate) -> Process:
    """A process that stands at a gate, gives what it gets, and fails for negative items."""

    @process("gated", batched=True)
    def stand(xp: Any, x: Any) -> Any:
        gate.hold()
        if (x[:, 0] < 0).any():
            raise ValueError("negative")
        return x

    return stand


@process("twice", batched=True)
def twice(xp: Any, x: Any) -> Any:
    return x * 2


def item(*values: float) -> HostArray:
    return np.array(values, np.float32)


def output(task: Task, name: str = "output") -> HostArray:
    assert task.outputs is not None, task.failure
    return task.outputs[name]


def code(task: Task) -> str | None:
    return task.failure.code if task.failure else None


def make_task(task_id: str, key: BatchKey, rows: int = 1, inputs: Tensors | None = None, single: bool = True) -> Task:
    """A task on its own, for what is pure."""
    return Task(task_id, key, inputs if inputs is not None else {}, rows, single, created=0.0)


def batch_key(target: str = "a", version: str = "1", **parameters: int) -> BatchKey:
    return BatchKey(target, version, tuple(parameters.items()), ())

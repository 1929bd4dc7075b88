"""The plain values that every layer speaks: tasks, tensor specs, batches. No I/O, no clock, no policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

HostArray: TypeAlias = npt.NDArray[Any]
"""A NumPy array in the host's memory."""

Array: TypeAlias = Any
"""An array on the device: NumPy's on the CPU, CuPy's on a GPU; it follows the array API standard."""

Tensors: TypeAlias = Mapping[str, HostArray]
"""Host arrays by input or output name."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a model, a version or a process may be called: safe in a URL and as a file name."""

Parameter: TypeAlias = str | int | float | bool


TEXT_NAME = "bytes"
"""What the dtype of texts is called, which are arrays of byte strings."""


def name_of(dtype: np.dtype[Any]) -> str:
    """The name by which callers know a dtype: NumPy's or ml_dtypes' own, and `bytes` for texts."""
    return TEXT_NAME if dtype.hasobject else dtype.name


class TaskState(StrEnum):
    """QUEUED -> RUNNING -> one of the four ends. The values are the wire's words."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


LIVE = frozenset({TaskState.QUEUED, TaskState.RUNNING})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What an input accepts or an output gives.

    `dtype` None accepts any dtype. In `shape`, None stands for a free axis; `shape` None accepts any shape.
    """

    name: str
    dtype: np.dtype[Any] | None = None
    shape: tuple[int | None, ...] | None = None

    def __str__(self) -> str:
        dtype = "any" if self.dtype is None else name_of(self.dtype)
        if self.shape is None:
            return f"{self.name}: {dtype}[...]"
        return f"{self.name}: {dtype}[{', '.join('?' if axis is None else str(axis) for axis in self.shape)}]"


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Tasks with equal keys may be stacked: one target and version, equal parameters, dtypes and trailing shapes.

    `revision` tells apart what the server has had under one name and version, one after the other.
    """

    target: str
    version: str
    parameters: tuple[tuple[str, Parameter], ...]
    signature: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]
    revision: int = 0
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Every task looks its queue up by key, and hashing the nested tuples takes longer than the rest of it.
        object.__setattr__(
            self, "_hash", hash((self.target, self.version, self.revision, self.parameters, self.signature))
        )

    def __hash__(self) -> int:
        return self._hash


class Failure(NamedTuple):
    """Why a task failed: a stable `code`, a sentence for people, and the HTTP status that reports it."""

    code: str
    message: str
    status: int


class Webhook(NamedTuple):
    """Where to send word of a task's end, and of which ends."""

    url: str
    events: tuple[TaskState, ...]


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a caller may ask for beside the arrays. Spans are in seconds; None leaves the server's default in force.

    `priority` runs from 0 to 9, and 9 goes first. A task that has not started `start_within` seconds after it was
    accepted expires; one that has not ended `run_within` seconds after its first start fails. Its outcome is kept for
    `ttl`. `idempotency_key` names the request, and `fingerprint` tells whether another one of that name is the same.
    `version_named` says that the caller has asked for that version of the model, and not for the newest that loads.
    """

    priority: int = 5
    ttl: float | None = None
    start_within: float | None = None
    run_within: float | None = None
    webhook: Webhook | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""
    version_named: bool = False


DEFAULT_OPTIONS = TaskOptions()


class Progress(NamedTuple):
    """What a running process has last said of itself: a fraction from 0 to 1, a word on it, and when."""

    fraction: float
    message: str
    time: float


@dataclass(slots=True, eq=False)
class Task:
    """One accepted piece of work. The event loop owns it; lanes only read `inputs`.

    `inputs` already carry the batch axis where the target has one; `single` says that it was added
    here and leaves again with the result. `rows` is the task's length along the batch axis.

    `live` is True until the end has been decided, and `public` from when the store has that end: nobody is told
    of an end that a crash could undo. `kept` says that the store has the task at all. `group` is the id that the
    tasks of one split array share. `seq` is the store's own number for the task.

    `on_end` is called once the end is public; it does not raise.

    `started` is the latest start and `run_by` the deadline that the first one set. Times are Unix seconds, spans
    seconds. `input_bytes` and `output_bytes` stay when the arrays go.
    """

    id: str
    key: BatchKey
    inputs: Tensors
    rows: int
    single: bool
    created: float
    options: TaskOptions = DEFAULT_OPTIONS
    group: str | None = None
    state: TaskState = TaskState.QUEUED
    attempts: int = 0
    started: float | None = None
    run_by: float | None = None
    ended: float | None = None
    expires: float | None = None
    outputs: Tensors | None = None
    failure: Failure | None = None
    live: bool = True
    kept: bool = False
    public: bool = False
    seq: int = 0
    device: str | None = None
    load_seconds: float = 0.0
    store_seconds: float | None = None
    progress: Progress | None = None
    on_end: Callable[[], object] | None = None
    input_bytes: int = field(init=False)
    output_bytes: int = 0

    def __post_init__(self) -> None:
        self.input_bytes = total_bytes(self.inputs)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that the task stands for: its inputs, or its outputs once it has succeeded.

        A failed task keeps its inputs, so that it can be run again.
        """
        return self.input_bytes if self.live or self.state is TaskState.FAILED else self.output_bytes

    @property
    def visible_state(self) -> TaskState:
        """The state that callers may be told: an end only once it is public."""
        return self.state if self.live or self.public else TaskState.RUNNING

    @property
    def start_by(self) -> float | None:
        """When the task expires if it has not started by then; None for never."""
        within = self.options.start_within
        return None if within is None else self.created + within

    def start(self, now: float, device: str = "") -> bool:
        """Note that a lane has the task. False for one that has started already, such as half of a batch run again."""
        if self.state is not TaskState.QUEUED:
            return False
        self.state = TaskState.RUNNING
        self.attempts += 1
        self.started = now
        self.device = device
        if self.run_by is None and self.options.run_within is not None:
            self.run_by = now + self.options.run_within
        return True

    def reopen(self, now: float) -> None:
        """Queue a failed task again, as if it had just come."""
        self.live, self.public = True, False
        self.state = TaskState.QUEUED
        self.created = now
        self.attempts = 0
        self.started = self.run_by = self.ended = self.expires = None
        self.failure = self.progress = self.device = self.store_seconds = None
        self.load_seconds = 0.0

    def settle(
        self, state: TaskState, now: float, *, outputs: Tensors | None = None, failure: Failure | None = None
    ) -> bool:
        """End the task. The first settlement wins and gives True; a later one changes nothing and gives False."""
        if not self.live:
            return False
        self.live = False
        self.state = state
        self.ended = now
        self.outputs = outputs
        self.failure = failure
        if state is not TaskState.FAILED:
            self.inputs = {}
        if outputs is not None:
            self.output_bytes = total_bytes(outputs)
        return True


Outcome: TypeAlias = tuple[Task, TaskState, Tensors | None, Failure | None]
"""How a task is to end: its state, with outputs where it has succeeded, or with the reason why it has not."""


@dataclass(slots=True, eq=False)
class Batch:
    """Tasks of one key that run as one, in the order of `tasks`. `tasks` is never empty."""

    key: BatchKey
    tasks: list[Task]

    @property
    def rows(self) -> int:
        return sum(task.rows for task in self.tasks)

    def parts(self) -> dict[str, list[HostArray]]:
        """Every input as the list of its members' arrays, to be laid end to end along axis 0."""
        inputs = [task.inputs for task in self.tasks]
        return {name: [members[name] for members in inputs] for name in inputs[0]}

    def split(self, outputs: Tensors) -> list[Tensors]:
        """Cut the stacked `outputs` into one mapping a task.

        What is kept are copies: a view would keep the results of the whole batch in memory for as long as one
        of them is kept. A lone task without an added batch axis takes its outputs as they are, whatever their shape.

        Raises:
            ValueError: an output's axis 0 does not hold exactly one row for each row that went in.
        """
        if len(self.tasks) == 1 and not self.tasks[0].single:
            return [outputs]
        rows = self.rows
        for name, array in outputs.items():
            if array.ndim == 0 or array.shape[0] != rows:
                raise ValueError(
                    f"output {name!r} has shape {list(array.shape)}, but {rows} stacked items went in,"
                    f" so its axis 0 must be {rows}"
                )
        parts: list[Tensors] = []
        start = 0
        for task in self.tasks:
            cut: Any = (start, ...) if task.single else slice(start, start + task.rows)
            start += task.rows
            if task.kept:
                parts.append({name: array[cut].copy() for name, array in outputs.items()})
            else:
                parts.append({name: array[cut] for name, array in outputs.items()})
        return parts

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches that together hold these tasks in order; there must be at least two."""
        middle = len(self.tasks) // 2
        return Batch(self.key, self.tasks[:middle]), Batch(self.key, self.tasks[middle:])


TEXT_BYTES = 48
"""A `bytes` object without its bytes, and the place in the array that points to it."""


def total_bytes(tensors: Tensors) -> int:
    """What the arrays take: of texts their bytes, and what Python takes for each."""
    total = 0
    for array in tensors.values():
        total += sum(map(len, array.flat)) + TEXT_BYTES * array.size if array.dtype.hasobject else array.nbytes
    return total


def join_names(names: Iterable[str]) -> str:
    """`a, b` for messages, or `none`."""
    return ", ".join(names) or "none"

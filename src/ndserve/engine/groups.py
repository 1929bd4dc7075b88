"""Groups: the tasks that one split array became. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ndserve.engine.target import Target
from ndserve.errors import InvalidInputError, NotAcceptableError
from ndserve.stores.base import Group, GroupState
from ndserve.types import HostArray, TaskOptions, TaskState, Tensors, join_names, name_of, total_bytes

PREFIX = "group-"
"""What tells a group's id from a task's."""

MAX_STACKED_BYTES = 2 * 1024**3


def new_group(name: str, target: Target, total: int, now: float, options: TaskOptions) -> Group:
    return Group(PREFIX + name, target.name, target.version, total, now, options.idempotency_key, options.fingerprint)


def member(group_id: str, index: int) -> str:
    """The id of one task of a group."""
    return f"{group_id}-{index}"


def split_items(inputs: Tensors) -> list[dict[str, HostArray]]:
    """The items along axis 0, each an array of its own: a view would keep the whole in memory for the last of them.

    Raises:
        InvalidInputError: there is no axis 0, it is empty, or the inputs differ along it.
    """
    lengths = {name: array.shape[0] if array.ndim else 0 for name, array in inputs.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        shapes = {name: list(array.shape) for name, array in inputs.items()}
        raise InvalidInputError(f"split takes arrays with one and the same length along axis 0, not {shapes}")
    (length,) = set(lengths.values())
    return [{name: array[index, ...].copy() for name, array in inputs.items()} for index in range(length)]


def state_of(state: GroupState, running: int) -> TaskState:
    """The state of the whole; `running` of its queued tasks are running."""
    counts, total = state.counts, sum(state.counts.values())
    waiting = counts.get(TaskState.QUEUED, 0)
    if waiting:
        return TaskState.QUEUED if waiting == total and not running else TaskState.RUNNING
    for end in (TaskState.FAILED, TaskState.EXPIRED, TaskState.CANCELLED):
        if counts.get(end, 0):
            return end
    return TaskState.SUCCEEDED


class Stack:
    """The outputs of a group's tasks along a new axis 0."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._filled = 0
        self.outputs: dict[str, HostArray] = {}

    def add(self, outputs: Tensors) -> None:
        """Add the outputs of the next task.

        Raises:
            NotAcceptableError: they differ in name, dtype or shape from those before, or the whole is too large.
        """
        if not self._filled:
            self._allocate(outputs)
        if outputs.keys() != self.outputs.keys():
            raise NotAcceptableError(
                f"the results differ in their outputs (task {self._filled} has {join_names(outputs)}, those before it"
                f" {join_names(self.outputs)}) and cannot be stacked; fetch them one by one"
            )
        for name, array in outputs.items():
            whole = self.outputs[name]
            if whole.shape[1:] != array.shape or whole.dtype != array.dtype:
                raise NotAcceptableError(
                    f"the results differ in shape or dtype (task {self._filled}: {name!r} is {name_of(array.dtype)}"
                    f"{list(array.shape)}) and cannot be stacked; fetch them one by one"
                )
            whole[self._filled, ...] = array  # with an ellipsis, since a text without axes would stay an array
        self._filled += 1

    def _allocate(self, outputs: Tensors) -> None:
        nbytes = self._total * total_bytes(outputs)
        if nbytes > MAX_STACKED_BYTES:
            raise NotAcceptableError(
                f"the stacked result would take {nbytes} bytes, and at most {MAX_STACKED_BYTES} are sent at once;"
                " fetch the tasks' results one by one"
            )
        self.outputs = {name: np.empty((self._total, *array.shape), array.dtype) for name, array in outputs.items()}


def describe_counts(counts: Mapping[TaskState, int], running: int) -> dict[str, int]:
    """How many tasks are in which state, running ones apart from queued ones."""
    shown = {state.value: counts.get(state, 0) for state in TaskState}
    shown[TaskState.QUEUED] -= running
    shown[TaskState.RUNNING] += running
    return shown

"""Tasks that ended lately, in memory: most results are fetched soon after they are there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from ndserve.types import Task

BYTES = 64 * 1024**2

RECORD_BYTES = 1024
"""What a task takes in memory beside its arrays, roughly."""


class AtHand:
    """The ended tasks of the last while, as many as `BYTES` hold."""

    def __init__(self) -> None:
        self.nbytes = 0
        # An ordered dictionary, because a plain one takes ever longer to find its first key when that keeps going.
        self._tasks: OrderedDict[str, Task] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, task_id: str) -> Task | None:
        return self._tasks.get(task_id)

    def add(self, task: Task) -> None:
        self._tasks[task.id] = task
        self.nbytes += task.output_bytes + RECORD_BYTES
        while self.nbytes > BYTES:
            _, oldest = self._tasks.popitem(last=False)
            self.nbytes -= oldest.output_bytes + RECORD_BYTES

    def drop(self, task_id: str, seq: int) -> None:
        """Take out the task of that id and number; another one may have its id by now."""
        task = self._tasks.get(task_id)
        if task is not None and task.seq == seq:
            del self._tasks[task_id]
            self.nbytes -= task.output_bytes + RECORD_BYTES

    def set_expiry(self, groups: Mapping[str, float | None]) -> None:
        """Set when the tasks of these groups expire. Looks at every task."""
        for task in self._tasks.values():
            if task.group is not None and task.group in groups:
                task.expires = groups[task.group]

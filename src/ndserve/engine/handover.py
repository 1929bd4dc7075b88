"""A batch on its way to the lane, and which of its tasks still want to run when its turn comes."""

from __future__ import annotations

import math

from ndserve.engine.batcher import rank_of
from ndserve.engine.deadlines import overdue
from ndserve.types import DEFAULT_OPTIONS, Batch, HostArray, Task, TaskState, Tensors


class Handover:
    """A batch that may have to stand behind another one. Its tasks stay queued until the lane takes them.

    The event loop may end a task meanwhile, and the lane's thread takes the batch without asking it. Nothing is
    locked: the loop marks a task as ended and *then* looks at `begun`, the lane sets `begun` and *then* looks at the
    task. So a task that the loop takes for unbegun is never run. A batch that was `recalled` before the lane took it
    does not run: somebody has come who goes first.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.begun = False
        self.recalled = False
        first = batch.tasks[0]
        # What is run again in halves stays apart: back in the queue it would meet others, and fail them too.
        self._rank = rank_of(first) if first.state is TaskState.QUEUED else -math.inf
        self._inputs: list[Tensors] = [task.inputs for task in batch.tasks]

    def yield_to(self, task: Task) -> None:
        """Recall the batch if a task that has just come goes before it."""
        if rank_of(task) < self._rank:
            self.recalled = True

    def take(self, now: float) -> dict[str, list[HostArray]] | None:
        """Begin: leave those tasks in the batch that have not ended and are in time, and give their inputs' parts.

        None where the batch is not to run now.
        """
        if self.recalled:
            return None
        self.begun = True
        given, self._inputs = self._inputs, []  # this may outlive the run, and the arrays need not
        wanted = [
            (task, inputs)
            for task, inputs in zip(self.batch.tasks, given, strict=True)
            if task.live and (task.options is DEFAULT_OPTIONS or overdue(task, now) is None)
        ]
        self.batch.tasks = [task for task, _ in wanted]
        return {name: [inputs[name] for _, inputs in wanted] for name in (wanted[0][1] if wanted else ())}

    def has_begun(self, task: Task) -> bool:
        """Whether this task is among those that the lane has taken."""
        return self.begun and task in self.batch.tasks

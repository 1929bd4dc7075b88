"""What becomes of the tasks that a dead server has left unfinished. Pure."""

from __future__ import annotations

from ndserve.engine.admission import admit
from ndserve.engine.deadlines import overdue
from ndserve.engine.targets import Targets
from ndserve.errors import InterruptedTaskError, NdserveError, StoreUnavailableError
from ndserve.types import Outcome, Task, TaskState


def resume(task: Task, targets: Targets, now: float, max_attempts: int) -> Outcome | None:
    """How the task ends; None where it is to run, or to run again.

    Its arrays are admitted anew: the model or process may have changed, or be gone.
    """
    late = overdue(task, now)
    if late is not None:
        return late
    try:
        if task.attempts >= max_attempts:
            raise InterruptedTaskError(
                f"the server died {task.attempts} times while this task ran; it is not run again (--max-attempts)"
            )
        if not task.inputs:
            raise StoreUnavailableError("the stored inputs of the task are damaged")
        target = targets.find(task.key.target, task.key.version or None)
        posted = {name: array[0, ...] if task.single else array for name, array in task.inputs.items()}
        admitted = admit(target, posted, dict(task.key.parameters))
    except NdserveError as error:
        return task, TaskState.FAILED, None, error.failure()
    task.key, task.inputs, task.rows, task.single = admitted
    return None

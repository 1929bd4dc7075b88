"""What becomes of the tasks that a dead server has left unfinished. Pure."""

from __future__ import annotations

from ndserve.engine.admission import admit
from ndserve.engine.deadlines import overdue
from ndserve.engine.targets import Targets
from ndserve.errors import InterruptedTaskError, NdserveError, StoreUnavailableError, UnavailableError
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
        version, _, change = task.key.version.partition("+")
        target = targets.find(task.key.target, version or None)
        if target.label.partition("+")[2] != change:
            raise UnavailableError(
                f"the task was accepted for {task.key.target!r} as a client had changed it, or before one did"
                f" ({task.key.version or 'no version'!r}, now {target.label or 'no version'!r}); submit it again"
            )
        posted = {name: array[0, ...] if task.single else array for name, array in task.inputs.items()}
        admitted = admit(target, posted, dict(task.key.parameters))
    except NdserveError as error:
        return task, TaskState.FAILED, None, error.failure()
    task.key, task.inputs, task.rows, task.single = admitted
    return None

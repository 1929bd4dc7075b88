"""What becomes of the tasks of a version that does not load. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ndserve.engine.admission import admit
from ndserve.engine.target import Target
from ndserve.engine.targets import Targets
from ndserve.errors import NdserveError
from ndserve.types import Task


def fall_back(target: Target, targets: Targets, tasks: Sequence[Task]) -> set[Task]:
    """Admit tasks that would take any version to the one that is now the default; gives those that stay behind.

    Those stay whose callers have named the version, and those whose arrays do not fit the other one.
    """
    default = targets.default(target.name)
    if default is None or default is target:
        return set(tasks)
    left = set()
    for task in tasks:
        if task.options.version_named:
            left.add(task)
            continue
        posted = {name: array[0, ...] if task.single else array for name, array in task.inputs.items()}
        try:
            admitted = admit(default, posted, dict(task.key.parameters))
        except NdserveError:
            left.add(task)
        else:
            task.key, task.inputs, task.rows, task.single = admitted
    return left

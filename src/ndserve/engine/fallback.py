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

    Those whose callers have named the version go to what has taken its place, if something has. Those stay whose arrays
    do not fit the other one.
    """
    default = targets.default(target.name)
    same = targets.served(target.name, target.version)
    left = set()
    for task in tasks:
        other = same if task.options.version_named else default
        if other is None or other is target:
            left.add(task)
            continue
        posted = {name: array[0, ...] if task.single else array for name, array in task.inputs.items()}
        try:
            admitted = admit(other, posted, dict(task.key.parameters))
        except NdserveError:
            left.add(task)
        else:
            task.key, task.inputs, task.rows, task.single = admitted
    return left

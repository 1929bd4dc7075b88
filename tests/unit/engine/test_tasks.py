"""Running a task again that cannot be: its failure stays as it was, and the next try is free."""

from __future__ import annotations

from typing import Any

import pytest

from ndserve.engine.tasks import Tasks
from ndserve.errors import GoneError, ShuttingDownError, StoreUnavailableError
from ndserve.processes.base import process
from ndserve.types import Task, TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import check_empty, code, ended, item, run, serving, tick


@process("broken", batched=True)
def broken(xp: Any, x: Any) -> Any:
    raise ValueError("broken")


class Sealed(DurableFake):
    """Queues no task again while it is sealed."""

    def __init__(self) -> None:
        super().__init__(prompt=True)
        self.sealed = True

    async def reopen(self, task: Task, now: float) -> Task:
        if self.sealed:
            raise StoreUnavailableError("sealed")
        return await super().reopen(task, now)


def test_a_failed_task_that_the_store_cannot_queue_again_stays_failed() -> None:
    async def main() -> None:
        async with serving(broken, store=Sealed()) as service:
            task = await service.submit("broken", item(1))
            await ended(service, task)
            with pytest.raises(StoreUnavailableError, match="sealed"):
                await Tasks(service).retry(task.id)
            assert (task.state, task.public, code(task)) == (TaskState.FAILED, True, "execution_failed")
            await tick()
            check_empty(service)

    run(main())


def test_a_retry_after_one_that_the_store_refused_goes_through() -> None:
    async def main() -> None:
        store = Sealed()
        async with serving(broken, store=store) as service:
            tasks, task = Tasks(service), await service.submit("broken", item(1))
            await ended(service, task)
            with pytest.raises(StoreUnavailableError):
                await tasks.retry(task.id)
            store.sealed = False
            await ended(service, await tasks.retry(task.id))
            assert store.reopened == [task.id]

    run(main())


def test_a_failed_task_that_was_deleted_is_not_run_again() -> None:
    async def main() -> None:
        async with serving(broken) as service:
            tasks, task = Tasks(service), await service.submit("broken", item(1))
            await ended(service, task)
            assert await tasks.delete(task) == "result_removed"
            with pytest.raises(GoneError, match="its result was deleted"):
                await tasks.retry(task.id)

    run(main())


def test_a_failed_task_is_not_run_again_while_the_server_shuts_down() -> None:
    async def main() -> None:
        store = DurableFake(prompt=True)
        async with serving(broken, store=store) as service:
            task = await service.submit("broken", item(1))
            await ended(service, task)
            await service.drain(0)
            with pytest.raises(ShuttingDownError):
                await Tasks(service).retry(task.id)
            assert (task.state, store.reopened) == (TaskState.FAILED, [])

    run(main())

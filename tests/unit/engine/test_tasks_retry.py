"""Running failed tasks again: once, as if they had just come, and never half."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ndserve.engine.service import InferenceService, QueueBounds
from ndserve.engine.tasks import Tasks
from ndserve.errors import NotFailedError, QueueFullError, UnknownTaskError
from ndserve.processes.base import Process, process
from ndserve.types import Task, TaskOptions, TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Clock, Gate, check_empty, code, ended, gated, item, output, run, serving, tick, twice

X3 = {"x": np.zeros((3, 1), np.float32)}


def faulty(faults: list[str]) -> Process:
    """A process that fails as long as there are faults."""

    @process("faulty", batched=True)
    def fail(xp: Any, x: Any) -> Any:
        if faults:
            raise ValueError(*faults)
        return x

    return fail


async def failed(service: InferenceService, options: TaskOptions | None = None) -> Task:
    """A task that has failed; its gate must be open."""
    task = await service.submit("gated", item(-1), options=options or TaskOptions())
    await ended(service, task)
    assert code(task) == "execution_failed"
    return task


def test_a_failed_task_runs_again_as_if_it_had_just_come() -> None:
    async def main() -> None:
        faults, clock = ["broken"], Clock()
        async with serving(faulty(faults), clock=clock) as service:
            task = await service.submit("faulty", item(5))
            await ended(service, task)
            assert code(task) == "execution_failed"
            clock.now += 100
            faults.clear()
            again = await Tasks(service).retry(task.id)
            assert (again.id, again.live, again.created) == (task.id, True, 1100.0)
            assert (again.failure, again.ended, again.expires) == (None, None, None)
            await ended(service, again)
            assert (output(again).tolist(), again.attempts) == ([5], 1)
            assert service.stats()["ended"] == {"succeeded": 1, "failed": 1, "cancelled": 0, "expired": 0}
            check_empty(service)

    run(main())


def test_the_deadlines_of_a_task_that_is_run_again_are_set_anew() -> None:
    async def main() -> None:
        gate, clock = Gate(), Clock()
        gate.open()
        async with serving(gated(gate), clock=clock) as service:
            task = await failed(service, TaskOptions(start_within=5.0, run_within=10.0))
            clock.now += 1000
            again = await Tasks(service).retry(task.id)
            await ended(service, again)
            assert (code(again), again.start_by, again.run_by) == ("execution_failed", 2005.0, 2010.0)

    run(main())


def test_a_task_that_has_not_failed_is_not_run_again() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            task = await service.submit("twice", item(1))
            await ended(service, task)
            with pytest.raises(NotFailedError, match="is succeeded"):
                await Tasks(service).retry(task.id)

    run(main())


def test_a_failure_that_is_not_public_yet_cannot_be_run_again_and_is_not_told() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        gate.open()
        async with serving(gated(gate), store=store) as service:
            task = await service.submit("gated", item(-1))
            store.prompt = False
            while not store.finishes:
                await tick()
            with pytest.raises(NotFailedError, match="is running"):
                await Tasks(service).retry(task.id)
            store.commit()

    run(main())


def test_an_unknown_task_is_not_run_again() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            with pytest.raises(UnknownTaskError):
                await Tasks(service).retry("0" * 43)

    run(main())


def test_of_many_retries_at_once_one_succeeds() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        gate.open()
        async with serving(gated(gate), store=store) as service:
            tasks, task = Tasks(service), await failed(service)
            store.gate = asyncio.get_running_loop().create_future()
            retries = [asyncio.create_task(tasks.retry(task.id)) for _ in range(5)]
            await tick()
            store.gate.set_result(None)
            outcomes = await asyncio.gather(*retries, return_exceptions=True)
            assert sum(isinstance(outcome, NotFailedError) for outcome in outcomes) == 4
            again = await service.find(task.id)
            await ended(service, again)
            assert again.attempts == 1
            assert not tasks._once._locks
            await tick()
            check_empty(service)

    run(main())


def test_a_retry_whose_caller_gives_up_is_done_all_the_same() -> None:
    """Else the store has a queued task that nobody runs before the next start."""

    async def main() -> None:
        gate, store = Gate(), DurableFake(prompt=True)
        gate.open()
        async with serving(gated(gate), store=store) as service:
            tasks, task = Tasks(service), await failed(service)
            store.gate = asyncio.get_running_loop().create_future()
            retrying = asyncio.create_task(tasks.retry(task.id))
            await tick()
            retrying.cancel()
            await tick()
            store.gate.set_result(None)
            await asyncio.gather(retrying, return_exceptions=True)
            assert retrying.cancelled()
            while service.ledger.ended[TaskState.FAILED] != 2:
                await tick()
            await tick()
            check_empty(service)
            assert not tasks._once._locks
            assert not tasks._retrying

    run(main())


def test_a_failed_task_is_not_run_again_while_the_queue_is_full() -> None:
    async def main() -> None:
        gate = Gate()
        gate.open()
        async with serving(gated(gate), bounds=QueueBounds(1, 1000)) as service:
            task = await failed(service)
            await service.submit("gated", item(1))
            with pytest.raises(QueueFullError):
                await Tasks(service).retry(task.id)
            assert (task.state, task.public) == (TaskState.FAILED, True)

    run(main())


def test_a_member_of_an_ended_group_that_runs_again_opens_the_group_again() -> None:
    async def main() -> None:
        faults, gate, clock = ["broken"], Gate(), Clock()
        async with serving(faulty(faults), gated(gate), clock=clock, gates=[gate]) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("faulty", {"x": np.array([[1.0], [2.0]])})
            await service.waiters.add(group.id)
            assert (await tasks.group(group.id)).state is TaskState.FAILED
            await service.submit("gated", item(1))
            await gate.reached()  # so that the lane is busy
            clock.now += 10
            faults.clear()
            await tasks.retry(f"{group.id}-1")
            status = await tasks.group(group.id)
            assert (status.state, status.counts["queued"], status.group.expires) == (TaskState.RUNNING, 1, None)
            gate.open()
            await service.waiters.add(group.id)
            status = await tasks.group(group.id)
            assert (status.state, status.counts["succeeded"]) == (TaskState.FAILED, 1)
            assert status.group.expires == 4610.0

    run(main())

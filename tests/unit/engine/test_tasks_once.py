"""Tasks that are accepted once only, and those that come as one array: all of them or none."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ndserve.engine.service import QueueBounds
from ndserve.engine.tasks import Tasks
from ndserve.errors import ConflictError, GoneError, InvalidInputError, QueueFullError, StoreFullError
from ndserve.processes.base import process
from ndserve.stores.base import Gone
from ndserve.stores.memory import MemoryStore
from ndserve.types import DEFAULT_OPTIONS, TaskOptions, TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Gate, check_empty, ended, gated, item, output, run, serving, tick, twice

KEYED = TaskOptions(idempotency_key="key", fingerprint="print")
NAMED = TaskOptions(fingerprint="print")


class Submits:
    """What is called to submit; counts how often it was."""

    def __init__(self, tasks: Tasks, options: TaskOptions, task_id: str | None = None) -> None:
        self.calls = 0
        self._tasks = tasks
        self._options = options
        self._task_id = task_id

    async def __call__(self) -> str:
        self.calls += 1
        service = self._tasks.service
        return (await service.submit("twice", item(1), options=self._options, task_id=self._task_id)).id


# once only


@pytest.mark.parametrize(("options", "task_id"), [(KEYED, None), (NAMED, "mine")], ids=["key", "id"])
def test_the_same_request_gives_the_same_task_whether_or_not_it_has_ended(
    options: TaskOptions, task_id: str | None
) -> None:
    async def main() -> None:
        async with serving(twice) as service:
            tasks = Tasks(service)
            submit = Submits(tasks, options, task_id)
            new, first = await tasks.submit_once(submit, options, task_id)
            again, second = await tasks.submit_once(submit, options, task_id)
            await ended(service, await service.find(first))
            later, third = await tasks.submit_once(submit, options, task_id)
            assert (new, again, later) == (True, False, False)
            assert first == second == third
            assert submit.calls == 1
            assert not tasks._once._locks

    run(main())


@pytest.mark.parametrize(("options", "task_id"), [(KEYED, None), (NAMED, "mine")], ids=["key", "id"])
def test_of_two_same_requests_at_once_one_waits_for_the_other(options: TaskOptions, task_id: str | None) -> None:
    async def main() -> None:
        store = DurableFake()
        async with serving(twice, store=store) as service:
            tasks = Tasks(service)
            submit = Submits(tasks, options, task_id)
            both = [asyncio.create_task(tasks.submit_once(submit, options, task_id)) for _ in range(2)]
            await tick()
            assert not any(one.done() for one in both)
            store.commit()
            (new, first), (again, second) = await asyncio.gather(*both)
            assert (new, again, submit.calls) == (True, False, 1)
            assert first == second

    run(main())


@pytest.mark.parametrize(("options", "task_id"), [(KEYED, None), (NAMED, "mine")], ids=["key", "id"])
def test_another_request_of_that_name_is_a_conflict(options: TaskOptions, task_id: str | None) -> None:
    async def main() -> None:
        async with serving(twice) as service:
            tasks = Tasks(service)
            submit = Submits(tasks, options, task_id)
            await tasks.submit_once(submit, options, task_id)
            other = TaskOptions(idempotency_key=options.idempotency_key, fingerprint="other")
            with pytest.raises(ConflictError, match="belongs to another request"):
                await tasks.submit_once(submit, other, task_id)
            assert submit.calls == 1

    run(main())


def test_an_id_whose_task_is_gone_is_not_used_again() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            tasks = Tasks(service)
            submit = Submits(tasks, NAMED, "mine")
            _, name = await tasks.submit_once(submit, NAMED, "mine")
            task = await service.find(name)
            await ended(service, task)
            await service.store.remove([task], Gone("it was old"), 1000.0)
            with pytest.raises(GoneError, match="it was old"):
                await tasks.submit_once(submit, NAMED, "mine")

    run(main())


def test_a_request_that_was_refused_may_come_again() -> None:
    async def main() -> None:
        store = DurableFake()
        async with serving(twice, store=store) as service:
            tasks = Tasks(service)
            submit = Submits(tasks, NAMED, "mine")
            first = asyncio.create_task(tasks.submit_once(submit, NAMED, "mine"))
            second = asyncio.create_task(tasks.submit_once(submit, NAMED, "mine"))
            await tick()
            store.refuse(StoreFullError("full"))
            with pytest.raises(StoreFullError):
                await first
            store.commit()
            assert (await second)[0]
            assert submit.calls == 2
            assert not tasks._once._locks
            await ended(service, await service.find("mine"))
            await tick()
            check_empty(service)

    run(main())


def test_a_split_request_with_a_key_gives_its_group_again() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            tasks = Tasks(service)

            async def submit() -> str:
                return (await tasks.submit_split("twice", {"x": np.zeros((2, 1))}, options=KEYED)).id

            new, first = await tasks.submit_once(submit, KEYED)
            again, second = await tasks.submit_once(submit, KEYED)
            assert (new, again) == (True, False)
            assert first == second

    run(main())


# many at once


def test_a_split_array_becomes_one_task_for_each_item() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            tasks = Tasks(service)
            group = await tasks.submit_split("twice", {"x": np.arange(6.0).reshape(3, 2)})
            await service.waiters.add(group.id)
            members = [await service.find(f"{group.id}-{index}") for index in range(3)]
            assert [output(task).tolist() for task in members] == [[0, 2], [4, 6], [8, 10]]
            assert {task.group for task in members} == {group.id}
            assert (group.total, group.target) == (3, "twice")
            check_empty(service)

    run(main())


def test_the_name_of_the_request_is_the_groups_and_not_its_tasks() -> None:
    async def main() -> None:
        options = TaskOptions(idempotency_key="key", fingerprint="print", priority=7, ttl=5.0)
        async with serving(twice) as service:
            group = await Tasks(service).submit_split("twice", {"x": np.zeros((2, 1))}, options=options)
            task = await service.find(f"{group.id}-0")
            assert (group.idempotency_key, group.fingerprint) == ("key", "print")
            assert task.options == TaskOptions(priority=7, ttl=5.0)

    run(main())


def test_a_split_array_of_which_one_item_does_not_fit_is_refused_as_a_whole() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            with pytest.raises(InvalidInputError):
                await Tasks(service).submit_split("twice", {"x": np.zeros((0, 2))})
            check_empty(service)
            assert service.store.usage().tasks == 0

    run(main())


def test_a_split_array_that_the_queue_has_no_room_for_is_refused_as_a_whole() -> None:
    async def main() -> None:
        async with serving(twice, bounds=QueueBounds(2, 1000)) as service:
            with pytest.raises(QueueFullError, match="no room for 3 more with 24 bytes"):
                await Tasks(service).submit_split("twice", {"x": np.zeros((3, 1))})
            check_empty(service)
            assert service.store.usage().tasks == 0

    run(main())


def test_a_split_array_that_the_store_has_no_room_for_is_refused_as_a_whole() -> None:
    async def main() -> None:
        async with serving(twice, store=MemoryStore(2, 1000)) as service:
            with pytest.raises(StoreFullError):
                await Tasks(service).submit_split("twice", {"x": np.zeros((3, 1))})
            check_empty(service)
            assert service.store.usage().tasks == 0

    run(main())


def test_a_split_array_that_could_not_be_stored_leaves_nothing_although_some_of_it_has_run() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake()
        async with serving(gated(gate), store=store, max_batch=1, gates=[gate]) as service:
            submitting = asyncio.create_task(Tasks(service).submit_split("gated", {"x": np.zeros((3, 1))}))
            await gate.reached()
            gate.open()
            while not store.finishes:
                await tick()
            store.refuse(StoreFullError("full"))
            with pytest.raises(StoreFullError):
                await submitting
            store.commit()
            await service.lane.delivered()
            await tick()
            check_empty(service)

    run(main())


def test_a_caller_that_gives_up_while_its_array_is_stored_takes_all_its_tasks_along() -> None:
    async def main() -> None:
        gate, store = Gate(), DurableFake()
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            submitting = asyncio.create_task(Tasks(service).submit_split("gated", {"x": np.zeros((3, 1))}))
            await tick()
            tasks = list(service.ledger.live.values())
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)
            store.commit()
            await tick()
            assert {(task.state, task.public) for task in tasks} == {(TaskState.CANCELLED, True)}
            check_empty(service)

    run(main())


def test_parameters_and_casting_hold_for_every_item() -> None:
    @process("scaled", batched=True)
    def scaled(xp: Any, x: Any, *, k: int = 1) -> Any:
        return x * k

    async def main() -> None:
        async with serving(scaled) as service:
            group = await Tasks(service).submit_split(
                service.target("scaled"), {"x": np.ones((2, 1))}, {"k": "3"}, cast=True, options=DEFAULT_OPTIONS
            )
            await service.waiters.add(group.id)
            assert output(await service.find(f"{group.id}-1")).tolist() == [3]

    run(main())

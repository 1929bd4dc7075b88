"""The service: what is accepted, what callers get, and that every task is settled once."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ndserve.engine.ledger import outputs_of
from ndserve.engine.service import QueueBounds
from ndserve.errors import (
    GoneError,
    InvalidInputError,
    QueueFullError,
    StoreFullError,
    TaskFailedError,
    UnknownTargetError,
    UnknownTaskError,
)
from ndserve.processes.base import Process, process
from ndserve.stores.memory import MemoryStore
from ndserve.types import Task, TaskState, TensorSpec
from tests.unit.engine.rig import Clock, Gate, ended, item, output, run, serving, tick


@process("twice", batched=True)
def twice(xp: Any, x: Any, *, k: int = 2) -> Any:
    if (x[:, 0] < 0).any():
        raise ValueError("negative")
    return x * k


def gated(gate: Gate) -> Process:
    @process("gated", batched=True)
    def stand(xp: Any, x: Any) -> Any:
        gate.hold()
        return x

    return stand


# submit, infer, find


def test_infer_gives_the_outputs_by_name() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            outputs = await service.infer("twice", item(1, 2), {"k": "3"})
            assert {name: array.tolist() for name, array in outputs.items()} == {"output": [3, 6]}

    run(main())


def test_infer_raises_the_tasks_own_failure() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            with pytest.raises(TaskFailedError, match="negative") as caught:
                await service.infer("twice", item(-1))
            assert (caught.value.code, caught.value.status) == ("execution_failed", 500)

    run(main())


def test_arrays_by_name_and_one_array_alone_are_both_taken() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            assert (await service.infer("twice", {"x": item(1)}))["output"].tolist() == [2]
            assert (await service.infer("twice", item(1)))["output"].tolist() == [2]

    run(main())


def test_a_submitted_task_is_stored_and_queued_with_the_time_it_came() -> None:
    async def main() -> None:
        gate, clock = Gate(), Clock()
        async with serving(gated(gate), clock=clock, gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            assert (task.state, task.created) == (TaskState.QUEUED, clock.now)
            assert await service.store.get(task.id) is task
            assert await service.find(task.id) is task

    run(main())


def test_a_task_keeps_the_times_at_which_it_started_and_ended() -> None:
    async def main() -> None:
        gate, clock = Gate(), Clock()
        async with serving(gated(gate), clock=clock, gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            await gate.reached()
            clock.now += 7
            gate.open()
            await ended(service, task)
            assert (task.created, task.started, task.ended) == (1000.0, 1000.0, 1007.0)

    run(main())


def test_ids_are_the_time_and_128_random_bits_in_hex() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            ids = {(await service.submit("twice", item(1))).id for _ in range(50)}
            assert len(ids) == 50
            assert {int(task_id[:11], 16) for task_id in ids} == {int(Clock().now * 1000)}
            assert {len(bytes.fromhex(task_id[11:])) for task_id in ids} == {16}

    run(main())


def test_an_unknown_target_is_refused() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            with pytest.raises(UnknownTargetError, match="did you mean twice"):
                await service.submit("twiec", item(1))

    run(main())


def test_an_id_that_no_task_has_is_refused() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            with pytest.raises(UnknownTaskError):
                await service.find("0" * 32)

    run(main())


def test_a_result_can_be_fetched_again() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            task = await service.submit("twice", item(4))
            await ended(service, task)
            for _ in range(2):
                found = await service.find(task.id)
                assert outputs_of(found)["output"].tolist() == [8]
                service.store.delivered(found)

    run(main())


def test_a_result_whose_time_is_over_is_gone() -> None:
    async def main() -> None:
        clock = Clock()
        async with serving(twice, clock=clock) as service:
            task = await service.submit("twice", item(1))
            await ended(service, task)
            clock.now += 3600
            service.store.sweep(clock.now, 10)
            with pytest.raises(GoneError, match=task.id):
                await service.find(task.id)

    run(main())


# refusals and bounds


def test_of_ten_thousand_tasks_the_wrong_ones_are_refused_and_all_others_succeed_once() -> None:
    rows: list[int] = []

    @process("rows", batched=True, inputs=[TensorSpec("x", np.dtype("float32"), (None, 4))])
    def count(xp: Any, x: Any) -> Any:
        rows.append(len(x))
        return x + 1

    async def main() -> None:
        async with serving(count) as service:
            accepted: list[tuple[int, Task]] = []
            refused = 0
            for number in range(10_000):
                wrong = number % 100 == 37
                array = np.full(5 if wrong else 4, number, np.float32)
                try:
                    accepted.append((number, await service.submit("rows", array)))
                except InvalidInputError:
                    assert wrong
                    refused += 1
                if number % 500 == 0:
                    await tick()
            await ended(service, *(task for _, task in accepted))
            assert (refused, len(accepted)) == (100, 9_900)
            for number, task in accepted:
                assert output(task).tolist() == [number + 1] * 4
            assert service.stats()["ended"]["succeeded"] == sum(rows) == 9_900

    run(main())


def test_the_queue_is_bounded_in_tasks_and_takes_more_when_one_has_ended() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), bounds=QueueBounds(2, 1000), gates=[gate]) as service:
            tasks = [await service.submit("gated", item(1)) for _ in range(2)]
            with pytest.raises(QueueFullError, match="2 of 2 tasks") as caught:
                await service.submit("gated", item(1))
            assert (caught.value.status, caught.value.retry_after) == (429, 1)
            gate.open()
            await ended(service, *tasks)
            await service.infer("gated", item(1))

    run(main())


def test_the_queue_is_bounded_in_bytes_and_takes_more_when_a_task_was_cancelled() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), bounds=QueueBounds(100, 40), gates=[gate]) as service:
            first = await service.submit("gated", item(*range(8)))
            with pytest.raises(QueueFullError, match="32 of 40 bytes"):
                await service.submit("gated", item(*range(3)))
            await service.submit("gated", item(1, 2))
            service.cancel(first)
            await service.submit("gated", item(*range(8)))

    run(main())


def test_a_task_that_is_refused_leaves_no_trace() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), bounds=QueueBounds(1, 1000), gates=[gate]) as service:
            await service.submit("gated", item(1))
            before = service.stats()
            with pytest.raises(QueueFullError):
                await service.submit("gated", item(1))
            assert service.stats() == before

    run(main())


def test_room_can_be_asked_for_before_a_body_is_read() -> None:
    async def main() -> None:
        async with serving(twice, bounds=QueueBounds(1, 40)) as service:
            service.check_room(40)
            with pytest.raises(QueueFullError):
                service.check_room(41)

    run(main())


def test_a_full_store_refuses_a_task_and_counts_nothing() -> None:
    async def main() -> None:
        async with serving(twice, store=MemoryStore(1, 1000)) as service:
            await ended(service, await service.submit("twice", item(1)))
            with pytest.raises(StoreFullError):
                await service.submit("twice", item(1))
            assert service.stats()["queue"] == {
                "queued": 0,
                "live": 0,
                "bytes": 0,
                "max_tasks": 100_000,
                "max_bytes": 1 << 40,
            }

    run(main())


# cancelling


def test_a_task_that_is_cancelled_while_it_runs_stays_cancelled_and_is_counted_once() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), twice, gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            await gate.reached()
            assert service.cancel(task)
            assert not service.cancel(task)
            gate.open()
            await service.infer("twice", item(1))  # after which the lane has brought the cancelled task's result
            assert (task.state, task.outputs) == (TaskState.CANCELLED, None)
            assert service.stats()["ended"] == {"succeeded": 1, "failed": 0, "cancelled": 1, "expired": 0}
            assert service.stats()["queue"]["bytes"] == 0

    run(main())


def test_a_task_that_is_cancelled_while_it_is_queued_leaves_the_queue_at_once() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            await service.submit("gated", item(1))
            await gate.reached()
            task = await service.submit("gated", item(2))
            assert service.stats()["queue"]["queued"] == 1
            service.cancel(task)
            assert service.stats()["queue"]["queued"] == 0

    run(main())


def test_an_ended_task_cannot_be_cancelled() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            task = await service.submit("twice", item(1))
            await ended(service, task)
            assert not service.cancel(task)
            assert output(task).tolist() == [2]

    run(main())


def test_who_waits_for_a_task_is_answered_when_it_is_cancelled() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            waiting = service.waiters.add(task.id)
            service.cancel(task)
            assert await waiting
            with pytest.raises(GoneError, match="was cancelled"):
                outputs_of(task)

    run(main())


def test_a_caller_of_infer_who_gives_up_takes_the_task_along() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            first = asyncio.create_task(service.infer("gated", item(1)))
            await gate.reached()
            second = asyncio.create_task(service.infer("gated", item(2)))
            await tick()
            for caller in (first, second):
                caller.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
            assert first.cancelled()
            assert service.stats()["ended"]["cancelled"] == 2
            assert service.stats()["queue"]["live"] == 0
            assert service.stats()["waiting"] == 0

    run(main())


def test_figures_return_to_zero_when_everything_has_ended() -> None:
    async def main() -> None:
        async with serving(twice) as service:
            tasks = [await service.submit("twice", item(n)) for n in (-1, 1, 2)]
            service.cancel(tasks[2])
            assert service.stats()["queue"]["live"] == 2
            await ended(service, *tasks)
            queue = service.stats()["queue"]
            assert (queue["queued"], queue["live"], queue["bytes"]) == (0, 0, 0)
            assert service.stats()["ended"] == {"succeeded": 1, "failed": 1, "cancelled": 1, "expired": 0}

    run(main())

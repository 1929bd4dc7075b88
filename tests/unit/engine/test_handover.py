"""The handover: what has ended or is late when the lane comes to it does not run, and nobody calls it unbegun then."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndserve.engine.handover import Handover
from ndserve.processes.base import Process, process
from ndserve.types import Batch, Task, TaskOptions, TaskState
from tests.unit.engine.rig import Clock, Gate, batch_key, ended, item, run, serving, tick


def queued(name: str, value: float, options: TaskOptions | None = None) -> Task:
    return Task(name, batch_key(), {"x": np.array([value])}, 1, True, 1000.0, options or TaskOptions())


def handover(*tasks: Task) -> Handover:
    return Handover(Batch(batch_key(), list(tasks)))


def test_the_lane_takes_all_tasks_that_want_to_run() -> None:
    a, b = queued("a", 1), queued("b", 2)
    handed = handover(a, b)
    parts = handed.take(1000.0)
    assert parts is not None
    assert [array.item() for array in parts["x"]] == [1, 2]
    assert handed.batch.tasks == [a, b]


def test_a_task_that_has_ended_meanwhile_is_left_out_with_its_inputs() -> None:
    a, b = queued("a", 1), queued("b", 2)
    handed = handover(a, b)
    a.settle(TaskState.CANCELLED, 1000.0)
    parts = handed.take(1000.0)
    assert parts is not None
    assert [array.item() for array in parts["x"]] == [2]
    assert handed.batch.tasks == [b]


def test_a_task_whose_time_is_over_is_left_out() -> None:
    late, other = queued("a", 1, TaskOptions(start_within=5.0)), queued("b", 2)
    handed = handover(late, other)
    handed.take(1005.0)
    assert handed.batch.tasks == [other]


def test_nothing_is_left_of_a_batch_whose_tasks_have_all_ended() -> None:
    task = queued("a", 1)
    handed = handover(task)
    task.settle(TaskState.CANCELLED, 1000.0)
    assert handed.take(1000.0) == {}
    assert handed.batch.tasks == []


def test_a_task_has_begun_only_once_the_lane_has_taken_it() -> None:
    taken, dropped = queued("a", 1), queued("b", 2)
    handed = handover(taken, dropped)
    assert not handed.has_begun(taken)
    dropped.settle(TaskState.CANCELLED, 1000.0)
    handed.take(1000.0)
    assert handed.has_begun(taken)
    assert not handed.has_begun(dropped)


def test_a_batch_yields_to_a_task_that_goes_first_and_does_not_run() -> None:
    handed = handover(queued("a", 1))
    handed.yield_to(queued("b", 2, TaskOptions(priority=9)))
    assert handed.take(1000.0) is None
    assert not handed.begun


def test_a_batch_does_not_yield_to_a_task_that_goes_after_it() -> None:
    handed = handover(queued("a", 1))
    handed.yield_to(queued("b", 2))
    assert handed.take(1000.0) is not None


def test_half_of_a_batch_that_failed_yields_to_nobody() -> None:
    again = queued("a", 1)
    again.start(1000.0)
    handed = handover(again)
    handed.yield_to(queued("b", 2, TaskOptions(priority=9)))
    assert handed.take(1000.0) is not None


# in the service


def noting(gates: list[Gate], seen: list[float]) -> Process:
    """A process that stands at one gate after the other, a call each."""
    left = iter(gates)

    @process("noting", batched=True)
    def note(xp: Any, x: Any) -> Any:
        seen.extend(x[:, 0].tolist())
        next(left).hold()
        return x

    return note


def test_a_cancelled_task_of_a_prefetched_batch_never_runs() -> None:
    async def main() -> None:
        seen = list[float]()
        gates = [Gate(), Gate()]
        async with serving(noting(gates, seen), max_batch=2, gates=gates) as service:
            first = await service.submit("noting", item(0))
            await gates[0].reached()
            dropped, other = [await service.submit("noting", item(n)) for n in (1, 2)]
            await tick()
            assert service.lane.in_flight == 2
            assert service.cancel(dropped)
            assert not service.worker.has_begun(dropped)
            for gate in gates:
                gate.open()
            await ended(service, first, other)
            assert seen == [0, 2]
            assert (dropped.state, dropped.attempts) == (TaskState.CANCELLED, 0)

    run(main())


def test_a_prefetched_batch_of_which_all_tasks_are_cancelled_does_not_stop_the_lane() -> None:
    async def main() -> None:
        seen = list[float]()
        gates = [Gate(), Gate()]
        async with serving(noting(gates, seen), max_batch=1, gates=gates) as service:
            first = await service.submit("noting", item(0))
            await gates[0].reached()
            dropped = await service.submit("noting", item(1))
            await tick()
            service.cancel(dropped)
            for gate in gates:
                gate.open()
            await ended(service, first, await service.submit("noting", item(2)))
            assert seen == [0, 2]

    run(main())


def test_a_task_that_the_lane_has_taken_has_begun_although_a_third_batch_stands_behind_it() -> None:
    """The lane's word that it has begun may come after the third batch has been handed over."""

    async def main() -> None:
        gates = [Gate() for _ in range(3)]
        async with serving(noting(gates, []), max_batch=1, gates=gates) as service:
            tasks = [await service.submit("noting", item(n)) for n in range(3)]
            await gates[0].reached()
            await tick()
            gates[0].open()
            await gates[1].reached()
            await tick(20)
            assert service.lane.in_flight == 2
            assert [service.worker.has_begun(task) for task in tasks[1:]] == [True, False]

    run(main())


def test_an_overdue_task_of_a_prefetched_batch_never_runs() -> None:
    async def main() -> None:
        seen = list[float]()
        gates, clock = [Gate(), Gate()], Clock()
        async with serving(noting(gates, seen), max_batch=2, gates=gates, clock=clock) as service:
            first = await service.submit("noting", item(0))
            await gates[0].reached()
            late = await service.submit("noting", item(1), options=TaskOptions(start_within=5.0))
            other = await service.submit("noting", item(2))
            await tick()
            assert service.lane.in_flight == 2
            clock.now += 5
            for gate in gates:
                gate.open()
            await ended(service, first, other)
            assert (seen, late.attempts) == ([0, 2], 0)

    run(main())


def test_a_prefetched_batch_makes_way_for_a_task_that_goes_first() -> None:
    async def main() -> None:
        seen = list[float]()
        gates = [Gate() for _ in range(3)]
        async with serving(noting(gates, seen), max_batch=1, gates=gates) as service:
            tasks = [await service.submit("noting", item(n)) for n in range(2)]
            await gates[0].reached()
            await tick()
            tasks.append(await service.submit("noting", item(9), options=TaskOptions(priority=9)))
            for gate in gates:
                gate.open()
            await ended(service, *tasks)
            assert seen == [0, 9, 1]
            assert service.stats()["batches"]["count"] == 3

    run(main())

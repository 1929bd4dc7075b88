"""The worker: which tasks share a run of the device, and when."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ndserve.processes.base import Process, process
from ndserve.types import TaskState, TensorSpec
from tests.unit.engine.rig import Clock, Gate, ended, item, output, run, serving, tick


class Watched:
    """A process that doubles its items, notes the rows of every call, and stands at its gate."""

    def __init__(self, name: str = "watched") -> None:
        self.gate = Gate()
        self.calls: list[int] = []
        self.seen: list[float] = []

        @process(name, batched=True)
        def watched(xp: Any, x: Any, *, k: int = 0) -> Any:
            self.calls.append(len(x))
            self.seen += x[:, 0].tolist()
            self.gate.hold()
            return x * 2 + k

        self.process: Process = watched


def test_an_idle_lane_takes_a_lone_task_at_once() -> None:
    async def main() -> None:
        watched = Watched()
        async with serving(watched.process, gates=[watched.gate]) as service:
            task = await service.submit("watched", item(1, 2))
            await watched.gate.reached()
            assert task.state is TaskState.RUNNING
            watched.gate.open()
            await ended(service, task)
            assert output(task).tolist() == [2, 4]

    run(main())


def test_what_comes_while_a_batch_runs_gathers_into_one_next_batch() -> None:
    async def main() -> None:
        watched = Watched()
        async with serving(watched.process, gates=[watched.gate]) as service:
            first = await service.submit("watched", item(0))
            await watched.gate.reached()
            others = [await service.submit("watched", item(n)) for n in range(1, 8)]
            watched.gate.open()
            await ended(service, first, *others)
            assert watched.calls == [1, 7]
            assert [output(task).tolist() for task in others] == [[2 * n] for n in range(1, 8)]

    run(main())


def test_all_that_one_turn_of_the_loop_brings_is_one_batch() -> None:
    async def main() -> None:
        watched = Watched()
        watched.gate.open()
        async with serving(watched.process) as service:
            await ended(service, *[await service.submit("watched", item(n)) for n in range(5)])
            assert watched.calls == [5]

    run(main())


def test_a_full_next_batch_is_given_to_the_lane_while_one_runs() -> None:
    async def main() -> None:
        watched = Watched()
        async with serving(watched.process, max_batch=4, gates=[watched.gate]) as service:
            first = await service.submit("watched", item(0))
            await watched.gate.reached()
            full = [await service.submit("watched", item(n)) for n in range(4)]
            await tick()
            assert service.lane.in_flight == 2
            assert len(service.worker.batcher) == 0
            assert {task.state for task in full} == {TaskState.QUEUED}, "the lane has not taken them yet"
            watched.gate.open()
            await ended(service, first, *full)
            assert watched.calls == [1, 4]

    run(main())


def test_a_partial_next_batch_keeps_gathering_while_one_runs() -> None:
    async def main() -> None:
        watched = Watched()
        async with serving(watched.process, max_batch=4, gates=[watched.gate]) as service:
            await service.submit("watched", item(0))
            await watched.gate.reached()
            partial = [await service.submit("watched", item(n)) for n in range(3)]
            await tick()
            assert {task.state for task in partial} == {TaskState.QUEUED}
            assert service.lane.in_flight == 1

    run(main())


def test_no_more_than_one_batch_is_given_to_the_lane_ahead() -> None:
    async def main() -> None:
        watched = Watched()
        async with serving(watched.process, max_batch=2, gates=[watched.gate]) as service:
            await service.submit("watched", item(0))
            await watched.gate.reached()
            more = [await service.submit("watched", item(n)) for n in range(6)]
            await tick()
            assert service.lane.in_flight == 2
            assert len(service.worker.batcher) == len(more) - 2

    run(main())


def test_tasks_with_other_parameters_or_shapes_run_apart_and_each_gets_its_own() -> None:
    async def main() -> None:
        watched = Watched()
        watched.gate.open()
        async with serving(watched.process) as service:
            tasks = [
                await service.submit("watched", item(1), {"k": 10}),
                await service.submit("watched", item(2), {"k": 20}),
                await service.submit("watched", item(3, 3), {"k": 10}),
                await service.submit("watched", item(4), {"k": 10}),
            ]
            await ended(service, *tasks)
            assert [output(task).tolist() for task in tasks] == [[12], [24], [16, 16], [18]]
            assert sorted(watched.calls) == [1, 1, 2]

    run(main())


def test_a_batch_waits_for_more_until_its_oldest_task_has_waited_long_enough() -> None:
    async def main() -> None:
        watched, clock = Watched(), Clock()
        watched.gate.open()
        async with serving(watched.process, max_wait=60.0, clock=clock) as service:
            first = await service.submit("watched", item(1))
            await tick()
            clock.now += 59
            second = await service.submit("watched", item(2))
            await tick()
            assert {first.state, second.state} == {TaskState.QUEUED}
            clock.now += 1
            service.worker.wake()
            await ended(service, first, second)
            assert watched.calls == [2]

    run(main())


def test_a_batch_that_waits_is_woken_by_the_clock_alone() -> None:
    async def main() -> None:
        watched = Watched()
        watched.gate.open()
        async with serving(watched.process, max_wait=0.005, clock=time.monotonic) as service:
            outputs = await service.infer("watched", item(1))
            assert outputs["output"].tolist() == [2]

    run(main())


def test_a_task_that_is_due_but_came_while_the_lane_was_busy_runs_as_soon_as_it_is_free() -> None:
    async def main() -> None:
        watched, clock = Watched(), Clock()
        async with serving(watched.process, max_wait=60.0, clock=clock, gates=[watched.gate]) as service:
            first = await service.submit("watched", item(1))
            await tick()
            clock.now += 60
            service.worker.wake()
            await watched.gate.reached()
            second = await service.submit("watched", item(2))
            await tick()
            clock.now += 60
            watched.gate.open()
            await ended(service, first, second)
            assert watched.calls == [1, 1]

    run(main())


def test_a_cancelled_queued_task_never_runs() -> None:
    async def main() -> None:
        watched = Watched()
        async with serving(watched.process, gates=[watched.gate]) as service:
            first = await service.submit("watched", item(0))
            await watched.gate.reached()
            dropped = await service.submit("watched", item(1))
            kept = await service.submit("watched", item(2))
            assert service.cancel(dropped)
            watched.gate.open()
            await ended(service, first, kept)
            assert watched.seen == [0, 2]
            assert (dropped.state, dropped.attempts) == (TaskState.CANCELLED, 0)

    run(main())


def test_an_unbatched_process_runs_once_a_task_with_the_array_as_it_came() -> None:
    shapes: list[tuple[int, ...]] = []

    @process("whole", batched=False)
    def whole(xp: Any, x: Any) -> Any:
        shapes.append(x.shape)
        return xp.sum(x)

    async def main() -> None:
        async with serving(whole) as service:
            tasks = [await service.submit("whole", np.ones((n, 2), np.float32)) for n in range(1, 4)]
            await ended(service, *tasks)
            assert shapes == [(1, 2), (2, 2), (3, 2)]
            assert [output(task).item() for task in tasks] == [2, 4, 6]

    run(main())


def test_batches_and_items_share_a_run_and_come_apart_again() -> None:
    @process("rows", batched=True, inputs=[TensorSpec("x", None, (None, 2))])
    def rows(xp: Any, x: Any) -> Any:
        calls.append(len(x))
        return {"sum": xp.sum(x, axis=-1), "twice": x * 2}

    calls: list[int] = []

    async def main() -> None:
        async with serving(rows) as service:
            batch = await service.submit("rows", np.arange(6, dtype=np.float32).reshape(3, 2))
            single = await service.submit("rows", item(5, 6))
            empty = await service.submit("rows", np.zeros((0, 2), np.float32))
            await ended(service, batch, single, empty)
            assert calls == [4]
            assert output(batch, "sum").tolist() == [1, 5, 9]
            assert output(single, "sum").tolist() == 11
            assert output(single, "twice").tolist() == [10, 12]
            assert output(empty, "twice").shape == (0, 2)

    run(main())


def test_batches_are_counted_with_their_tasks() -> None:
    async def main() -> None:
        watched = Watched()
        watched.gate.open()
        async with serving(watched.process, max_batch=4) as service:
            await ended(service, *[await service.submit("watched", item(n)) for n in range(6)])
            assert service.stats()["batches"] == {"count": 2, "tasks": 6, "mean_size": 3.0}

    run(main())

"""A batch that fails is split until only the tasks at fault are left; nothing that a process raises gets further."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ndserve.processes.base import process
from ndserve.types import Task, TaskState
from tests.unit.engine.rig import Gate, code, ended, item, output, run, serving, tick

BAD = -1.0


class UnprintableError(Exception):
    """Its message cannot be had, as happens where `__str__` reads what was never set."""

    def __str__(self) -> str:
        raise AttributeError("no message")


def marked(*, error: BaseException | None = None, calls: list[int] | None = None) -> Any:
    """A process that raises where an item begins with BAD, and doubles the others."""

    @process("marked", batched=True)
    def marked(xp: Any, x: Any) -> Any:
        if calls is not None:
            calls.append(len(x))
        if (x[:, 0] == BAD).any():
            raise error or ValueError("a marked item")
        return x * 2

    return marked


async def submit_all(service: Any, values: list[float]) -> list[Task]:
    return [await service.submit("marked", item(value)) for value in values]


@pytest.mark.parametrize("bad", [{0}, {13}, {31}, {4, 5}, {0, 31}, set(range(32))], ids=str)
def test_only_the_tasks_at_fault_of_a_batch_of_32_fail(bad: set[int]) -> None:
    async def main() -> None:
        calls: list[int] = []
        async with serving(marked(calls=calls)) as service:
            tasks = await submit_all(service, [BAD if n in bad else n for n in range(32)])
            await ended(service, *tasks)
            assert calls[0] == 32
            for number, task in enumerate(tasks):
                if number in bad:
                    assert (task.state, code(task)) == (TaskState.FAILED, "execution_failed")
                else:
                    assert (task.state, output(task).tolist()) == (TaskState.SUCCEEDED, [2 * number])
            succeeded = 32 - len(bad)
            assert service.stats()["ended"] == {
                "succeeded": succeeded,
                "failed": len(bad),
                "cancelled": 0,
                "expired": 0,
            }

    run(main())


def test_one_bad_task_costs_no_more_runs_than_halving_needs() -> None:
    async def main() -> None:
        calls: list[int] = []
        async with serving(marked(calls=calls)) as service:
            tasks = await submit_all(service, [BAD if n == 13 else n for n in range(32)])
            await ended(service, *tasks)
            assert sorted(calls, reverse=True) == [32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]

    run(main())


def test_the_failure_names_the_process_and_what_it_raised() -> None:
    async def main() -> None:
        async with serving(marked()) as service:
            (task,) = await submit_all(service, [BAD])
            await ended(service, task)
            assert task.failure is not None
            assert task.failure.status == 500
            assert "'marked' raised ValueError: a marked item" in task.failure.message

    run(main())


def test_a_very_long_error_text_is_cut() -> None:
    async def main() -> None:
        async with serving(marked(error=ValueError("x" * 1_000_000))) as service:
            (task,) = await submit_all(service, [BAD])
            await ended(service, task)
            assert task.failure is not None
            assert len(task.failure.message) < 3000

    run(main())


@pytest.mark.parametrize(
    "error",
    [SystemExit(1), KeyboardInterrupt(), StopIteration(), GeneratorExit(), asyncio.CancelledError(), MemoryError()],
    ids=repr,
)
def test_whatever_a_process_raises_fails_its_task_alone(error: BaseException) -> None:
    async def main() -> None:
        async with serving(marked(error=error)) as service:
            good, bad = await submit_all(service, [1, BAD])
            await ended(service, good, bad)
            assert code(bad) == "execution_failed"
            assert output(good).tolist() == [2]
            (after,) = await submit_all(service, [3])
            await ended(service, after)
            assert output(after).tolist() == [6]

    run(main())


def test_an_error_whose_text_cannot_be_had_fails_its_task_all_the_same() -> None:
    async def main() -> None:
        async with serving(marked(error=UnprintableError())) as service:
            (task,) = await submit_all(service, [BAD])
            await ended(service, task)
            assert code(task) == "execution_failed"

    run(main())


def test_tasks_of_a_failed_batch_run_before_those_that_came_after() -> None:
    async def main() -> None:
        gate, seen = Gate(), list[float]()

        @process("marked", batched=True)
        def marked(xp: Any, x: Any) -> Any:
            gate.hold()
            if len(x) > 1:
                raise MemoryError
            seen.append(x[0, 0].item())
            return x

        async with serving(marked, max_batch=4, gates=[gate]) as service:
            tasks = await submit_all(service, [0, 1, 2, 3])
            await gate.reached()
            tasks += await submit_all(service, [4, 5])
            gate.open()
            await ended(service, *tasks)
            assert seen == [0, 1, 2, 3, 4, 5]

    run(main())


def test_a_task_that_is_cancelled_while_its_batch_fails_does_not_run_again() -> None:
    async def main() -> None:
        gate, seen = Gate(), list[list[float]]()

        @process("marked", batched=True)
        def marked(xp: Any, x: Any) -> Any:
            seen.append(x[:, 0].tolist())
            gate.hold()
            if len(x) == 4:
                raise MemoryError
            return x

        async with serving(marked, gates=[gate]) as service:
            tasks = await submit_all(service, [0, 1, 2, 3])
            await gate.reached()
            service.cancel(tasks[1])
            gate.open()
            await ended(service, *tasks)
            assert seen == [[0, 1, 2, 3], [0], [2, 3]]
            assert tasks[1].state is TaskState.CANCELLED

    run(main())


def test_a_batch_that_fails_again_counts_as_one_attempt_of_each_task() -> None:
    async def main() -> None:
        async with serving(marked()) as service:
            tasks = await submit_all(service, [BAD, 1, 2, 3])
            await ended(service, *tasks)
            assert {task.attempts for task in tasks} == {1}

    run(main())


@pytest.mark.parametrize("shape", [(), (3,), (1, 1)], ids=str)
def test_an_output_without_one_row_for_each_item_is_never_handed_out(shape: tuple[int, ...]) -> None:
    @process("marked", batched=True)
    def shrunk(xp: Any, x: Any) -> Any:
        return xp.zeros(shape if len(x) > 1 else (2,))

    async def main() -> None:
        async with serving(shrunk) as service:
            tasks = await submit_all(service, [0, 1])
            await ended(service, *tasks)
            assert {code(task) for task in tasks} == {"execution_failed"}

    run(main())


def test_a_process_that_returns_no_array_fails_its_task() -> None:
    @process("marked", batched=True)
    def wordy(xp: Any, x: Any) -> Any:
        return "done"

    async def main() -> None:
        async with serving(wordy) as service:
            (task,) = await submit_all(service, [0])
            await ended(service, task)
            assert task.failure is not None
            assert "must return an array" in task.failure.message

    run(main())


def test_a_process_that_writes_to_its_input_fails_alone_and_in_a_batch() -> None:
    @process("marked", batched=True)
    def careless(xp: Any, x: Any) -> Any:
        x += 1
        return x

    async def main() -> None:
        arrays = [np.zeros(1, np.float32) for _ in range(3)]
        async with serving(careless) as service:
            tasks = [await service.submit("marked", array) for array in arrays]
            await ended(service, *tasks)
            assert {code(task) for task in tasks} == {"execution_failed"}
            assert all(array.tolist() == [0] for array in arrays)

    run(main())


def test_the_lane_does_not_stand_idle_after_a_failure() -> None:
    async def main() -> None:
        gate = Gate()

        @process("marked", batched=True)
        def marked(xp: Any, x: Any) -> Any:
            gate.hold()
            if (x[:, 0] == BAD).any():
                raise ValueError
            return x

        async with serving(marked, max_batch=1, gates=[gate]) as service:
            bad, prefetched, queued = await submit_all(service, [BAD, 1, 2])
            await gate.reached()
            await tick()
            assert (service.lane.in_flight, len(service.worker.batcher)) == (2, 1)
            gate.open()
            await ended(service, bad, prefetched, queued)
            assert [task.state.value for task in (bad, prefetched, queued)] == ["failed", "succeeded", "succeeded"]

    run(main())

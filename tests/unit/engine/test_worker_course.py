"""What the worker says of a task's course, and what the task asked for on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndserve import report_progress
from ndserve.engine.status import describe
from ndserve.model_info import ModelInfo
from ndserve.processes.base import process
from ndserve.types import TaskOptions, TaskState
from tests.unit.engine.rig import Clock, Gate, Shelf, code, ended, item, model_info, output, run, serving, tick

X = item(1, 2, 3, 4)
LONE_SURROGATE = "caf\udce9"
"""What Python makes of a file name that is no UTF-8."""


def test_of_what_waits_the_task_of_higher_priority_runs_first() -> None:
    seen: list[float] = []
    gate = Gate()

    @process("seen", batched=True)
    def see(xp: Any, x: Any) -> Any:
        seen.extend(x[:, 0].tolist())
        gate.hold()
        return x

    async def main() -> None:
        async with serving(see, max_batch=1, gates=[gate]) as service:
            tasks = [await service.submit("seen", item(0))]
            await gate.reached()
            for value, priority in ((1, 0), (2, 5), (3, 9)):
                tasks.append(await service.submit("seen", item(value), options=TaskOptions(priority=priority)))
            gate.open()
            await ended(service, *tasks)
            assert seen == [0, 3, 2, 1]

    run(main())


def test_a_task_names_the_device_on_which_it_ran() -> None:
    @process("same", batched=True)
    def same(xp: Any, x: Any) -> Any:
        gate.hold()
        return x

    gate = Gate()

    async def main() -> None:
        async with serving(same, max_batch=1, gates=[gate]) as service:
            tasks = [await service.submit("same", item(1))]
            await gate.reached()
            tasks.append(await service.submit("same", item(2)))  # which the lane takes by itself
            await tick()
            assert [task.device for task in tasks] == ["cpu", None]
            gate.open()
            await ended(service, *tasks)
            assert [task.device for task in tasks] == ["cpu", "cpu"]

    run(main())


def test_the_time_for_loading_is_that_which_the_task_waited_for() -> None:
    async def main() -> None:
        gate, clock = Gate(), Clock()

        def load(info: ModelInfo) -> None:
            gate.hold()

        async with serving(models=[model_info()], shelf=Shelf(on_open=load), clock=clock, gates=[gate]) as service:
            early = await service.submit("m", X)
            await gate.reached()
            clock.now += 2
            late = await service.submit("m", X)
            clock.now += 3
            gate.open()
            await ended(service, early, late)
            after = await service.submit("m", X)
            await ended(service, after)
            assert [task.load_seconds for task in (early, late, after)] == [5.0, 3.0, 0.0]

    run(main())


def test_progress_that_a_process_reports_reaches_every_task_of_its_batch() -> None:
    gate = Gate()

    @process("slow", batched=True)
    def slow(xp: Any, x: Any) -> Any:
        report_progress(0.25, "first")
        gate.hold()
        return x

    async def main() -> None:
        async with serving(slow, gates=[gate]) as service:
            tasks = [await service.submit("slow", item(n)) for n in range(2)]
            with service.ledger.watchers.watch(tasks[1].id) as changed:
                await gate.reached()
                await changed.wait()
                await tick()
                assert [task.progress for task in tasks] == [(0.25, "first", 1000.0)] * 2
            gate.open()
            await ended(service, *tasks)

    run(main())


def test_progress_in_words_that_utf_8_cannot_carry_can_be_told_all_the_same() -> None:
    @process("odd", batched=True)
    def odd(xp: Any, x: Any) -> Any:
        report_progress(0.5, LONE_SURROGATE)
        return x

    async def main() -> None:
        async with serving(odd) as service:
            task = await service.submit("odd", item(1))
            await ended(service, task)
            assert describe(task)["progress"] == {"fraction": 0.5, "message": "caf\\udce9"}

    run(main())


def test_an_error_in_words_that_utf_8_cannot_carry_can_be_told_all_the_same() -> None:
    @process("odd", batched=True)
    def odd(xp: Any, x: Any) -> Any:
        raise FileNotFoundError(LONE_SURROGATE)

    async def main() -> None:
        async with serving(odd) as service:
            task = await service.submit("odd", item(1))
            await ended(service, task)
            assert task.failure is not None
            assert task.failure.message.encode().endswith(b"caf\\udce9")

    run(main())


def test_an_output_of_python_objects_fails_its_task_clearly() -> None:
    @process("objects", batched=True)
    def objects(xp: Any, x: Any) -> Any:
        return np.array([{}] * len(x), dtype=object)

    async def main() -> None:
        async with serving(objects) as service:
            task = await service.submit("objects", item(1))
            await ended(service, task)
            assert (task.state, code(task)) == (TaskState.FAILED, "execution_failed")
            assert task.failure is not None
            assert "output 'output' is an array of Python objects" in task.failure.message

    run(main())


def test_who_follows_a_task_hears_of_its_start_and_its_end() -> None:
    gate = Gate()

    @process("same", batched=True)
    def same(xp: Any, x: Any) -> Any:
        gate.hold()
        return x

    async def main() -> None:
        async with serving(same, gates=[gate]) as service:
            task = await service.submit("same", item(1))
            with service.ledger.watchers.watch(task.id) as changed:
                await changed.wait()
                assert task.state is TaskState.RUNNING
                changed.clear()
                gate.open()
                await changed.wait()
                assert (task.public, output(task).tolist()) == (True, [1])

    run(main())

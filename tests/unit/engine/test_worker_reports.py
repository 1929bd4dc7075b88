"""What a batch reports of itself reaches those of its tasks that are still there to hear it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndserve import report_progress
from ndserve.engine.tasks import Tasks
from ndserve.processes.base import process
from ndserve.types import TaskState
from tests.unit.engine.rig import Gate, code, ended, item, output, run, serving


def test_progress_does_not_reach_a_task_that_was_cancelled_before_the_report() -> None:
    gate, told = Gate(), Gate()

    @process("slow", batched=True)
    def slow(xp: Any, x: Any) -> Any:
        gate.hold()
        report_progress(0.5, "half")
        told.hold()
        return x

    async def main() -> None:
        async with serving(slow, gates=[gate, told]) as service:
            gone, stays = [await service.submit("slow", item(n)) for n in range(2)]
            await gate.reached()
            service.cancel(gone)
            with service.ledger.watchers.watch(stays.id) as changed:
                gate.open()
                while stays.progress is None:
                    await changed.wait()
                    changed.clear()
            assert (gone.state, gone.progress) == (TaskState.CANCELLED, None)
            told.open()
            await ended(service, stays)

    run(main())


def test_a_report_just_before_the_end_is_the_one_that_the_task_keeps() -> None:
    @process("done", batched=True)
    def done(xp: Any, x: Any) -> Any:
        report_progress(0.5, "half")
        report_progress(1, "all")
        return x

    async def main() -> None:
        async with serving(done) as service:
            task = await service.submit("done", item(1))
            await ended(service, task)
            assert task.progress == (1.0, "all", 1000.0)

    run(main())


def test_a_task_that_runs_again_tells_nothing_of_its_run_before() -> None:
    gate = Gate()

    @process("failing", batched=True)
    def failing(xp: Any, x: Any) -> Any:
        report_progress(0.5, "half")
        raise ValueError("broken")

    @process("blocking", batched=True)
    def blocking(xp: Any, x: Any) -> Any:
        gate.hold()
        return x

    async def main() -> None:
        async with serving(failing, blocking, gates=[gate]) as service:
            task = await service.submit("failing", item(1))
            await ended(service, task)
            assert task.progress is not None
            blocker = await service.submit("blocking", item(1))
            await gate.reached()  # so that the lane is busy
            again = await Tasks(service).retry(task.id)
            assert (again.progress, again.device, again.started) == (None, None, None)
            gate.open()
            await ended(service, again, blocker)

    run(main())


def test_an_output_of_python_objects_fails_its_own_task_and_not_the_rest_of_the_batch() -> None:
    @process("mixed", batched=True)
    def mixed(xp: Any, x: Any) -> Any:
        return np.array([{}] * len(x), dtype=object) if (x[:, 0] < 0).any() else x

    async def main() -> None:
        async with serving(mixed) as service:
            tasks = [await service.submit("mixed", item(n)) for n in (1, -1, 2)]
            await ended(service, *tasks)
            assert [code(task) for task in tasks] == [None, "execution_failed", None]
            assert [output(tasks[0]).tolist(), output(tasks[2]).tolist()] == [[1], [2]]

    run(main())

"""The worker and the model cache: loads that many tasks wait for, loads that fail, and processes that call models."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ndserve.errors import ModelLoadError
from ndserve.model_info import ModelInfo
from ndserve.processes.base import process
from ndserve.types import TaskState
from tests.unit.engine.rig import Gate, Shelf, code, ended, item, model_info, output, run, serving, tick

X = item(1, 2, 3, 4)


@process("negate", batched=True)
def negate(xp: Any, x: Any) -> Any:
    return -x


@process("chain", batched=True, models=["first", "second"])
def chain(xp: Any, models: Any, x: Any) -> Any:
    return models["second"](x=models["first"](x))


def test_a_model_is_loaded_once_however_many_tasks_wait_for_it() -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Shelf(on_open=lambda info: gate.hold())
        async with serving(models=[model_info()], shelf=shelf, gates=[gate]) as service:
            tasks = [await service.submit("m", X * n) for n in range(20)]
            await gate.reached()
            tasks += [await service.submit("m", X * n) for n in range(20, 40)]
            await tick()
            assert {task.state for task in tasks} == {TaskState.QUEUED}
            gate.open()
            await ended(service, *tasks)
            assert shelf.opened == ["m"]
            for number, task in enumerate(tasks):
                np.testing.assert_array_equal(output(task, "y"), X * number * 2)

    run(main())


def test_the_tasks_that_waited_for_a_load_run_as_one_batch() -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Shelf(on_open=lambda info: gate.hold())
        async with serving(models=[model_info()], shelf=shelf, gates=[gate]) as service:
            tasks = [await service.submit("m", X) for _ in range(20)]
            gate.open()
            await ended(service, *tasks)
            assert service.stats()["batches"]["count"] == 1

    run(main())


def test_other_targets_go_on_while_a_model_loads() -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Shelf(on_open=lambda info: gate.hold())
        async with serving(negate, models=[model_info()], shelf=shelf, gates=[gate]) as service:
            waiting = await service.submit("m", X)
            await gate.reached()
            outputs = await service.infer("negate", item(1))
            assert outputs["output"].tolist() == [-1]
            assert waiting.state is TaskState.QUEUED
            gate.open()
            await ended(service, waiting)

    run(main())


def test_a_load_that_fails_gives_every_waiting_task_its_error() -> None:
    async def main() -> None:
        async with serving(models=[model_info()], shelf=Shelf(on_open=refuse)) as service:
            tasks = [await service.submit("m", X) for _ in range(5)]
            await ended(service, *tasks)
            for task in tasks:
                assert task.failure is not None
                assert task.failure == ("model_load_failed", "m is torn", 500)
            assert service.stats()["queue"]["live"] == 0

    run(main())


def refuse(info: ModelInfo) -> None:
    raise ModelLoadError(f"{info.name} is torn")


def test_an_unforeseen_error_of_a_load_fails_the_waiting_tasks_too() -> None:
    async def main() -> None:
        def fail(info: ModelInfo) -> None:
            raise MemoryError

        async with serving(models=[model_info()], shelf=Shelf(on_open=fail)) as service:
            task = await service.submit("m", X)
            await ended(service, task)
            assert code(task) == "model_load_failed"

    run(main())


def test_other_targets_go_on_after_a_load_has_failed() -> None:
    async def main() -> None:
        async with serving(negate, models=[model_info()], shelf=Shelf(on_open=refuse)) as service:
            failed = await service.submit("m", X)
            others = [await service.submit("negate", item(n)) for n in range(5)]
            await ended(service, failed, *others)
            assert [output(task).tolist() for task in others] == [[-n] for n in range(5)]

    run(main())


def test_the_next_task_after_a_failed_load_tries_again() -> None:
    async def main() -> None:
        shelf = Shelf(on_open=refuse)
        async with serving(models=[model_info()], shelf=shelf) as service:
            failed = await service.submit("m", X)
            await ended(service, failed)
            shelf.on_open = lambda info: None
            again = await service.submit("m", X)
            await ended(service, again)
            assert (code(failed), again.state) == ("model_load_failed", TaskState.SUCCEEDED)
            assert shelf.opened == ["m", "m"]

    run(main())


def test_a_model_over_the_whole_budget_fails_its_tasks_alone() -> None:
    async def main() -> None:
        async with serving(negate, models=[model_info(nbytes=11)], budget=10) as service:
            task = await service.submit("m", X)
            await ended(service, task)
            assert code(task) == "model_too_large"
            assert (await service.infer("negate", item(1)))["output"].tolist() == [-1]

    run(main())


def test_models_that_do_not_fit_together_take_turns_and_every_task_is_served() -> None:
    async def main() -> None:
        shelf = Shelf()

        def give_up_in_the_end(info: ModelInfo) -> None:
            assert len(shelf.opened) < 100, "the models evict each other before they run"

        shelf.on_open = give_up_in_the_end
        models = [model_info("first"), model_info("second")]
        async with serving(models=models, shelf=shelf, budget=10) as service:
            tasks = [await service.submit(name, X * n) for n in range(5) for name in ("first", "second")]
            await ended(service, *tasks)
            for number, task in enumerate(tasks):
                np.testing.assert_array_equal(output(task, "y"), X * (number // 2) * 2)
            assert service.stats()["models"]["evictions"] >= 1

    run(main())


def test_a_model_under_steady_traffic_makes_room_for_one_that_waits() -> None:
    async def main() -> None:
        models = [model_info("busy"), model_info("waiting")]
        async with serving(models=models, budget=10, max_batch=1) as service:
            traffic = [await service.submit("busy", X) for _ in range(3)]
            await ended(service, traffic[0])
            waiting = await service.submit("waiting", X)
            served = 0
            while waiting.live and served < 100:
                traffic.append(await service.submit("busy", X))
                await ended(service, traffic.pop(0))
                served += 1
            assert not waiting.live
            await ended(service, *traffic)

    run(main())


def test_a_process_calls_two_models_and_both_are_loaded() -> None:
    async def main() -> None:
        shelf = Shelf({"first": lambda x: x + 1, "second": lambda x: x * 10})
        models = [model_info("first"), model_info("second")]
        async with serving(chain, models=models, shelf=shelf) as service:
            outputs = await service.infer("chain", X)
            assert outputs["output"].tolist() == [20, 30, 40, 50]
            assert sorted(shelf.opened) == ["first", "second"]

    run(main())


def test_a_process_fails_when_one_of_its_models_does_not_load() -> None:
    async def main() -> None:
        def refuse_second(info: ModelInfo) -> None:
            if info.name == "second":
                refuse(info)

        models = [model_info("first"), model_info("second")]
        async with serving(chain, models=models, shelf=Shelf(on_open=refuse_second)) as service:
            task = await service.submit("chain", X)
            await ended(service, task)
            assert task.failure is not None
            assert task.failure.message == "second is torn"
            assert (await service.infer("first", X))["y"].tolist() == [2, 4, 6, 8]

    run(main())


def test_too_many_arrays_for_a_model_fail_the_process_with_a_clear_message() -> None:
    @process("wrong", batched=True, models=["m"])
    def wrong(xp: Any, models: Any, x: Any) -> Any:
        return models["m"](x, x)

    async def main() -> None:
        async with serving(wrong, models=[model_info()]) as service:
            task = await service.submit("wrong", X)
            await ended(service, task)
            assert task.failure is not None
            assert "model 'm' takes 1 inputs, not 2" in task.failure.message

    run(main())


def test_a_model_that_is_loaded_ahead_is_not_loaded_again() -> None:
    async def main() -> None:
        shelf = Shelf()
        async with serving(models=[model_info()], shelf=shelf, start=False) as service:
            await service.start([service.target("m")])
            assert shelf.opened == ["m"]
            assert service.target("m").batching.mode == "on"
            await service.infer("m", X)
            assert shelf.opened == ["m"]

    run(main())


def test_a_start_that_cannot_load_ahead_fails_with_the_loads_error() -> None:
    async def main() -> None:
        async with serving(models=[model_info()], shelf=Shelf(on_open=refuse), start=False) as service:
            with pytest.raises(ModelLoadError, match="m is torn"):
                await service.start([service.target("m")])

    run(main())


def test_a_task_that_comes_while_a_model_is_probed_runs_when_the_probe_has_ended() -> None:
    async def main() -> None:
        gate = Gate()

        def slow(x: Any) -> Any:
            gate.hold()
            return x

        async with serving(negate, models=[model_info()], shelf=Shelf({"m": slow}), gates=[gate]) as service:
            warming = asyncio.create_task(service.worker.loading.warm(service.target("m")))
            await gate.reached()
            task = await service.submit("negate", item(1))
            await tick()
            gate.open()
            await warming
            await tick()
            assert task.state is not TaskState.QUEUED
            await ended(service, task)

    run(main())

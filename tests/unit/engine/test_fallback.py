"""Tasks of a version that does not load, or is no longer there: they go on with another, or learn why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ndserve.errors import ModelChangedError, ModelLoadError
from ndserve.model_info import ModelInfo
from ndserve.processes.base import process
from ndserve.types import TaskOptions
from tests.unit.engine.managed import (
    Revisions,
    X,
    breaks,
    default,
    factor,
    lay,
    let_go,
    managing,
    refresh,
)
from tests.unit.engine.rig import Gate, code, ended, output, run, tick


@process("through", batched=True, models=["m"])
def through(xp: Any, models: Any, x: Any) -> Any:
    return models["m"](x)


def test_tasks_that_would_take_any_version_go_on_with_the_one_that_loads(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        lay(tmp_path, version=2)
        async with managing(tmp_path, shelf=breaks("2")) as (_, service):
            tasks = [await service.submit("m", X * number) for number in range(3)]
            await ended(service, *tasks)
            assert [output(task, "y")[0] for task in tasks] == [0, 1, 2]
            assert {task.key.version for task in tasks} == {"1"}
            assert default(service) == "1"

    run(main())


def test_a_task_for_the_version_that_does_not_load_fails_with_the_reason(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        lay(tmp_path, version=2)
        async with managing(tmp_path, shelf=breaks("2")) as (_, service):
            named = TaskOptions(version_named=True)
            task = await service.submit(service.target("m", "2"), X, options=named)
            await ended(service, task)
            assert (code(task), task.key.version) == ("model_load_failed", "2")

    run(main())


def test_a_task_that_does_not_fit_the_other_version_fails_with_the_reason_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path, axes=("batch", 7))
        lay(tmp_path, version=2)
        async with managing(tmp_path, shelf=breaks("2")) as (_, service):
            task = await service.submit("m", X)
            await ended(service, task)
            assert code(task) == "model_load_failed"

    run(main())


def test_a_process_calls_the_version_that_loads(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        lay(tmp_path, version=2)
        async with managing(tmp_path, through, shelf=breaks("2")) as (management, service):
            task = await service.submit("through", X)
            await ended(service, task)
            assert output(task)[0] == 1
            assert service.target("through").models[0].version == "1"
            await let_go(management)

    run(main())


def test_a_task_that_names_a_version_goes_on_with_what_has_taken_its_place(tmp_path: Path) -> None:
    async def main() -> None:
        shelf, gate = Revisions(), Gate()
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            shelf.on_open = lambda info: hold_and_refuse(gate) if info.revision == 0 else None
            task = await service.submit("m", X, options=TaskOptions(version_named=True))
            await gate.reached()
            lay(tmp_path)
            await refresh(management, tmp_path)
            gate.open()
            await ended(service, task)
            assert (code(task), task.key.revision) == (None, service.target("m").revision)

    run(main())


def hold_and_refuse(gate: Gate) -> None:
    gate.hold()
    raise ModelLoadError("the file is gone")


def test_a_load_that_nobody_waits_for_is_given_up_with_its_target(tmp_path: Path) -> None:
    async def main() -> None:
        size = lay(tmp_path, "other").stat().st_size
        lay(tmp_path)
        async with managing(tmp_path, budget=size) as (management, service):
            await factor(service, "other")
            with service.cache.lease(service.target("other").models):
                task = await service.submit("m", X)
                await tick()
                service.cancel(task)
                await management.unload("m")
                await let_go(management)
            assert service.cache.resident(service.target("other").models[0])
            assert [name for name, *_ in service.cache._books.models] == ["other"]
            assert not service.worker.loading._loads.keys() - {service.target("other").key}

    run(main())


@pytest.mark.parametrize("version", [None, "1"])
def test_tasks_for_a_file_that_has_changed_run_on_what_is_there_now(tmp_path: Path, version: str | None) -> None:
    def changed(info: ModelInfo) -> None:
        if info.revision == 0:
            raise ModelChangedError("the file has changed")

    async def main() -> None:
        shelf = Revisions()
        shelf.on_open = changed
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            management.takeover.follow(tmp_path)
            lay(tmp_path)
            options = TaskOptions(version_named=version is not None)
            task = await service.submit(service.target("m", version), X, options=options)
            await ended(service, task)
            assert (code(task), output(task, "y")[0]) == (None, 1 + service.target("m").revision)
            await let_go(management)

    run(main())


def test_tasks_for_a_file_that_has_changed_and_is_of_no_use_fail_with_that(tmp_path: Path) -> None:
    def changed(info: ModelInfo) -> None:
        raise ModelChangedError("the file has changed")

    async def main() -> None:
        shelf = Revisions()
        shelf.on_open = changed
        path = lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            management.takeover.follow(tmp_path)
            path.write_bytes(b"half")
            task = await service.submit("m", X)
            await ended(service, task)
            assert code(task) == "model_changed"

    run(main())

"""Unloads, and the index of what is served, was served, or could be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ndserve.engine.management import Entry
from ndserve.errors import ModelLoadError, UnavailableError, UnknownTargetError
from ndserve.processes.base import process
from ndserve.types import TaskState
from tests.unit.engine.managed import (
    ALONE,
    BAD,
    HELD,
    Revisions,
    X,
    entry,
    factor,
    lay,
    let_go,
    managing,
    states,
)
from tests.unit.engine.rig import Gate, check_empty, code, ended, output, run, tick


@process("negate", batched=True)
def negate(xp: Any, x: Any) -> Any:
    return -x


def test_an_unloaded_model_cannot_be_asked_and_its_memory_is_free(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await factor(service)
            await management.unload("m")
            with pytest.raises(UnavailableError, match="unloaded"):
                await service.submit("m", X)
            await let_go(management)
            assert service.cache.nbytes == 0

    run(main())


def test_a_pinned_model_is_unloaded_too(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path, options="pinned = true")
        async with managing(tmp_path) as (management, service):
            await factor(service)
            assert service.target("m").models[0].options.pinned
            await management.unload("m")
            await let_go(management)
            assert service.cache.nbytes == 0

    run(main())


def test_the_memory_is_free_only_when_the_last_task_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path, options=ALONE)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            (info,) = service.target("m").models
            running = await service.submit("m", HELD)
            await shelf.gate.reached()
            queued = [await service.submit("m", X) for _ in range(3)]
            await management.unload("m")
            await tick(20)
            assert service.cache.resident(info) is not None
            shelf.gate.open()
            await ended(service, running, *queued)
            await let_go(management)
            assert {task.state for task in (running, *queued)} == {TaskState.SUCCEEDED}
            assert service.cache.resident(info) is None

    run(main())


def test_tasks_that_are_cancelled_do_not_keep_an_unloaded_model(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path, options=ALONE)
        lay(tmp_path, "other", options=ALONE)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            await factor(service)
            running = await service.submit("other", HELD)
            await shelf.gate.reached()
            await service.submit("other", X)  # which the lane takes in advance
            queued = await service.submit("m", X)
            await management.unload("m")
            await tick(20)
            assert (await entry(management, "m")).state == "UNLOADING"
            service.cancel(queued)
            await let_go(management)
            assert (await entry(management, "m")).state == "UNAVAILABLE"
            shelf.gate.open()
            await ended(service, running)

    run(main())


def test_a_batch_that_fails_after_its_target_was_unloaded_is_still_run_in_halves(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            await factor(service)
            target = service.target("m")
            running = await service.submit("m", HELD)
            await shelf.gate.reached()
            tasks = [await service.submit("m", BAD if n == 2 else X * n) for n in range(5)]
            await management.unload("m")
            shelf.gate.open()
            await ended(service, running, *tasks)
            await let_go(management)
            assert [code(task) for task in tasks] == [None, None, "execution_failed", None, None]
            assert [output(task, "y")[0] for n, task in enumerate(tasks) if n != 2] == [0, 1, 3, 4]
            assert target.forgotten
            assert service.cache.nbytes == 0
            check_empty(service)

    run(main())


def test_a_caller_who_found_a_model_before_it_went_is_refused(tmp_path: Path) -> None:
    """A body takes its time to arrive; its target may be gone by then."""

    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await factor(service)
            target = service.target("m")
            await management.unload("m")
            await let_go(management)
            with pytest.raises(UnavailableError, match="send it again"):
                await service.submit(target, X)
            check_empty(service)

    run(main())


def test_an_unloaded_model_is_loaded_again(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await management.unload("m")
            await management.load("m")
            assert await factor(service) == 2
            assert await states(management) == [("m", "1", "READY")]

    run(main())


def test_what_was_never_there_cannot_be_unloaded(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "torn.onnx").write_bytes(b"no model")
        async with managing(tmp_path) as (management, _):
            with pytest.raises(UnknownTargetError):
                await management.unload("m")
            with pytest.raises(ModelLoadError):
                await management.unload("torn")

    run(main())


def test_of_two_unloads_at_the_same_time_one_is_told_that_it_comes_late(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, _):
            both = await asyncio.gather(management.unload("m"), management.unload("m"), return_exceptions=True)
            assert [type(end) for end in both] == [type(None), UnavailableError]
            assert await entry(management, "m") == Entry("m", "1", "UNAVAILABLE", "unloaded")

    run(main())


def test_an_unload_waits_for_the_load_that_is_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Revisions(gate)
        shelf.on_open = lambda info: gate.hold()
        async with managing(tmp_path, shelf=shelf) as (management, service):
            lay(tmp_path)
            load = asyncio.create_task(management.load("m"))
            await gate.reached()
            unload = asyncio.create_task(management.unload("m"))
            await tick()
            assert not unload.done()
            gate.open()
            await asyncio.gather(load, unload)
            with pytest.raises(UnavailableError):
                service.target("m")

    run(main())


def test_the_index_lists_what_is_served_and_what_only_lies_there(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path, version=9)
        lay(tmp_path, version=10)
        (tmp_path / "torn.onnx").write_bytes(b"no model")
        async with managing(tmp_path, negate) as (management, _):
            lay(tmp_path, "new")
            assert await states(management) == [
                ("m", "9", "READY"),
                ("m", "10", "READY"),
                ("negate", "1", "READY"),
                ("new", "", ""),
                ("torn", "1", "UNAVAILABLE"),
            ]
            assert (await entry(management, "torn")).reason

    run(main())


def test_a_model_is_unloading_until_its_last_task_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path, options=ALONE)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            task = await service.submit("m", HELD)
            await shelf.gate.reached()
            await management.unload("m")
            assert await entry(management, "m") == Entry("m", "1", "UNLOADING", "unloaded")
            shelf.gate.open()
            await ended(service, task)
            await let_go(management)
            assert await entry(management, "m") == Entry("m", "1", "UNAVAILABLE", "unloaded")

    run(main())


def test_a_model_that_comes_back_is_loading_until_it_is_there(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Revisions(gate)
        shelf.on_open = lambda info: gate.hold()
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, _):
            await management.unload("m")
            load = asyncio.create_task(management.load("m"))
            await gate.reached()
            assert (await entry(management, "m")).state == "LOADING"
            gate.open()
            await load
            assert (await entry(management, "m")).state == "READY"

    run(main())

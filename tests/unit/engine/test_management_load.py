"""Loads: what lies in the repository, or what a client sends, takes over from what is served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ndserve.engine.management import Change, Management
from ndserve.errors import InvalidInputError, ModelLoadError
from ndserve.model_info import ModelInfo, ModelOptions
from tests.unit.engine.managed import (
    ALONE,
    HELD,
    Revisions,
    X,
    factor,
    lay,
    let_go,
    managing,
    sent,
    states,
)
from tests.unit.engine.rig import Gate, all_closed, ended, output, run, tick


def after_the_first(act: Callable[[], object]) -> Callable[[ModelInfo], object]:
    """What a load does from the first replacement on."""
    return lambda info: act() if info.revision else None


def refuse() -> None:
    raise ModelLoadError("m is torn")


def test_a_changed_file_takes_over_only_once_it_is_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Revisions(gate)
        shelf.on_open = after_the_first(gate.hold)
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            assert await factor(service) == 1
            lay(tmp_path)
            load = asyncio.create_task(management.load("m"))
            await gate.reached()
            assert await factor(service) == 1
            gate.open()
            await load
            assert await factor(service) == 2

    run(main())


def test_a_replaced_model_gives_its_memory_back(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await factor(service)
            (old,) = service.target("m").models
            lay(tmp_path)
            await management.load("m")
            await let_go(management)
            assert service.cache.resident(old) is None
            assert service.cache.resident(service.target("m").models[0]) is not None

    run(main())


def test_a_load_that_fails_leaves_the_old_one_serving(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        shelf.on_open = after_the_first(refuse)
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            assert await factor(service) == 1
            lay(tmp_path)
            with pytest.raises(ModelLoadError, match="m is torn"):
                await management.load("m")
            assert await factor(service) == 1
            assert await states(management) == [("m", "1", "READY")]
            assert service.cache.nbytes == service.target("m").models[0].nbytes

    run(main())


def test_a_file_that_is_no_model_leaves_the_old_one_serving(tmp_path: Path) -> None:
    async def main() -> None:
        path = lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            path.write_bytes(b"no model")
            with pytest.raises(ModelLoadError, match="'m' version 1 cannot be served"):
                await management.load("m")
            assert await factor(service) == 1

    run(main())


def test_a_load_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Revisions(gate)
        shelf.on_open = after_the_first(gate.hold)
        lay(tmp_path, options="pinned = true")
        async with managing(tmp_path, shelf=shelf) as (management, service):
            await factor(service)
            lay(tmp_path, options="pinned = true")
            load = asyncio.create_task(management.load("m"))
            await gate.reached()
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            gate.open()
            (unwanted,) = [each for each in service.cache._books.models.values() if each.info.revision]
            assert unwanted.load is not None
            await asyncio.wait([unwanted.load])
            await all_closed(service)
            assert await factor(service) == 1
            assert service.cache.nbytes == service.target("m").models[0].nbytes

    run(main())


def test_tasks_queued_before_a_load_run_on_the_old_revision_and_those_after_on_the_new_one(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path, options=ALONE)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            running = await service.submit("m", HELD)
            await shelf.gate.reached()
            before = [await service.submit("m", X * n) for n in (1, 2)]
            lay(tmp_path, options=ALONE)
            await management.load("m")
            after = [await service.submit("m", X * n) for n in (1, 2)]
            shelf.gate.open()
            await ended(service, running, *before, *after)
            assert [output(task, "y")[0] for task in (running, *before)] == [HELD[0], 1, 2]
            assert [output(task, "y")[0] for task in after] == [2, 4]

    run(main())


def test_a_model_that_has_not_changed_is_not_loaded_again(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            target = service.target("m")
            await management.load("m")
            await management.load("m")
            assert shelf.opened == ["m"]
            assert service.target("m") is target

    run(main())


def test_options_that_have_changed_are_taken(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            (tmp_path / "m" / "model.toml").write_text("max_batch_size = 3")
            await management.load("m")
            assert service.target("m").max_batch_size == 3

    run(main())


def test_a_new_version_answers_beside_the_one_that_was_there(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            lay(tmp_path, version=2)
            await management.load("m")
            assert service.target("m").version == "2"
            assert [target.version for target in service.targets.versions("m")] == ["1", "2"]

    run(main())


def test_a_broken_newest_version_leaves_the_older_one_to_be_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            lay(tmp_path, version=2).write_bytes(b"no model")
            await management.load("m")
            assert service.target("m").version == "1"
            assert await states(management) == [("m", "1", "READY"), ("m", "2", "UNAVAILABLE")]

    run(main())


def test_a_model_that_was_not_there_at_the_start_is_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        async with managing(tmp_path) as (management, service):
            lay(tmp_path)
            await management.load("m")
            assert await factor(service) == 2

    run(main())


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "../m", "m/1", "m\n", "ä"])
def test_a_name_that_no_model_can_have_is_refused(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        async with managing(tmp_path) as (management, _):
            with pytest.raises(InvalidInputError, match="a model cannot be called"):
                await management.load(name)

    run(main())


def test_a_model_that_does_not_lie_in_the_repository_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with managing(tmp_path) as (management, service):
            with pytest.raises(ModelLoadError, match=r"the model repository has no m/VERSION/model\.onnx"):
                await management.load("m")
            with pytest.raises(ModelLoadError, match="the model repository has no m/"):
                await Management(service, None).load("m")

    run(main())


def test_a_version_that_lies_there_twice_is_refused_without_a_path_of_the_machine(tmp_path: Path) -> None:
    async def main() -> None:
        path = lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            (tmp_path / "m.onnx").write_bytes(path.read_bytes())
            with pytest.raises(ModelLoadError, match="'m' lies in the model repository twice") as caught:
                await management.load("m")
            assert str(tmp_path) not in caught.value.message
            assert await factor(service) == 1

    run(main())


def test_loads_of_one_name_at_the_same_time_stand_in_line(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Revisions(gate)
        shelf.on_open = after_the_first(gate.hold)
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            loads = [asyncio.create_task(management.load("m", Change(files=sent((None, n))))) for n in (5, 6)]
            await gate.reached()
            await tick()
            assert [len(shelf.revisions), service.targets._revision] == [1, 1]
            gate.open()
            await asyncio.gather(*loads)
            assert service.target("m").inputs[0].shape == (None, 6)
            assert shelf.revisions == [1, 2]

    run(main())


def test_options_that_are_sent_count_until_the_next_load(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path, options="max_batch_size = 3\nmax_wait_ms = 7")
        async with managing(tmp_path) as (management, service):
            await management.load("m", Change(options=lambda info: replace(info.options, max_batch_size=5)))
            assert (service.target("m").max_batch_size, service.target("m").max_wait) == (5, 0.007)
            await management.load("m")
            assert service.target("m").max_batch_size == 3

    run(main())


def test_options_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        def fail(info: ModelInfo) -> ModelOptions:
            raise InvalidInputError("no such input")

        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            target = service.target("m")
            with pytest.raises(InvalidInputError, match="no such input"):
                await management.load("m", Change(fail, sent()))
            assert service.target("m") is target
            assert management.takeover.folders == {}

    run(main())

"""What lies in the repository comes to be served: a new version only once it is loaded, a broken one never."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from ndserve.engine.management import Change
from ndserve.errors import ModelLoadError, ModelMemoryFullError, UnknownTargetError
from ndserve.model_cache.cache import Patience
from tests.unit.engine.managed import (
    HELD,
    Revisions,
    breaks,
    default,
    factor,
    lay,
    let_go,
    managing,
    refresh,
    sent,
    versions,
)
from tests.unit.engine.rig import code, ended, run

NO_PATIENCE = Patience(load_wait=0.0, load_retry=0.0)


def test_a_new_version_is_loaded_before_it_takes_over(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await factor(service)
            old = service.target("m")
            lay(tmp_path, version=2)
            await refresh(management, tmp_path)
            assert (versions(service), default(service)) == (["1", "2"], "2")
            assert service.cache.resident(service.target("m").models[0])
            assert service.target("m", "1") is old

    run(main())


def test_a_model_that_is_new_in_the_folder_is_loaded_at_its_first_request(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        async with managing(tmp_path, shelf=shelf) as (management, service):
            lay(tmp_path)
            await refresh(management, tmp_path)
            assert (versions(service), shelf.opened) == (["1"], [])
            await factor(service)
            assert shelf.opened == ["m"]

    run(main())


def test_an_older_version_that_comes_later_is_not_loaded_for_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path, version=5)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            lay(tmp_path, version=4)
            await refresh(management, tmp_path)
            assert (versions(service), default(service), shelf.opened) == (["4", "5"], "5", [])

    run(main())


def test_a_version_that_does_not_load_is_listed_and_does_not_answer(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path, shelf=breaks("2")) as (management, service):
            await factor(service)
            lay(tmp_path, version=2)
            with pytest.raises(ModelLoadError, match="m/2 is torn"):
                await refresh(management, tmp_path)
            assert (versions(service), default(service)) == (["1", "2"], "1")
            assert service.cache.known(service.target("m", "2").models[0]).state == "FAILED"
            assert await factor(service) == 1

    run(main())


def test_a_version_that_loads_after_all_is_the_default_again(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = breaks("2")
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            lay(tmp_path, version=2)
            with pytest.raises(ModelLoadError):
                await refresh(management, tmp_path)
            shelf.on_open = lambda info: None
            await management.load_version("m", "2")
            assert default(service) == "2"

    run(main())


def test_a_file_that_changed_to_one_that_does_not_load_leaves_what_was_there(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            await factor(service)
            old = service.target("m")
            shelf.on_open = breaks("1").on_open
            lay(tmp_path)
            with pytest.raises(ModelLoadError):
                await refresh(management, tmp_path)
            assert service.target("m") is old
            assert management.takeover.faults == {("m", "1"): "m/1 is torn"}

    run(main())


def test_a_file_that_is_no_model_any_more_leaves_what_was_there(tmp_path: Path) -> None:
    async def main() -> None:
        path = lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await factor(service)
            old = service.target("m")
            path.write_bytes(b"half")
            with pytest.raises(ModelLoadError):
                await refresh(management, tmp_path)
            assert service.target("m") is old
            lay(tmp_path)
            await refresh(management, tmp_path)
            assert management.takeover.faults == {}
            assert service.target("m") is not old

    run(main())


def test_a_version_that_goes_from_the_folder_answers_no_more_but_finishes_its_tasks(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path)
        lay(tmp_path, version=2)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            await factor(service)
            gone, task = service.target("m"), await service.submit("m", HELD)
            await shelf.gate.reached()
            shutil.rmtree(tmp_path / "m" / "2")
            await refresh(management, tmp_path)
            assert (versions(service), gone.forgotten) == (["1"], False)
            shelf.gate.open()
            await ended(service, task)
            await let_go(management)
            assert (code(task), gone.forgotten) == (None, True)

    run(main())


def test_a_model_that_goes_from_the_folder_is_unknown(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            shutil.rmtree(tmp_path / "m")
            await refresh(management, tmp_path)
            with pytest.raises(UnknownTargetError):
                service.target("m")

    run(main())


@pytest.mark.parametrize("how", ["unloaded", "sent", "given options"])
def test_what_a_client_has_changed_does_not_follow_the_folder(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            if how == "unloaded":
                await management.unload("m")
            elif how == "sent":
                await management.load("m", Change(files=sent(), mark="x"))
            else:
                await management.load("m", Change(options=lambda info: info.options, mark="x"))
            before = service.targets.changes
            lay(tmp_path, version=2)
            await refresh(management, tmp_path)
            assert service.targets.changes == before

    run(main())


def test_a_folder_that_has_not_changed_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        lay(tmp_path, "broken").write_bytes(b"half")
        async with managing(tmp_path) as (management, service):
            before = service.targets.changes
            await refresh(management, tmp_path)
            await management.takeover.refresh("broken", tmp_path)
            assert service.targets.changes == before
            assert management.takeover.names() == {"m", "broken"}

    run(main())


def test_what_has_come_and_cannot_be_served_is_logged_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            lay(tmp_path, version=2).write_bytes(b"half")
            await refresh(management, tmp_path)
            assert versions(service) == ["1"]

    run(main())
    (told,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("not served: m/2: the file is not an ONNX model")


def test_a_version_for_which_there_is_no_room_says_so_and_is_not_served(tmp_path: Path) -> None:
    async def main() -> None:
        size = lay(tmp_path, "other").stat().st_size
        lay(tmp_path)
        async with managing(tmp_path, budget=2 * size, patience=NO_PATIENCE) as (management, service):
            await factor(service, "other")
            await factor(service)
            with service.cache.lease([service.target("other").models[0], service.target("m").models[0]]):
                lay(tmp_path, version=2)
                with pytest.raises(ModelMemoryFullError):
                    await refresh(management, tmp_path)
            assert versions(service) == ["1"]
            assert "no room" in service.targets.broken["m", "2"].problem

    run(main())


def test_a_pinned_model_is_replaced_also_where_both_do_not_fit(tmp_path: Path) -> None:
    async def main() -> None:
        size = lay(tmp_path, options="pinned = true").stat().st_size
        async with managing(tmp_path, budget=size, patience=NO_PATIENCE) as (management, service):
            await factor(service)
            lay(tmp_path, options="pinned = true")
            await refresh(management, tmp_path)
            assert await factor(service) == 1 + service.target("m").revision

    run(main())


def test_a_model_is_pinned_as_a_whole_or_by_its_version(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        lay(tmp_path, version=2)
        async with managing(tmp_path) as (management, service):

            def pinned() -> list[bool]:
                return [service.cache.known(target.models[0]).pinned for target in service.targets.versions("m")]

            management.pin("m", None, pinned=True)
            both = pinned()
            management.pin("m", "2", pinned=False)
            assert (both, pinned()) == ([True, True], [True, False])

    run(main())


def test_a_version_that_did_not_load_is_tried_again_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = breaks("2")
        lay(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            lay(tmp_path, version=2)
            with pytest.raises(ModelLoadError):
                await refresh(management, tmp_path)
            shelf.on_open = lambda info: None
            await asyncio.wait(management.takeover._jobs)
            assert default(service) == "2"

    run(main())


def test_a_load_that_is_asked_for_tries_the_newest_again(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = breaks("2")
        lay(tmp_path)
        patience = Patience(load_wait=0.0, load_retry=1000.0)
        async with managing(tmp_path, shelf=shelf, patience=patience) as (management, service):
            lay(tmp_path, version=2)
            for _ in range(2):
                with pytest.raises(ModelLoadError, match="m/2 is torn"):
                    await management.load("m")
            assert default(service) == "1"
            shelf.on_open = lambda info: None
            await management.load("m")
            assert default(service) == "2"

    run(main())


def test_a_pinned_default_does_not_make_room_for_an_older_version(tmp_path: Path) -> None:
    async def main() -> None:
        size = lay(tmp_path, version=5, options="pinned = true").stat().st_size
        lay(tmp_path, version=4, options="pinned = true")
        async with managing(tmp_path, budget=size, patience=NO_PATIENCE) as (management, service):
            await factor(service)
            lay(tmp_path, version=4, options="pinned = true")
            with pytest.raises(ModelMemoryFullError):
                await refresh(management, tmp_path)
            assert service.cache.resident(service.target("m").models[0])

    run(main())


@pytest.mark.parametrize("version", [None, "1"])
def test_what_a_client_has_said_of_a_pin_holds_for_new_files(tmp_path: Path, version: str | None) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            management.pin("m", version, pinned=True)
            lay(tmp_path)
            lay(tmp_path, version=2)
            await refresh(management, tmp_path)
            pinned = [service.cache.known(target.models[0]).pinned for target in service.targets.versions("m")]
            assert pinned == [True, version is None]

    run(main())

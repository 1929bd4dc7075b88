"""Models that clients send: their files are there for as long as something runs from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndserve.engine.management import Change, Management
from ndserve.errors import ModelLoadError, StoreFullError
from ndserve.types import TaskState
from tests.unit.engine.managed import ALONE, HELD, Revisions, entry, factor, lay, let_go, managing, sent
from tests.unit.engine.rig import ended, run, tick


def folder_of(management: Management, name: str = "m") -> Path:
    return management.takeover.folders[name].path


def test_files_that_are_sent_take_over_and_go_with_the_next_load(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await management.load("m", Change(files=sent(("batch", 7))))
            first = folder_of(management)
            assert (first / "m" / "1" / "model.onnx").is_file()
            assert service.target("m").inputs[0].shape == (None, 7)
            await management.load("m", Change(files=sent(("batch", 8))))
            second = folder_of(management)
            await let_go(management)
            assert (first.exists(), second.exists()) == (False, True)
            await management.load("m")
            await let_go(management)
            assert not second.exists()
            assert management.takeover.folders == {}
            assert service.target("m").inputs[0].shape == (None, 4)

    run(main())


def test_files_that_are_sent_need_no_repository(tmp_path: Path) -> None:
    async def main() -> None:
        async with managing(tmp_path) as (_, service):
            management = Management(service, None)
            await management.load("new", Change(files=sent()))
            assert await factor(service, "new") == 2
            assert (await entry(management, "new")).state == "READY"
            await management.close()

    run(main())


def test_the_files_of_a_task_that_runs_stay_until_it_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        async with managing(tmp_path, shelf=shelf) as (management, service):
            await management.load("m", Change(files=sent() | {"model.toml": ALONE.encode()}))
            folder = folder_of(management)
            task = await service.submit("m", HELD)
            await shelf.gate.reached()
            await management.unload("m")
            await tick(20)
            assert folder.exists()
            shelf.gate.open()
            await ended(service, task)
            await let_go(management)
            assert task.state is TaskState.SUCCEEDED
            assert not folder.exists()

    run(main())


@pytest.mark.parametrize("unloaded", [False, True])
def test_files_that_were_sent_go_at_the_end(tmp_path: Path, unloaded: bool) -> None:
    async def main() -> None:
        async with managing(tmp_path) as (management, _):
            await management.load("m", Change(files=sent()))
            folder = folder_of(management)
            if unloaded:
                await management.unload("m")
            await management.close()
            assert not folder.exists()

    run(main())


@pytest.mark.parametrize("files", [{"1/other.onnx": b""}, {"model.onnx": b""}, {"1/model.onnx": b"no model"}, {}])
def test_files_that_are_no_model_are_refused_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    async def main() -> None:
        lay(tmp_path / "models")
        async with managing(tmp_path / "models") as (management, service):
            with pytest.raises(ModelLoadError):
                await management.load("m", Change(files=files))
            assert await factor(service) == 1

    (tmp_path / "sent").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "sent"))
    run(main())
    assert list((tmp_path / "sent").iterdir()) == []


def test_files_for_which_there_is_no_room_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            monkeypatch.setattr("ndserve.engine.management.write_files", full)
            with pytest.raises(StoreFullError):
                await management.load("m", Change(files=sent()))
            assert await factor(service) == 1

    run(main())


def full(name: str, files: object) -> None:
    raise StoreFullError("no room")

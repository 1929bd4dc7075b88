"""Uploads and deletes: loaded before they are accepted, loaded once, and never under the feet of a task."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ndserve.engine.management import Change, Management
from ndserve.engine.publishing import CHUNK, Publishing
from ndserve.errors import (
    ConflictError,
    InvalidModelError,
    ModelLoadError,
    ModelMemoryFullError,
    StoreFullError,
    UnavailableError,
    UnknownTargetError,
    UnsupportedError,
)
from ndserve.model_cache.cache import Patience
from ndserve.model_cache.disk.repository import scan
from ndserve.model_cache.disk.uploads import Upload
from ndserve.model_info import ModelInfo
from tests.unit.engine.managed import HELD, Revisions, factor, lay, let_go, managing, sent
from tests.unit.engine.rig import code, ended, run, twice

CONTENT = sent()["1/model.onnx"]


async def parts(content: bytes, size: int = 50) -> AsyncIterator[bytes]:
    """The content as it arrives."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def publishing(management: Management) -> Publishing:
    return Publishing(management, 2 * CHUNK)


async def upload(management: Management, version: str = "1", name: str = "m", *, replaces: bool = False) -> bool:
    is_new, _ = await publishing(management).upload(name, version, parts(CONTENT), digest=None, replaces=replaces)
    return is_new


async def retired(management: Management) -> None:
    """Wait until something has been retired."""
    noted, add = asyncio.Event(), management.retiring.add

    def note(*given: Any) -> Any:
        noted.set()
        return add(*given)

    setattr(management.retiring, "add", note)  # noqa: B010 - mypy takes no assignment to a method
    await noted.wait()


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_what_was_loaded_to_be_checked_is_what_serves(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        async with managing(tmp_path, shelf=shelf) as (management, service):
            assert await upload(management)
            await factor(service)
            assert shelf.opened == ["m"]
            info = service.target("m").models[0]
            assert (info.path, info.stamp) == (tmp_path / "m" / "1" / "model.onnx", scan(tmp_path)[0].stamp)

    run(main())


def test_what_was_uploaded_is_loaded_again_from_its_place(tmp_path: Path) -> None:
    async def main() -> None:
        paths: list[Path] = []
        shelf = Revisions()
        shelf.on_open = lambda info: paths.append(info.path)
        size = len(CONTENT)
        async with managing(tmp_path, shelf=shelf, budget=size) as (management, service):
            await upload(management)
            await upload(management, name="other")
            await factor(service)
            assert paths[-1] == tmp_path / "m" / "1" / "model.onnx"

    run(main())


def test_a_model_that_does_not_load_is_refused_and_what_is_there_goes_on(tmp_path: Path) -> None:
    def refuse(info: ModelInfo) -> None:
        if info.version == "2":
            raise ModelLoadError("an operator is unknown")

    async def main() -> None:
        shelf = Revisions()
        shelf.on_open = refuse
        lay(tmp_path)
        before = tree(tmp_path)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            with pytest.raises(InvalidModelError, match="an operator is unknown"):
                await upload(management, "2")
            assert (tree(tmp_path), await factor(service)) == (before, 1)
            assert len(service.cache._books.models) == 1

    run(main())


def test_a_model_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        before = tree(tmp_path)
        patience = Patience(load_wait=0.0, load_retry=0.0)
        async with managing(tmp_path, budget=len(CONTENT), patience=patience) as (management, service):
            await factor(service)
            with service.cache.lease(service.target("m").models), pytest.raises(ModelMemoryFullError):
                await upload(management, "2")
            assert tree(tmp_path) == before

    run(main())


def test_a_version_that_is_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async def never() -> AsyncIterator[bytes]:
            raise AssertionError("the body was read")
            yield b""

        lay(tmp_path)
        async with managing(tmp_path, twice) as (management, _):
            for name in ("m", "twice"):
                with pytest.raises(ConflictError):
                    await publishing(management).upload(name, "1", never(), digest=None, replaces=False)

    run(main())


def test_of_two_uploads_of_one_version_one_is_told_that_it_comes_late(tmp_path: Path) -> None:
    async def main() -> None:
        async with managing(tmp_path) as (management, service):
            found = await asyncio.gather(upload(management), upload(management), return_exceptions=True)
            assert [type(each) for each in found if each is not True] == [ConflictError]
            assert await factor(service) == 2

    run(main())


def test_a_body_that_breaks_off_leaves_nothing_behind(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(CHUNK)
        raise ConnectionError

    async def main() -> None:
        async with managing(tmp_path) as (management, _):
            with pytest.raises(ConnectionError):
                await publishing(management).upload("m", "1", broken(), digest=None, replaces=False)
            assert tree(tmp_path) == []

    run(main())


def test_an_upload_to_an_unloaded_name_is_kept_and_not_served(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await management.unload("m")
            assert await upload(management, "2")
            with pytest.raises(UnavailableError):
                service.target("m")
            await let_go(management)
            assert service.cache.nbytes == 0
            await management.load("m")
            assert service.target("m").version == "2"

    run(main())


def test_a_file_that_goes_before_it_was_seen_in_its_place_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with managing(tmp_path) as (management, service):
            commit = Upload.commit

            def commit_and_lose(self: Upload, replace: bool) -> None:
                commit(self, replace)
                shutil.rmtree(tmp_path / "m")

            monkeypatch.setattr(Upload, "commit", commit_and_lose)
            with pytest.raises(ConflictError, match="meanwhile"):
                await upload(management)
            await let_go(management)
            assert service.cache.nbytes == 0

    run(main())


def test_a_delete_waits_for_the_tasks_of_what_it_deletes(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path)
        lay(tmp_path, version=2)
        async with managing(tmp_path, shelf=shelf) as (management, service):
            await factor(service)
            task = await service.submit("m", HELD)
            await shelf.gate.reached()
            deleting = asyncio.create_task(publishing(management).delete("m", "2"))
            await retired(management)
            assert (service.target("m").version, (tmp_path / "m" / "2").is_dir()) == ("1", True)
            shelf.gate.open()
            await ended(service, task)
            await deleting
            assert (code(task), tree(tmp_path)) == (None, ["m", "m/1", "m/1/model.onnx"])

    run(main())


def test_what_is_not_there_cannot_be_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, _):
            for name, version in (("m", "2"), ("n", None)):
                with pytest.raises(UnknownTargetError):
                    await publishing(management).delete(name, version)

    run(main())


def test_what_a_client_has_sent_goes_on_when_the_folder_is_emptied(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await management.load("m", Change(files=sent(), mark="x"))
            before = await factor(service)
            await publishing(management).delete("m")
            assert (await factor(service), tree(tmp_path)) == (before, [])

    run(main())


def test_an_unloaded_model_that_is_deleted_is_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with managing(tmp_path) as (management, service):
            await management.unload("m")
            await publishing(management).delete("m")
            with pytest.raises(UnknownTargetError):
                service.target("m")

    run(main())


def test_without_a_folder_nothing_can_be_uploaded(tmp_path: Path) -> None:
    async def main() -> None:
        async with managing(tmp_path) as (management, _):
            management.root = None
            with pytest.raises(UnsupportedError, match="--models"):
                await upload(management)

    run(main())


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_delete_that_fails_leaves_the_model_in_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def full(*given: object) -> None:
        raise StoreFullError("read-only")

    async def main() -> None:
        lay(tmp_path)
        lay(tmp_path, version=2)
        async with managing(tmp_path) as (management, service):
            what = "check_writable" if fault == "before" else "remove_version"
            monkeypatch.setattr(f"ndserve.engine.publishing.{what}", full)
            with pytest.raises(StoreFullError):
                await publishing(management).delete("m", "2")
            assert service.target("m").version == "2"
            await factor(service)

    run(main())

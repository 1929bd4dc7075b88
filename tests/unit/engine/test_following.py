"""The model folder is followed: what has been left alone for long enough is looked at, and nothing that is missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ndserve.engine.following import ROOM_SECONDS, SETTLE_SECONDS, Follower, Settling
from ndserve.engine.management import Management
from ndserve.engine.service import InferenceService
from ndserve.errors import ModelMemoryFullError
from tests.unit.engine.managed import Revisions, factor, lay, managing
from tests.unit.engine.rig import Clock, Gate, run, tick


def test_a_name_is_looked_at_when_it_is_due() -> None:
    settling = Settling()
    settling.note(["b", "a"], 5.0)
    assert [settling.take(now) for now in (4.9, 5.0, 6.0)] == [[], ["a", "b"], []]


def test_a_name_that_changes_again_waits_anew() -> None:
    settling = Settling()
    settling.note(["a", "b"], 5.0)
    settling.note(["a"], 7.0)
    assert [settling.take(now) for now in (5.0, 6.9, 7.0)] == [["b"], [], ["a"]]


class Changes:
    """What the file system says, as the test gives it; each turn is taken before `give` returns."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.began = 0
        self._given: asyncio.Queue[set[str] | Exception] = asyncio.Queue()

    async def __call__(self) -> AsyncGenerator[set[str], None]:
        self.began += 1
        while True:
            given = await self._given.get()
            self._given.task_done()
            if isinstance(given, Exception):
                raise given
            yield given

    async def give(self, *names: str, after: float = 0.0) -> None:
        """Say that these names have changed, so many seconds after the last word."""
        self.clock.now += after
        self._given.put_nowait(set(names))
        await self._given.join()

    async def fail(self, error: Exception) -> None:
        self._given.put_nowait(error)
        await self._given.join()


@asynccontextmanager
async def following(
    root: Path, shelf: Revisions | None = None
) -> AsyncIterator[tuple[Changes, Follower, Management, InferenceService]]:
    clock = Clock()
    async with managing(root, shelf=shelf, clock=clock) as (management, service):
        changes = Changes(clock)
        follower = Follower(management.takeover, root, changes, clock)
        follower.start()
        await changes.give()
        await changes.give()  # taken when the first one has been seen to the end
        try:
            yield changes, follower, management, service
        finally:
            await follower.close()


async def to_its_end(follower: Follower, changes: Changes) -> None:
    """Have the follower find what has changed while nobody watched, and serve it."""
    await changes.give()
    await changes.give(after=SETTLE_SECONDS)
    await changes.give()
    await done(follower)
    await follower.close()


async def done(follower: Follower) -> None:
    """Wait until everything that was begun has been looked at."""
    await tick()
    while follower._jobs:
        await asyncio.wait(follower._jobs.values())
        await tick()


def versions(service: InferenceService, name: str = "m") -> list[str]:
    return [target.version for target in service.targets.versions(name)]


def test_a_change_is_looked_at_once_it_has_settled(tmp_path: Path) -> None:
    async def main() -> None:
        async with following(tmp_path) as (changes, follower, _, service):
            lay(tmp_path)
            await changes.give("m")
            await changes.give(after=SETTLE_SECONDS / 2)
            await done(follower)
            assert versions(service) == []
            await changes.give(after=SETTLE_SECONDS / 2)
            await done(follower)
            assert versions(service) == ["1"]

    run(main())


def test_what_changed_before_anybody_watched_is_found(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        lay(tmp_path, "gone")
        clock = Clock()
        async with managing(tmp_path, clock=clock) as (management, service):
            lay(tmp_path, version=2)
            (tmp_path / "gone" / "1" / "model.onnx").unlink()
            changes = Changes(clock)
            follower = Follower(management.takeover, tmp_path, changes, clock)
            follower.start()
            await to_its_end(follower, changes)
            assert (versions(service), versions(service, "gone")) == (["1", "2"], [])

    run(main())


def test_a_slow_load_does_not_hold_up_another_name(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Revisions()
        lay(tmp_path, "slow")
        async with following(tmp_path, shelf) as (changes, follower, _, service):
            shelf.on_open = lambda info: gate.hold() if info.name == "slow" else None
            lay(tmp_path, "slow", 2)
            lay(tmp_path)
            await changes.give("slow", "m")
            await changes.give(after=SETTLE_SECONDS)
            await gate.reached()
            if "m" in follower._jobs:
                await follower._jobs["m"]
            await factor(service)
            assert versions(service, "slow") == ["1"]
            gate.open()
            await done(follower)
            assert versions(service, "slow") == ["1", "2"]

    run(main())


def test_a_name_that_changes_while_it_is_loaded_is_looked_at_again(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        shelf = Revisions()
        lay(tmp_path)
        async with following(tmp_path, shelf) as (changes, follower, _, service):
            shelf.on_open = lambda info: gate.hold()
            lay(tmp_path, version=2)
            await changes.give("m")
            await changes.give(after=SETTLE_SECONDS)
            await gate.reached()
            lay(tmp_path, version=3)
            await changes.give("m")
            await changes.give(after=SETTLE_SECONDS)
            gate.open()
            await done(follower)
            await changes.give(after=SETTLE_SECONDS)
            await done(follower)
            assert versions(service) == ["1", "2", "3"]

    run(main())


def test_a_version_for_which_there_was_no_room_is_tried_again_later(tmp_path: Path) -> None:
    async def main() -> None:
        shelf = Revisions()
        lay(tmp_path)
        async with following(tmp_path, shelf) as (changes, follower, management, service):
            refresh, tries = management.takeover.refresh, []

            async def full_at_first(name: str, root: Path) -> None:
                tries.append(name)
                if len(tries) == 1:
                    raise ModelMemoryFullError("full")
                await refresh(name, root)

            setattr(management.takeover, "refresh", full_at_first)  # noqa: B010 - mypy takes no assignment to a method
            lay(tmp_path, version=2)
            await changes.give("m")
            await changes.give(after=SETTLE_SECONDS)
            await done(follower)
            assert versions(service) == ["1"]
            await changes.give(after=ROOM_SECONDS)
            await done(follower)
            assert (versions(service), tries) == (["1", "2"], ["m", "m"])

    run(main())


def test_a_name_that_cannot_be_read_does_not_end_the_following(tmp_path: Path) -> None:
    async def main() -> None:
        lay(tmp_path)
        async with following(tmp_path) as (changes, follower, _, service):
            lay(tmp_path, version=2).write_bytes(b"half")
            await changes.give("m")
            await changes.give(after=SETTLE_SECONDS)
            await done(follower)
            lay(tmp_path, version=3)
            await changes.give("m")
            await changes.give(after=SETTLE_SECONDS)
            await done(follower)
            assert versions(service) == ["1", "3"]

    run(main())


def test_a_watch_that_ends_is_begun_again_and_misses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with managing(tmp_path, clock=clock) as (management, service):
            changes = Changes(clock)
            follower = Follower(management.takeover, tmp_path, changes, clock, mishap_seconds=0.0)
            follower.start()
            await changes.give()
            await changes.fail(OSError("no more watches"))
            lay(tmp_path)
            await to_its_end(follower, changes)
            assert (changes.began, versions(service)) == (2, ["1"])

    run(main())


def test_a_model_that_lies_there_twice_does_not_keep_the_others_from_being_found(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with managing(tmp_path, clock=clock) as (management, service):
            for name in ("m", "twice"):
                lay(tmp_path, name)
            (tmp_path / "twice.onnx").write_bytes((tmp_path / "twice" / "1" / "model.onnx").read_bytes())
            changes = Changes(clock)
            follower = Follower(management.takeover, tmp_path, changes, clock)
            follower.start()
            await to_its_end(follower, changes)
            assert (changes.began, versions(service), versions(service, "twice")) == (1, ["1"], [])

    run(main())

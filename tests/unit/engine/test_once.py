"""One after the other: requests of one key stand in line, and leave no lock behind."""

from __future__ import annotations

import asyncio

import pytest

from ndserve.engine.once import Once
from tests.unit.engine.rig import run, tick


def test_those_with_one_key_come_one_after_the_other() -> None:
    async def main() -> None:
        once, inside, go = Once(), list[int](), asyncio.Event()

        async def enter(number: int) -> None:
            async with once.hold("key"):
                inside.append(number)
                await go.wait()

        tasks = [asyncio.create_task(enter(number)) for number in range(2)]
        await tick()
        assert inside == [0]
        go.set()
        await asyncio.gather(*tasks)
        assert inside == [0, 1]

    run(main())


def test_those_with_different_keys_do_not_wait_for_each_other() -> None:
    async def main() -> None:
        once = Once()
        async with once.hold("a"), once.hold("b"):
            pass

    run(main())


def test_nothing_is_left_of_a_key_that_nobody_uses_any_more() -> None:
    async def main() -> None:
        once = Once()
        async with once.hold("key"):
            waiting = asyncio.create_task(once.hold("key").__aenter__())
            await tick()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        with pytest.raises(ValueError, match="inside"):
            async with once.hold("key"):
                raise ValueError("inside")
        assert (once._locks, dict(once._users)) == ({}, {})

    run(main())


def test_who_gives_up_waiting_does_not_let_another_one_in() -> None:
    async def main() -> None:
        once, inside = Once(), list[str]()

        async def enter(name: str) -> None:
            async with once.hold("key"):
                inside.append(name)

        async with once.hold("key"):
            waiting = [asyncio.create_task(enter(name)) for name in "ab"]
            await tick()
            waiting[0].cancel()
            await tick()
            assert inside == []
        await asyncio.gather(*waiting, return_exceptions=True)
        assert inside == ["b"]

    run(main())

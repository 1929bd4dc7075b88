"""Room for a model: waited for, refused with what holds it, and made by pins that are taken off."""

from __future__ import annotations

import asyncio

import pytest

from ndserve.errors import ModelMemoryFullError
from ndserve.model_info import ModelInfo
from tests.unit.model_cache.loads import a_cache, ends, info, settle, ticks, use

A, B, C = (info(name) for name in "abc")
PINNED = info("pinned", pinned=True)


def test_who_finds_no_room_is_told_after_the_wait_what_holds_it() -> None:
    async def main() -> None:
        async with a_cache(3, load_wait=0.0) as (cache, loads):
            await use(cache, A, PINNED)
            with cache.lease([A]), pytest.raises(ModelMemoryFullError) as caught:
                await use(cache, info("m", 2))
            assert caught.value.message == (
                "there was no room for m/1 within 0 s (--load-wait): of 3 bytes (--model-memory) 2 are taken;"
                " 1 bytes more are needed, and idle models hold 0; in use are 1, pinned 1, and being loaded 0"
            )
            assert (caught.value.status, loads.opened) == (503, ["a", "pinned"])

    asyncio.run(main())


def test_who_waits_for_room_behind_another_is_told_so() -> None:
    async def main() -> None:
        async with a_cache(1, load_wait=0.0) as (cache, _):
            await use(cache, A)
            with cache.lease([A]):
                found = await ends(cache, use(cache, B), use(cache, C))
            assert ["first in line" in str(end) for end in found] == [False, True]

    asyncio.run(main())


def test_what_goes_for_a_load_is_waited_for_also_by_who_does_not_wait() -> None:
    async def main() -> None:
        async with a_cache(1, load_wait=0.0) as (cache, _):
            await use(cache, A)
            assert await ends(cache, use(cache, B)) == [None]

    asyncio.run(main())


def test_the_room_that_one_gives_up_goes_to_the_next() -> None:
    async def main() -> None:
        async with a_cache(2, load_wait=0.0) as (cache, _):
            await use(cache, A)
            with cache.lease([A]):
                assert isinstance((await ends(cache, use(cache, info("m", 2))))[0], ModelMemoryFullError)
                assert await ends(cache, use(cache, B)) == [None]
            assert not cache.room_wanted

    asyncio.run(main())


@pytest.mark.parametrize("entry", [A, PINNED], ids=["pinned by a client", "unpinned by a client"])
def test_what_a_client_says_of_a_pin_counts_more_than_the_models_own_word(entry: ModelInfo) -> None:
    async def main() -> None:
        async with a_cache(1, load_wait=0.0) as (cache, _):
            await use(cache, entry)
            cache.pin(entry, pinned=not entry.options.pinned)
            (end,) = await ends(cache, use(cache, B))
            assert (end is None) == entry.options.pinned

    asyncio.run(main())


def test_a_pin_that_is_taken_off_lets_who_waits_in() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, _):
            await use(cache, PINNED)
            load = asyncio.create_task(use(cache, A))
            await settle(cache)
            assert not load.done()
            cache.pin(PINNED, pinned=False)
            await load

    asyncio.run(main())


def test_a_pinned_model_makes_room_for_its_own_successor() -> None:
    async def main() -> None:
        async with a_cache(1, load_wait=0.0) as (cache, _):
            await use(cache, PINNED)
            successor = info("pinned", pinned=True, revision=1)
            async with cache.loaded([successor], instead_of=[PINNED.key]):
                assert cache.resident(successor)

    asyncio.run(main())


def test_a_model_stays_beside_its_successor_where_others_can_go() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, _):
            await use(cache, PINNED, A)
            successor = info("pinned", pinned=True, revision=1)
            async with cache.loaded([successor], instead_of=[PINNED.key]):
                assert cache.resident(PINNED)
                assert not cache.resident(A)

    asyncio.run(main())


def test_a_model_under_a_lease_is_not_taken_for_its_successor() -> None:
    async def main() -> None:
        async with a_cache(1, load_wait=0.0) as (cache, _):
            await use(cache, A)
            with cache.lease([A]), pytest.raises(ModelMemoryFullError):
                async with cache.loaded([info("a", revision=1)], instead_of=[A.key]):
                    pass

    asyncio.run(main())


@pytest.mark.parametrize("held", ["pinned", "loading", "leased"])
def test_nobody_is_to_make_way_for_who_waits_for_room_that_leases_do_not_hold(held: str) -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, loads):
            await use(cache, A)
            with loads.held("slow"):
                if held == "pinned":
                    await use(cache, info("pinned", 2, pinned=True))
                elif held == "loading":
                    slow = asyncio.create_task(use(cache, info("slow", 2)))
                    await loads.begun()
                with cache.lease([A]):
                    waiting = asyncio.create_task(use(cache, info("m", 3)))
                    await ticks(5)
                    assert cache.room_wanted == (held == "leased")
                    if held == "pinned":
                        cache.pin(info("pinned", 2, pinned=True), pinned=False)
            if held == "loading":
                await slow
            await waiting

    asyncio.run(main())

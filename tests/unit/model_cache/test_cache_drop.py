"""Models that nobody will ask for again: they go as soon as nobody uses them, pinned or not."""

from __future__ import annotations

import asyncio

import pytest

from ndserve.errors import ModelLoadError
from ndserve.model_info import ModelInfo
from tests.unit.model_cache.loads import a_cache, ends, info, settle, ticks, use

A, B = info("a"), info("b")
PINNED = info("pinned", pinned=True)


@pytest.mark.parametrize("dropped", [A, PINNED], ids=["free", "pinned"])
def test_a_dropped_model_goes_at_once_and_gives_its_memory_back(dropped: ModelInfo) -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, loads):
            await use(cache, dropped, B)
            cache.drop(dropped)
            assert cache.resident(dropped) is None
            await settle(cache)
            assert (loads.alive(), cache.nbytes) == ({"b"}, 1)

    asyncio.run(main())


def test_a_leased_model_goes_when_its_last_lease_ends() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            with cache.lease([A]):
                with cache.lease([A]) as sessions:
                    cache.drop(A)
                    assert cache.resident(A)
                    assert sessions["a"].info is A
                    del sessions
                assert cache.resident(A)
            assert cache.resident(A) is None
            await settle(cache)
            assert loads.alive() == set()

    asyncio.run(main())


def test_a_model_that_is_dropped_while_it_loads_goes_with_its_last_caller() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            with loads.held():
                load = asyncio.create_task(use(cache, A))
                await loads.begun()
                cache.drop(A)
                assert cache.loading(A)
            await load
            await settle(cache)
            assert (cache.resident(A), cache.nbytes) == (None, 0)

    asyncio.run(main())


@pytest.mark.parametrize("order", ["dropped first", "given up first"])
def test_a_model_that_is_dropped_and_given_up_while_it_loads_does_not_stay(order: str) -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            with loads.held():
                load = asyncio.create_task(use(cache, PINNED))
                await loads.begun()
                if order == "dropped first":
                    cache.drop(PINNED)
                load.cancel()
                await asyncio.gather(load, return_exceptions=True)
                cache.drop(PINNED)
            await settle(cache)
            assert (cache.resident(PINNED), cache.nbytes, loads.alive()) == (None, 0, set())

    asyncio.run(main())


def test_the_room_of_a_dropped_model_goes_to_whoever_waits_for_it() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, _):
            await use(cache, A)
            lease = cache.lease([A])
            lease.__enter__()
            waiting = asyncio.create_task(use(cache, B))
            await ticks(3)
            cache.drop(A)
            assert cache.room_wanted
            lease.__exit__(None, None, None)
            assert await ends(cache, use(cache, B)) == [None]
            await waiting

    asyncio.run(main())


def test_a_dropped_model_is_loaded_again_for_who_asks_all_the_same() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            cache.drop(A)
            await use(cache, A)
            assert (loads.opened, cache.nbytes) == (["a", "a"], 1)
            assert cache.resident(A)

    asyncio.run(main())


def test_a_dropped_model_has_no_problem_any_more() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            loads.failing.add("a")
            with pytest.raises(ModelLoadError):
                await use(cache, A)
            assert cache.known(A).problem
            cache.drop(A)
            assert cache.known(A).problem == ""

    asyncio.run(main())


def test_to_drop_what_is_not_there_does_nothing() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, _):
            await use(cache, A)
            cache.drop(B)
            assert cache.resident(A)

    asyncio.run(main())


def test_a_lease_of_a_dropped_model_may_end_after_the_cache_is_closed() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, _):
            await use(cache, A)
            with cache.lease([A]):
                cache.drop(A)
                await cache.close()
            assert cache.nbytes == 0

    asyncio.run(main())

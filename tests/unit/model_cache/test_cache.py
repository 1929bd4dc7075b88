"""Which models are resident: single flight, eviction, waiting for room, failures and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from ndserve.errors import ModelTooLargeError
from ndserve.model_cache.cache import ModelCache
from ndserve.model_info import ModelInfo
from tests.unit.model_cache.loads import Clock, a_cache, ends, info, settle, ticks, use

A, B, C, D = (info(name) for name in "abcd")
PINNED = info("pinned", pinned=True)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def names(cache: ModelCache, *infos: ModelInfo) -> set[str]:
    """Which of these are resident."""
    return {entry.name for entry in infos if cache.resident(entry)}


def test_callers_that_come_together_share_one_load() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await asyncio.gather(*(use(cache, A) for _ in range(5)))
            assert loads.opened == ["a"]

    run(main())


def test_a_caller_that_comes_during_a_load_shares_it() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            with loads.held():
                first = asyncio.create_task(use(cache, A))
                await loads.begun()
                second = asyncio.create_task(use(cache, A))
                await ticks(3)
            await asyncio.gather(first, second)
            assert loads.opened == ["a"]

    run(main())


def test_a_resident_model_is_not_loaded_again() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            await use(cache, A)
            assert (loads.opened, cache.loads) == (["a"], 1)

    run(main())


def test_versions_of_a_model_are_different_models() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, loads):
            newer = ModelInfo("a", "2", A.path, 1, (), ())
            await use(cache, A)
            await use(cache, newer)
            assert loads.opened == ["a", "a"]
            assert cache.resident(newer) is not cache.resident(A)

    run(main())


def test_loading_tells_that_a_load_is_under_way() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            with loads.held():
                load = asyncio.create_task(use(cache, A))
                await loads.begun()
                during = (cache.loading(A), cache.resident(A))
            await load
            assert during == (True, None)
            assert not cache.loading(A)

    run(main())


def test_a_load_under_way_counts_against_the_budget() -> None:
    async def main() -> None:
        async with a_cache(5) as (cache, loads):
            await use(cache, A)
            with loads.held():
                load = asyncio.create_task(use(cache, info("big", 3)))
                await loads.begun()
                assert cache.nbytes == 4
            await load
            assert cache.nbytes == 4

    run(main())


def test_the_load_time_is_read_from_the_clock() -> None:
    async def main() -> None:
        clock = Clock()
        async with a_cache(1, clock) as (cache, loads):
            with loads.held():
                load = asyncio.create_task(use(cache, A))
                await loads.begun()
                clock.now = 2.5
            await load
            resident = cache.resident(A)
            assert resident is not None
            assert resident.load_seconds == 2.5

    run(main())


def test_a_lease_gives_the_sessions_by_name() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, _):
            await use(cache, A, B)
            with cache.lease([A, B]) as sessions:
                assert {name: session.info for name, session in sessions.items()} == {"a": A, "b": B}

    run(main())


def test_a_model_that_is_not_resident_cannot_be_leased() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, _):
            await use(cache, A)
            with pytest.raises(KeyError), cache.lease([A, B]):
                pass
            resident = cache.resident(A)
            assert resident is not None
            assert resident.leases == 0

    run(main())


def test_the_least_recently_used_model_goes_first() -> None:
    async def main() -> None:
        clock = Clock()
        async with a_cache(3, clock) as (cache, _):
            for clock.now, entry in enumerate([A, B, C]):
                await use(cache, entry)
            clock.now = 10
            with cache.lease([A]):
                pass
            await use(cache, D)
            assert names(cache, A, B, C, D) == {"a", "c", "d"}
            assert cache.evictions == 1

    run(main())


def test_no_more_models_go_than_must() -> None:
    async def main() -> None:
        clock = Clock()
        async with a_cache(4, clock) as (cache, _):
            for clock.now, entry in enumerate([A, B, C]):
                await use(cache, entry)
            await use(cache, info("big", 2))
            assert names(cache, A, B, C) == {"b", "c"}

    run(main())


def test_a_pinned_model_stays_although_it_is_the_oldest() -> None:
    async def main() -> None:
        clock = Clock()
        async with a_cache(2, clock) as (cache, _):
            for clock.now, entry in enumerate([PINNED, A, B]):
                await use(cache, entry)
            assert names(cache, PINNED, A, B) == {"pinned", "b"}

    run(main())


def test_a_leased_model_stays_although_it_is_the_oldest() -> None:
    async def main() -> None:
        clock = Clock()
        async with a_cache(2, clock) as (cache, _):
            for clock.now, entry in enumerate([A, B]):
                await use(cache, entry)
            with cache.lease([A]):
                await use(cache, C)
                assert names(cache, A, B, C) == {"a", "c"}

    run(main())


def test_a_load_waits_for_a_lease_to_end_and_then_goes_on() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            with cache.lease([A]):
                load = asyncio.create_task(use(cache, B))
                await settle(cache)
                assert loads.opened == ["a"]
            await settle(cache)
            assert load.done()
            assert names(cache, A, B) == {"b"}

    run(main())


def test_a_load_waits_for_the_last_of_several_leases() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            with cache.lease([A]):
                with cache.lease([A]):
                    load = asyncio.create_task(use(cache, B))
                await settle(cache)
                assert loads.opened == ["a"]
            await load

    run(main())


def test_two_models_that_do_not_fit_together_are_both_served() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            assert await ends(cache, use(cache, A), use(cache, B)) == [None, None]
            assert loads.opened == ["a", "b"]

    run(main())


def test_an_evicted_session_is_gone_before_the_next_is_opened() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            await use(cache, B)
            assert loads.alive_before == [set(), set()]

    run(main())


@pytest.mark.parametrize("infos", [[info("huge", 11)], [info("large", 6), info("wide", 5)]])
def test_what_exceeds_the_whole_budget_is_refused_at_once(infos: list[ModelInfo]) -> None:
    async def main() -> None:
        async with a_cache(10) as (cache, loads):
            await use(cache, A)
            with cache.lease([A]), pytest.raises(ModelTooLargeError) as caught:
                async with cache.loaded(infos):
                    pass
            sizes = [f"{entry.name}/1 ({entry.nbytes} bytes)" for entry in infos]
            assert all(part in caught.value.message for part in ["10 bytes", *sizes])
            assert loads.opened == ["a"]

    run(main())


@pytest.mark.parametrize("second", [[C, D], [B, A], [B, C]])
def test_two_sets_that_compete_for_the_room_are_both_served(second: list[ModelInfo]) -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, _):
            assert await ends(cache, use(cache, A, B), use(cache, *second)) == [None, None]

    run(main())


def test_a_set_stays_resident_while_its_context_lasts() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, _):
            async with cache.loaded([A, B]):
                other = asyncio.create_task(use(cache, C))
                await settle(cache)
                assert names(cache, A, B, C) == {"a", "b"}
            await other

    run(main())


def test_a_single_model_does_not_wait_for_a_set_in_use() -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, _), cache.loaded([A, B]):
            assert await ends(cache, use(cache, C)) == [None]

    run(main())

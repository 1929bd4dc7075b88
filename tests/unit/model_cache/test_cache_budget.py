"""What models take: booked before they are loaded, put right by what the load has shown, free only when it is free."""

from __future__ import annotations

import asyncio

import pytest

from ndserve.errors import ModelLoadError, ModelMemoryFullError, ModelTooLargeError
from ndserve.model_cache.cache import TRIES, ModelCache
from ndserve.model_cache.meter import Reading
from ndserve.model_info import ModelInfo
from tests.unit.model_cache.loads import Loads, a_cache, ends, info, settle, ticks, use

A, B, C = (info(name) for name in "abc")
PINNED = info("pinned", pinned=True)


def names(cache: ModelCache, *infos: ModelInfo) -> set[str]:
    """Which of these are resident."""
    return {entry.name for entry in infos if cache.resident(entry)}


def reads(loads: Loads, entry: ModelInfo, *nbytes: int) -> None:
    """What the loads of a model are to show, the last one for all that follow."""
    loads.readings[entry.name] = [Reading(each) for each in nbytes]


def test_the_largest_weight_is_booked_twice_while_a_model_loads() -> None:
    async def main() -> None:
        async with a_cache(10) as (cache, loads):
            with loads.held():
                load = asyncio.create_task(use(cache, info("m", 5, largest=3)))
                await loads.begun()
                during = cache.nbytes
            await load
            assert (during, cache.nbytes) == (8, 5)

    asyncio.run(main())


def test_a_model_that_fits_but_cannot_be_loaded_in_the_budget_is_refused_by_name_and_size() -> None:
    async def main() -> None:
        async with a_cache(7) as (cache, loads):
            with pytest.raises(ModelTooLargeError, match=r"m/1 \(5 bytes\) and 3 more while it is loaded.* 7 bytes"):
                await use(cache, info("m", 5, largest=3))
            assert loads.opened == []

    asyncio.run(main())


def test_a_model_larger_than_the_budget_is_refused_before_anything_is_read() -> None:
    async def main() -> None:
        async with a_cache(7) as (cache, loads):
            loads.unpriced.add("m")
            with pytest.raises(ModelTooLargeError):
                await use(cache, info("m", 8))
            assert loads.priced == []

    asyncio.run(main())


def test_callers_that_come_together_share_one_look_at_the_files() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            loads.unpriced.add("a")
            assert await ends(cache, *(use(cache, A) for _ in range(3))) == [None] * 3
            assert (loads.priced, loads.opened) == (["a"], ["a"])

    asyncio.run(main())


def test_files_that_cannot_be_read_are_a_failed_load() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            loads.unpriced.add("a")
            loads.unreadable.add("a")
            found = await ends(cache, use(cache, A), use(cache, A))
            assert [str(end) for end in found] == ["a cannot be read"] * 2
            assert (cache.known(A).state, loads.opened) == ("FAILED", [])

    asyncio.run(main())


def test_what_a_load_has_shown_is_booked() -> None:
    async def main() -> None:
        async with a_cache(10) as (cache, loads):
            reads(loads, A, 4)
            await use(cache, A)
            assert cache.nbytes == 4
            cost = cache.known(A).cost
            assert cost is not None
            assert (cost.resident, cost.measured) == (4, True)

    asyncio.run(main())


def test_a_model_that_takes_more_than_expected_costs_idle_ones_their_place() -> None:
    async def main() -> None:
        async with a_cache(4) as (cache, loads):
            reads(loads, C, 3)
            await use(cache, A, B)
            await use(cache, C)
            await settle(cache)
            assert names(cache, A, B, C) == {"c", "b"}
            assert cache.nbytes == 4

    asyncio.run(main())


def test_a_model_that_takes_more_than_there_is_waits_for_as_much_room_as_it_takes() -> None:
    async def main() -> None:
        async with a_cache(4) as (cache, loads):
            reads(loads, C, 3)
            await use(cache, A, B)
            with cache.lease([A, B]):
                load = asyncio.create_task(use(cache, C))
                await settle(cache)
                assert not load.done()
                assert (cache.nbytes, loads.alive()) == (2, {"a", "b"})
            await load
            await settle(cache)
            assert (loads.opened, cache.nbytes) == (["a", "b", "c", "c"], 4)

    asyncio.run(main())


def test_a_model_that_turns_out_larger_than_the_budget_is_measured_again_before_it_is_refused_for_a_while() -> None:
    async def main() -> None:
        async with a_cache(4, load_retry=5.0) as (cache, loads):
            reads(loads, A, 9)
            with pytest.raises(ModelMemoryFullError, match="a/1 took more memory than there was, 3 times"):
                await use(cache, A)
            with pytest.raises(ModelLoadError, match="tried again in 5 s"):
                await use(cache, A)
            await settle(cache)
            assert (cache.nbytes, loads.alive(), loads.opened) == (0, set(), ["a"] * TRIES)


def test_a_model_that_seemed_too_large_once_is_served() -> None:
    async def main() -> None:
        async with a_cache(4) as (cache, loads):
            reads(loads, A, 9, 2)
            await use(cache, A)
            assert (loads.opened, cache.nbytes) == (["a", "a"], 2)

    asyncio.run(main())


def test_of_several_loads_the_least_counts_for_the_next() -> None:
    async def main() -> None:
        async with a_cache(4) as (cache, loads):
            reads(loads, A, 4, 2, 3)
            for _ in range(3):
                await use(cache, A)
                await use(cache, info("m", 4))
            cost = cache.known(A).cost
            assert cost is not None
            assert cost.resident == 2

    asyncio.run(main())


def test_loads_that_overlap_are_booked_as_what_they_took_together() -> None:
    async def main() -> None:
        async with a_cache(20) as (cache, loads):
            loads.readings["b"] = [Reading(None, {A.key: 4, B.key: 5})]
            with loads.held("b"):
                second = asyncio.create_task(use(cache, B))
                await use(cache, A)
            await second
            assert cache.nbytes == 9

    asyncio.run(main())


def test_what_is_evicted_is_told_with_its_bytes_once_it_is_closed() -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, loads):
            await use(cache, info("m", 2))
            await use(cache, info("n", 3))
            assert loads.given_back == [2]

    asyncio.run(main())


def test_a_slow_load_does_not_hold_up_another() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, loads):
            with loads.held("a"):
                slow = asyncio.create_task(use(cache, A))
                await loads.begun()
                await use(cache, B)
                assert not slow.done()
            await slow

    asyncio.run(main())


def test_the_states_that_a_model_goes_through() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            seen: list[str] = [cache.known(A).state]
            with loads.held():
                load = asyncio.create_task(use(cache, A))
                await loads.begun()
                seen.append(cache.known(A).state)
            await load
            seen.append(cache.known(A).state)
            evicting = asyncio.create_task(use(cache, B))
            await ticks(1)
            seen.append(cache.known(A).state)
            await evicting
            seen.append(cache.known(A).state)
            assert seen == ["UNLOADED", "LOADING", "READY", "UNLOADING", "UNLOADED"]

    asyncio.run(main())


def test_the_figures_of_a_model_outlive_its_eviction() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, _):
            for entry in (A, B, A):
                await use(cache, entry)
                with cache.lease([entry]):
                    pass
            known = cache.known(A)
            assert (known.hits, known.loads, known.evictions) == (2, 2, 1)

    asyncio.run(main())


def test_the_models_of_a_set_are_loaded_one_after_the_other_with_room_for_the_largest_load() -> None:
    async def main() -> None:
        async with a_cache(12) as (cache, loads):
            first, second = info("first", 4, largest=2), info("second", 4, largest=4)
            with loads.held("first"):
                load = asyncio.create_task(use(cache, first, second))
                await loads.begun()
                assert (cache.nbytes, loads.opened) == (12, ["first"])
            await load
            assert (cache.nbytes, loads.opened) == (8, ["first", "second"])

    asyncio.run(main())


def test_a_model_that_cannot_have_all_the_room_that_a_load_likes_gets_what_there_is() -> None:
    async def main() -> None:
        async with a_cache(7) as (cache, loads):
            loads.generous.add("m")
            await use(cache, A)
            with loads.held("m"):
                load = asyncio.create_task(use(cache, info("m", 5, largest=1)))
                await loads.begun()
                assert (cache.nbytes, loads.alive()) == (7, set())
            await load
            assert cache.nbytes == 5

    asyncio.run(main())


def test_a_set_whose_other_member_is_being_loaded_books_no_less_than_it_must() -> None:
    async def main() -> None:
        async with a_cache(10) as (cache, loads):
            first, second = info("first", 4, largest=3), info("second", 4, largest=1)
            with loads.held("first"):
                load = asyncio.create_task(use(cache, first))
                await loads.begun()
                both = asyncio.create_task(use(cache, first, second))
                await ticks(5)
                assert (cache.nbytes, loads.opened) == (7, ["first"])
            await asyncio.gather(load, both)
            assert (cache.nbytes, loads.peak) == (8, 9)

    asyncio.run(main())

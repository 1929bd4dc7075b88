"""Who comes into the model cache first: room is given in the order of arrival, and to a set all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ndserve.errors import ModelTooLargeError
from ndserve.model_cache.cache import ModelCache
from ndserve.model_info import ModelInfo
from tests.unit.model_cache.loads import a_cache, ends, info, settle, ticks, use

A, B, C, D = (info(name) for name in "abcd")
PINNED = info("pinned", pinned=True)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


async def start(*calls: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    """The calls as tasks that have come to the cache one after the other."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call))
        await ticks(2)
    return tasks


def test_loads_that_wait_are_served_first_come_first_served() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            with cache.lease([A]):
                callers = await start(*(use(cache, model) for model in (B, C, D, B)))
                await settle(cache)
            await asyncio.gather(*callers)
            assert loads.opened == ["a", "b", "c", "d", "b"]

    run(main())


def test_a_resident_model_does_not_overtake_a_load_that_waits() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            with cache.lease([A]):
                callers = await start(use(cache, B), use(cache, A))
                await settle(cache)
                assert not callers[1].done()
            await asyncio.gather(*callers)
            assert loads.opened == ["a", "b", "a"]

    run(main())


def test_a_small_model_does_not_overtake_a_large_one() -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, loads):
            await use(cache, A)
            with cache.lease([A]):
                callers = await start(use(cache, info("large", 3)), use(cache, B))
                await settle(cache)
                assert loads.opened == ["a"]
            await asyncio.gather(*callers)
            assert loads.opened == ["a", "large", "b"]

    run(main())


def test_room_is_wanted_just_while_somebody_waits_for_it() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            seen = [cache.room_wanted]
            with loads.held():
                first = await start(use(cache, A))
                seen.append(cache.room_wanted)
            await asyncio.gather(*first)
            with cache.lease([A]):
                second = await start(use(cache, B))
                seen.append(cache.room_wanted)
            await asyncio.gather(*second)
            seen.append(cache.room_wanted)
            assert seen == [False, False, True, False]

    run(main())


def test_a_model_that_waits_for_room_is_told_to_be_loading() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, _):
            await use(cache, A)
            with cache.lease([A]):
                callers = await start(use(cache, B), use(cache, A))
                assert (cache.loading(B), cache.loading(A)) == (True, False)
            await asyncio.gather(*callers)

    run(main())


def test_a_set_gets_its_room_all_at_once() -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, loads):
            await use(cache, A, B, C)
            with cache.lease([A]):
                with cache.lease([B]):
                    callers = await start(use(cache, D, info("two", 2)))
                    await settle(cache)
                    assert cache.evictions == 0
                await settle(cache)
                assert cache.evictions == 0
            await asyncio.gather(*callers)
            assert loads.opened[3:] == ["d", "two"]
            assert cache.evictions == 3

    run(main())


def test_the_loads_of_a_set_all_count_from_the_start() -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, loads):
            with loads.held():
                callers = await start(use(cache, A, info("two", 2)))
                await loads.begun()
                assert cache.nbytes == 3
            await asyncio.gather(*callers)

    run(main())


def test_a_model_that_is_asked_for_twice_in_a_set_is_counted_once() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            assert await ends(cache, use(cache, A, A)) == [None]
            assert loads.opened == ["a"]

    run(main())


def test_a_set_does_not_evict_its_own_members() -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, loads):
            await use(cache, A)
            await use(cache, B, C)
            await use(cache, A, D, B)
            assert loads.opened == ["a", "b", "c", "d"]

    run(main())


def test_what_can_never_fit_is_refused_without_waiting_in_line() -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, _):
            await use(cache, A)
            with cache.lease([A]):
                first, second = await start(use(cache, info("three", 3)), use(cache, info("four", 4)))
                assert not first.done()
                assert isinstance(second.exception(), ModelTooLargeError)
            await first

    run(main())


def test_a_load_goes_on_when_the_pinned_model_before_it_fails() -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, loads):
            loads.failing.add("pinned")
            _, end = await ends(cache, use(cache, PINNED), use(cache, info("three", 3)))
            assert end is None

    run(main())


async def lease_again_and_again(cache: ModelCache, model: ModelInfo, until: asyncio.Event) -> None:
    """As a worker does between batches, which gives way where room is wanted."""
    while not until.is_set():
        if cache.room_wanted or not cache.resident(model):
            async with cache.loaded([model]):
                await asyncio.sleep(0)
        else:
            with cache.lease([model]):
                await ticks(3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([A, B, C, D]), min_size=1, max_size=6))
def test_who_leases_again_and_again_keeps_nobody_waiting(models: list[ModelInfo]) -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, _):
            done = asyncio.Event()
            greedy = await start(*(lease_again_and_again(cache, A, done) for _ in range(2)))
            assert await ends(cache, *(use(cache, model) for model in models)) == [None] * len(models)
            done.set()
            await settle(cache)
            assert all(task.done() for task in greedy)

    run(main())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(0, 4)), min_size=2, max_size=8))
def test_where_one_model_fits_at_a_time_callers_come_in_as_they_came(visits: list[tuple[ModelInfo, int]]) -> None:
    entered: list[int] = []

    async def visit(cache: ModelCache, number: int, model: ModelInfo, stays: int) -> None:
        async with cache.loaded([model]):
            entered.append(number)
            await ticks(stays)

    async def main() -> None:
        async with a_cache(1) as (cache, _):
            await ends(cache, *(visit(cache, number, *entry) for number, entry in enumerate(visits)))
            assert entered == list(range(len(visits)))

    run(main())


def test_a_resident_model_does_not_stand_in_line_for_room_that_pins_hold() -> None:
    async def main() -> None:
        async with a_cache(3) as (cache, _):
            await use(cache, PINNED, A)
            with cache.lease([A]):
                (stuck,) = await start(use(cache, info("three", 3)))
                assert not stuck.done()
                await use(cache, A)
                stuck.cancel()

    run(main())

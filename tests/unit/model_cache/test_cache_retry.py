"""A load that fails is remembered for a while, which grows with every failure."""

from __future__ import annotations

import asyncio

import pytest

from ndserve.errors import ModelLoadError
from ndserve.model_cache.jobs import MOST_DOUBLINGS
from ndserve.model_info import ModelInfo
from tests.unit.model_cache.loads import Clock, a_cache, ends, info, use

A, B = info("a"), info("b")


def test_a_load_that_failed_a_moment_ago_is_not_tried_again() -> None:
    async def main() -> None:
        async with a_cache(1, load_retry=5.0) as (cache, loads):
            loads.failing.add("a")
            found = [*await ends(cache, use(cache, A)), *await ends(cache, use(cache, A))]
            assert [str(end) for end in found] == ["a is broken", "a is broken (it is tried again in 5 s)"]
            assert loads.opened == ["a"]

    asyncio.run(main())


def test_a_load_is_tried_again_when_its_time_has_come() -> None:
    async def main() -> None:
        clock = Clock()
        async with a_cache(1, clock, load_retry=5.0) as (cache, loads):
            loads.failing.add("a")
            await ends(cache, use(cache, A))
            loads.failing.clear()
            clock.now = 5.0
            await use(cache, A)
            assert cache.known(A).state == "READY"

    asyncio.run(main())


def test_each_failure_in_a_row_doubles_the_time_up_to_a_bound() -> None:
    async def main() -> None:
        clock = Clock()
        async with a_cache(1, clock, load_retry=5.0) as (cache, loads):
            loads.failing.add("a")
            waits = []
            for _ in range(MOST_DOUBLINGS + 2):
                await ends(cache, use(cache, A))
                waits.append(cache.known(A).retry_at - clock.now)
                clock.now = cache.known(A).retry_at
            assert waits == [5, 10, 20, 40, 80, 160, 160, 160]

    asyncio.run(main())


def test_a_success_starts_the_count_anew() -> None:
    async def main() -> None:
        clock = Clock()
        async with a_cache(1, clock, load_retry=5.0) as (cache, loads):
            for failing in (True, False, True):
                loads.failing = {"a"} if failing else set()
                await ends(cache, use(cache, A))
                await ends(cache, use(cache, B))
                clock.now += 5.0
            assert cache.known(A).failures == 1

    asyncio.run(main())


def test_who_asks_for_another_try_gets_it_at_once() -> None:
    async def main() -> None:
        async with a_cache(1, load_retry=5.0) as (cache, loads):
            loads.failing.add("a")
            await ends(cache, use(cache, A))
            loads.failing.clear()
            async with cache.loaded([A], again=True):
                assert cache.resident(A)

    asyncio.run(main())


def test_a_failure_holds_up_no_other_model_and_no_other_revision() -> None:
    async def main() -> None:
        async with a_cache(2, load_retry=5.0) as (cache, loads):
            loads.failing.add("a")
            await ends(cache, use(cache, A))
            loads.failing.clear()
            await use(cache, B, info("a", revision=1))

    asyncio.run(main())


def test_whoever_asks_is_told_of_failures_and_of_their_end() -> None:
    async def main() -> None:
        told: list[tuple[str, bool]] = []

        def tell(entry: ModelInfo, failed: bool) -> None:
            told.append((entry.name, failed))

        async with a_cache(1) as (cache, loads):
            cache.on_outcome(tell)
            loads.failing.add("a")
            with pytest.raises(ModelLoadError):
                await use(cache, A)
            loads.failing.clear()
            await use(cache, A)
            assert told == [("a", True), ("a", False)]

    asyncio.run(main())

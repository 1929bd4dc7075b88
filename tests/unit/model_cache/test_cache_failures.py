"""The model cache when loads fail, callers give up, or the server ends."""

from __future__ import annotations

import asyncio

import pytest

from ndserve.errors import ModelChangedError, ModelLoadError, ModelTooLargeError, ShuttingDownError
from ndserve.model_cache.cache import ModelCache, Patience
from ndserve.model_cache.costs import Cost
from ndserve.model_cache.residency import Loaded
from ndserve.model_info import ModelInfo
from tests.unit.model_cache.loads import PATIENCE, Clock, Loads, a_cache, ends, info, settle, ticks, use

A, B, C = (info(name) for name in "abc")


def test_every_caller_of_a_failing_load_learns_why() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            loads.failing.add("a")
            assert [str(end) for end in await ends(cache, *(use(cache, A) for _ in range(3)))] == ["a is broken"] * 3
            assert loads.opened == ["a"]

    asyncio.run(main())


def test_a_failing_load_gives_its_room_back() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            loads.failing.add("a")
            with pytest.raises(ModelLoadError):
                await use(cache, A)
            assert cache.nbytes == 0
            await use(cache, B)
            assert cache.resident(B)

    asyncio.run(main())


def test_a_load_that_waits_for_a_failing_one_goes_on() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            loads.failing.add("a")
            _, second = await ends(cache, use(cache, A), use(cache, B))
            assert second is None
            assert cache.resident(B)

    asyncio.run(main())


def test_a_set_with_a_failing_model_lets_the_others_go() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, loads):
            loads.failing.add("b")
            with pytest.raises(ModelLoadError):
                await use(cache, A, B)
            assert await ends(cache, use(cache, C, info("d"))) == [None]
            assert not cache.resident(A)

    asyncio.run(main())


def test_a_failure_is_remembered_until_a_load_succeeds() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            before = cache.known(A).problem
            loads.failing.add("a")
            with pytest.raises(ModelLoadError):
                await use(cache, A)
            failed = cache.known(A).problem
            loads.failing.clear()
            await use(cache, A)
            assert (before, failed, cache.known(A).problem) == ("", "a is broken", "")

    asyncio.run(main())


def test_a_failure_of_one_model_is_not_anothers() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, loads):
            loads.failing.add("a")
            await ends(cache, use(cache, A), use(cache, B))
            assert (cache.known(A).problem, cache.known(B).problem) == ("a is broken", "")

    asyncio.run(main())


def test_a_model_that_is_too_large_says_so_as_its_problem() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, _):
            large = info("large", 2)
            with pytest.raises(ModelTooLargeError):
                await use(cache, large)
            assert "large/1 (2 bytes)" in cache.known(large).problem
            assert cache.known(large).state == "FAILED"

    asyncio.run(main())


@pytest.mark.parametrize("given_up", [1, 3])
def test_callers_that_give_up_leave_the_load_to_the_others(given_up: int) -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            with loads.held():
                callers = [asyncio.create_task(use(cache, A)) for _ in range(3)]
                await loads.begun()
                for caller in callers[:given_up]:
                    caller.cancel()
                await ticks(3)
            await asyncio.gather(*callers, return_exceptions=True)
            await settle(cache)
            assert [caller.cancelled() for caller in callers] == [True] * given_up + [False] * (3 - given_up)
            assert cache.resident(A)
            assert loads.opened == ["a"]

    asyncio.run(main())


def test_a_load_that_all_callers_gave_up_ends_before_its_room_is_taken() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            with loads.held():
                given_up = asyncio.create_task(use(cache, A))
                await loads.begun()
                given_up.cancel()
                await ticks(3)
                other = asyncio.create_task(use(cache, B))
                await ticks(3)
                assert cache.loading(B)
            await settle(cache)
            assert other.done()
            assert (loads.opened, loads.alive_before) == (["a", "b"], [set(), set()])

    asyncio.run(main())


def test_a_caller_that_gives_up_in_a_set_holds_nothing_back() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, _):
            await use(cache, C)
            with cache.lease([C]):
                stuck = asyncio.create_task(use(cache, A, B))
                await settle(cache)
                stuck.cancel()
                await asyncio.gather(stuck, return_exceptions=True)
            await settle(cache)
            assert await ends(cache, use(cache, C, info("d"))) == [None]

    asyncio.run(main())


def test_a_caller_that_gives_up_in_line_lets_the_next_one_in() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, _):
            await use(cache, C)
            with cache.lease([C]):
                large = asyncio.create_task(use(cache, info("large", 2)))
                await ticks(3)
                behind = asyncio.create_task(use(cache, A))
                await settle(cache)
                assert not behind.done()
                large.cancel()
                await settle(cache)
                assert behind.done()
            assert not cache.room_wanted

    asyncio.run(main())


def test_an_unexpected_error_reaches_every_caller_and_gives_the_room_back() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            loads.mishaps.add("a")
            found = await ends(cache, use(cache, A), use(cache, A))
            assert [type(end) for end in found] == [ModelLoadError] * 2
            assert all("ZeroDivisionError" in str(end) for end in found)
            assert (cache.nbytes, cache.loading(A)) == (0, False)

    asyncio.run(main())


def test_an_error_that_a_caller_keeps_does_not_keep_an_evicted_session() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, loads):
            loads.failing.add("b")
            kept = await ends(cache, use(cache, A, B), use(cache, A, B))
            await use(cache, C, info("d"))
            assert loads.alive_before[-2] == set()
            del kept

    asyncio.run(main())


def test_close_drops_every_session() -> None:
    async def main() -> None:
        async with a_cache(2) as (cache, loads):
            await use(cache, A, B)
            await cache.close()
            await asyncio.to_thread(cache._jobs._loaders.shutdown)  # its threads may still hold the last session
            assert loads.alive() == set()
            assert cache.nbytes == 0

    asyncio.run(main())


def test_close_gives_up_a_load_under_way() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            with loads.held():
                load = asyncio.create_task(use(cache, A))
                await loads.begun()
                await cache.close()
                await asyncio.gather(load, return_exceptions=True)
                assert isinstance(load.exception(), ShuttingDownError)
                assert not cache.loading(A)
            await asyncio.to_thread(cache._jobs._loaders.shutdown)
            await ticks(3)
            assert loads.alive() == set()
            assert cache.resident(A) is None
            assert cache.nbytes == 0

    asyncio.run(main())


def test_close_gives_up_a_load_that_waits_for_room() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            with cache.lease([A]):
                load = asyncio.create_task(use(cache, B))
                await ticks(3)
                await cache.close()
                await asyncio.gather(load, return_exceptions=True)
            assert isinstance(load.exception(), ShuttingDownError)
            assert loads.opened == ["a"]

    asyncio.run(main())


def test_close_gives_up_a_load_that_has_not_begun() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            load = asyncio.create_task(use(cache, A))
            await asyncio.sleep(0)
            await cache.close()
            await asyncio.gather(load, return_exceptions=True)
            assert isinstance(load.exception(), ShuttingDownError)
            assert loads.opened == []

    asyncio.run(main())


def test_a_closed_cache_loads_no_more() -> None:
    async def main() -> None:
        async with a_cache(1) as (cache, loads):
            await use(cache, A)
            await cache.close()
            with pytest.raises(ShuttingDownError):
                await use(cache, A)
            assert loads.opened == ["a"]

    asyncio.run(main())


def test_a_load_that_failed_keeps_nothing_of_what_it_had_made() -> None:
    class Made(Loads):
        def load(self, info: ModelInfo, cost: Cost, *, judge: bool) -> Loaded:
            loaded = super().load(info, cost, judge=judge)
            try:
                raise ValueError("a warm-up")
            except ValueError:
                raise ModelLoadError(f"it has run once: {loaded.verdict}") from None

    async def main() -> None:
        loads = Made()
        cache = ModelCache(loads, 1, Clock(), Patience(PATIENCE, 0.0))
        found = await ends(cache, use(cache, A), use(cache, A))
        assert all(isinstance(end, ModelLoadError) for end in found)
        assert loads.alive() == set()
        await cache.close()

    asyncio.run(main())


def test_a_model_whose_file_has_changed_is_not_to_blame() -> None:
    class Changing(Loads):
        def load(self, info: ModelInfo, cost: Cost, *, judge: bool) -> Loaded:
            raise ModelChangedError("the file has changed")

    async def main() -> None:
        cache = ModelCache(Changing(), 1, Clock(), Patience(PATIENCE, 1000.0))
        for _ in range(2):
            (end,) = await ends(cache, use(cache, A))
            assert isinstance(end, ModelChangedError)
        assert (cache.known(A).state, cache.known(A).failures, cache.nbytes) == ("UNLOADED", 0, 0)
        await cache.close()

    asyncio.run(main())

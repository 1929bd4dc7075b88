"""The model cache under any traffic: never over its budget, never a lease evicted, nobody left waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from ndserve.errors import ModelLoadError, ModelTooLargeError
from ndserve.model_cache.cache import ModelCache
from ndserve.model_info import ModelInfo
from tests.unit.model_cache.loads import Clock, Loads, a_cache, info, settle, ticks


@dataclass(frozen=True)
class Request:
    """One caller: the models it wants, and the rounds of the loop after which it comes, goes or gives up."""

    wants: list[int]
    comes: int
    stays: int
    gives_up: int | None


@dataclass(frozen=True)
class Traffic:
    budget: int
    models: list[ModelInfo]
    failing: set[str]
    unpriced: set[str]
    requests: list[Request]


@st.composite
def traffic(draw: st.DrawFn) -> Traffic:
    """Models of which few fit at a time."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    pinned = draw(st.sampled_from([None, None, 0]))
    models = [info(f"m{number}", nbytes, pinned=number == pinned) for number, nbytes in enumerate(sizes)]
    failing = draw(st.sets(st.sampled_from([model.name for model in models]), max_size=1))
    unpriced = draw(st.sets(st.sampled_from([model.name for model in models])))
    budget = max(sizes) + draw(st.integers(0, 2))
    wants = st.lists(st.integers(0, len(models) - 1), min_size=1, max_size=3, unique=True)
    few = st.integers(0, 5)
    gives_up = st.sampled_from([None, None, 1, 2, 4])
    requests = draw(st.lists(st.builds(Request, wants, few, few, gives_up), min_size=2, max_size=6))
    return Traffic(budget, models, failing, unpriced, requests)


async def _call(cache: ModelCache, models: list[ModelInfo], request: Request) -> None:
    """One caller, who looks at its models in every round of the loop."""
    await ticks(request.comes)
    wanted = [models[number] for number in request.wants]
    async with cache.loaded(wanted):
        for _ in range(request.stays + 1):
            with cache.lease(wanted):
                before = [cache.resident(model) for model in wanted]
                await asyncio.sleep(0)
                assert None not in before
                assert [cache.resident(model) for model in wanted] == before
            assert cache.nbytes <= cache.budget


async def _end(cache: ModelCache, models: list[ModelInfo], request: Request) -> type[BaseException] | None:
    """What ended the call. The error itself would keep sessions alive by its traceback."""
    try:
        await _call(cache, models, request)
    except BaseException as error:
        return type(error)
    return None


async def _play(scene: Traffic, cache: ModelCache, loads: Loads) -> list[type[BaseException] | None]:
    """How every call ended: None for well, TimeoutError for not at all."""
    loads.failing |= scene.failing
    loads.unpriced |= scene.unpriced
    calls = []
    for request in scene.requests:
        call = asyncio.create_task(_end(cache, scene.models, request))
        calls.append(call)
        if request.gives_up is not None:
            await ticks(request.gives_up)
            call.cancel()
    await settle(cache, rounds=40)
    waiting = [not call.done() for call in calls]
    for call in calls:
        call.cancel()
    results = await asyncio.gather(*calls)
    await settle(cache, rounds=3)
    return [TimeoutError if waits else result for waits, result in zip(waiting, results, strict=True)]


def _refusals(scene: Traffic, request: Request) -> set[type[BaseException]]:
    """What may end this call badly."""
    wanted = [scene.models[number] for number in request.wants]
    possible: set[type[BaseException]] = set()
    if sum(model.nbytes for model in wanted) > scene.budget:
        possible.add(ModelTooLargeError)
    if any(model.options.pinned for model in scene.models):
        possible.add(TimeoutError)  # it waits for room that is never there, or behind somebody who does
    if scene.failing & {model.name for model in wanted}:
        possible.add(ModelLoadError)
    if request.gives_up is not None:
        possible.add(asyncio.CancelledError)
    return possible


@settings(max_examples=120, deadline=None)
@given(traffic())
def test_the_cache_is_never_over_budget_and_never_takes_a_leased_model(scene: Traffic) -> None:
    async def main() -> None:
        async with a_cache(scene.budget, Clock()) as (cache, loads):
            ends = await _play(scene, cache, loads)
            assert not {AssertionError, KeyError}.intersection(ends)
            assert loads.peak <= scene.budget

    asyncio.run(main())


@settings(max_examples=120, deadline=None)
@given(traffic())
def test_every_caller_is_served_or_told_why_not(scene: Traffic) -> None:
    async def main() -> None:
        async with a_cache(scene.budget, Clock()) as (cache, loads):
            for end, request in zip(await _play(scene, cache, loads), scene.requests, strict=True):
                assert end is None or end in _refusals(scene, request)

    asyncio.run(main())


@settings(max_examples=80, deadline=None)
@given(traffic())
def test_when_the_traffic_ends_no_lease_and_no_reservation_is_left(scene: Traffic) -> None:
    async def main() -> None:
        async with a_cache(scene.budget, Clock()) as (cache, loads):
            await _play(scene, cache, loads)
            left = [resident for model in scene.models if (resident := cache.resident(model))]
            assert not any(resident.leases for resident in left)
            assert not any(cache.loading(model) for model in scene.models)
            assert cache.nbytes == sum(resident.info.nbytes for resident in left)

    asyncio.run(main())

"""The cache under long traces, on a device that accounts for every byte: never over budget, no lease ever evicted."""

from __future__ import annotations

import asyncio
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.model_cache.loads import Clock, info
from tests.unit.model_cache.simulated import (
    Fleet,
    Simulated,
    SimulatedDevice,
    hits_of_lru_by_bytes,
    hits_of_lru_by_count,
    play,
    zipf,
)

REQUESTS = 3000
MARGIN = 0.2
"""By how much the hit rate is to be above that of LRU by count. It was 0.3 to 0.4 in ten runs with other seeds."""


@pytest.mark.parametrize("seed", [1, 2])
def test_fifty_models_in_a_third_of_their_memory(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet.random(50, times=3.0, seed=seed)
    trace = zipf(50, REQUESTS, seed)
    chance = random.Random(seed)
    device = SimulatedDevice(fleet, Clock(), fails=lambda name: chance.random() < 0.02)
    played = asyncio.run(play(fleet, device, trace, at_once=8))
    ours, by_count = played.hits / REQUESTS, hits_of_lru_by_count(fleet, trace)
    with capsys.disabled():
        sys.stdout.write(
            f"\nhit rate {ours:.3f}; LRU by count {by_count:.3f}, by bytes {hits_of_lru_by_bytes(fleet, trace):.3f};"
            f" {device.loads} loads, {played.failed} failures, at most {device.peak / fleet.budget:.3f} of the budget\n"
        )
    assert device.peak <= fleet.budget
    assert (played.over, played.evicted_leases) == (0, 0)
    assert played.failed > 0
    assert played.served + played.failed == REQUESTS
    assert device.used == 0
    assert ours - by_count >= MARGIN


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """A few models that really take anything up to what is reserved for them."""
    models = []
    for number in range(draw(st.integers(2, 5))):
        nbytes, largest = draw(st.integers(1, 8)), draw(st.integers(0, 3))
        models.append(Simulated(info(f"m{number}", nbytes, largest=largest), draw(st.integers(0, nbytes)), 1.0))
    most = max(model.info.nbytes + model.info.largest for model in models)
    return Fleet(models, most + draw(st.integers(0, 6)))


@settings(max_examples=150, deadline=None)
@given(fleets(), st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(1, 4), st.integers(0, 99))
def test_on_any_trace_the_device_never_holds_more_than_the_budget(
    fleet: Fleet, trace: list[int], at_once: int, seed: int
) -> None:
    chance = random.Random(seed)
    device = SimulatedDevice(fleet, Clock(), fails=lambda name: chance.random() < 0.1)
    played = asyncio.run(play(fleet, device, [number % len(fleet.models) for number in trace], at_once=at_once))
    assert device.peak <= fleet.budget
    assert (played.over, played.evicted_leases) == (0, 0)
    assert played.served + played.failed == len(trace)
    assert device.used == 0

"""What loads take: alone where nothing overlaps, and together where something does."""

from __future__ import annotations

from ndserve.model_cache.meter import Meter, Reading
from ndserve.model_info import ModelKey

A: ModelKey = ("a", "1", 0)
B: ModelKey = ("b", "1", 0)


class Memory:
    def __init__(self) -> None:
        self.used = 1000

    def __call__(self) -> int:
        return self.used


def test_a_load_by_itself_is_told_what_it_took() -> None:
    memory = Memory()
    meter = Meter(memory)
    meter.begin()
    memory.used += 70
    assert meter.end(A, 50) == Reading(70)


def test_memory_that_went_down_meanwhile_reads_as_nothing() -> None:
    memory = Memory()
    meter = Meter(memory)
    meter.begin()
    memory.used -= 5
    assert meter.end(A, 50) == Reading(0)


def test_what_was_evicted_meanwhile_is_not_taken_off() -> None:
    memory = Memory()
    meter = Meter(memory)
    meter.begin()
    memory.used += 70 - 30
    meter.gone(30)
    assert meter.end(A, 50) == Reading(70)


def test_what_was_evicted_before_changes_nothing() -> None:
    memory = Memory()
    meter = Meter(memory)
    meter.gone(30)
    meter.begin()
    memory.used += 70
    assert meter.end(A, 50) == Reading(70)


def test_of_loads_that_overlap_the_last_one_is_told_what_all_took() -> None:
    memory = Memory()
    meter = Meter(memory)
    meter.begin()
    meter.begin()
    memory.used += 90
    assert meter.end(A, 10) == Reading()
    memory.used += 30
    assert meter.end(B, 50) == Reading(None, {A: 20, B: 100})


def test_loads_that_together_took_less_than_expected_stay_as_expected() -> None:
    memory = Memory()
    meter = Meter(memory)
    meter.begin()
    meter.begin()
    memory.used += 30
    meter.end(A, 10)
    assert meter.end(B, 50) == Reading(None, {A: 10, B: 50})


def test_a_load_after_others_is_by_itself_again() -> None:
    memory = Memory()
    meter = Meter(memory)
    meter.begin()
    meter.begin()
    memory.used += 90
    meter.end(A, 10)
    meter.end(B, 50)
    meter.begin()
    memory.used += 7
    assert meter.end(A, 10) == Reading(7)


def test_a_load_that_failed_takes_nothing_from_the_others() -> None:
    memory = Memory()
    meter = Meter(memory)
    meter.begin()
    meter.begin()
    meter.fail()
    memory.used += 40
    assert meter.end(B, 50) == Reading(40)

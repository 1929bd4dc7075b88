"""How many threads a model's operators get."""

from __future__ import annotations

import pytest

from ndserve.threads import threads_of


@pytest.mark.parametrize(
    ("cores", "lanes", "threads"), [(1, 1, 1), (2, 1, 1), (8, 1, 7), (8, 2, 3), (8, 7, 1), (8, 100, 1), (64, 4, 15)]
)
def test_the_event_loop_keeps_a_core_and_the_lanes_share_the_rest(cores: int, lanes: int, threads: int) -> None:
    assert threads_of(cores, lanes) == threads


@pytest.mark.parametrize("lanes", range(1, 9))
@pytest.mark.parametrize("cores", range(2, 33))
def test_no_core_has_two_threads_where_there_are_enough(cores: int, lanes: int) -> None:
    assert threads_of(cores, lanes) * lanes <= max(cores - 1, lanes)

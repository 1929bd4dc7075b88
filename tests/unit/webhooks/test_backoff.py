"""The spans between attempts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndserve.webhooks import next_try

HOUR = 3600.0
LATEST = 0.999


def spans(jitter: float) -> list[float]:
    """The waits after every failure, until it is given up."""
    found: list[float] = []
    while (due := next_try(len(found) + 1, 0.0, jitter)) is not None:
        found.append(due)
        assert len(found) < 1000
    return found


def test_the_first_wait_is_five_seconds() -> None:
    assert next_try(1, 1000.0, 0.0) == 1005.0


def test_every_wait_is_twice_the_one_before_up_to_an_hour() -> None:
    assert spans(0.0)[:12] == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, HOUR, HOUR]


def test_no_wait_is_much_longer_than_an_hour() -> None:
    assert max(spans(LATEST)) <= 1.25 * HOUR


@pytest.mark.parametrize("jitter", [0.0, 0.5, LATEST])
def test_it_is_given_up_after_about_a_day(jitter: float) -> None:
    assert 22 * HOUR < sum(spans(jitter)) < 29 * HOUR


def test_what_is_given_up_stays_so() -> None:
    last = len(spans(0.0)) + 1
    assert next_try(last, 0.0, 0.0) is None
    assert next_try(last + 10_000, 0.0, 0.0) is None


@given(st.integers(1, 50), st.floats(0, 1e12), st.floats(0, 1, exclude_max=True))
def test_it_is_never_tried_again_in_the_past(attempts: int, now: float, jitter: float) -> None:
    due = next_try(attempts, now, jitter)
    assert due is None or due > now


def test_jitter_moves_messages_apart() -> None:
    dues = [next_try(1, 0.0, jitter / 10) for jitter in range(10)]
    assert all(first != second for first, second in pairwise(dues))

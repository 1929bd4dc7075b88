"""Which models make room: cheap to load, large, long unused; never one that is held; and no more than must."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndserve.model_cache.eviction import HALF_LIFE, Candidate, Held, Refusal, cooled, plan

candidates = st.lists(
    st.builds(
        Candidate,
        st.tuples(st.uuids().map(str), st.just("1"), st.just(0)),
        st.integers(0, 10),
        st.floats(0, 10),
        st.floats(0, 5),
        st.integers(0, 5).map(float),
        st.sampled_from(["", "", "leased", "pinned", "loading"]),
    ),
    max_size=8,
)


def candidate(
    name: str, nbytes: int = 1, load_seconds: float = 1.0, heat: float = 1.0, last_used: float = 0.0, held: Held = ""
) -> Candidate:
    return Candidate((name, "1", 0), nbytes, load_seconds, heat, last_used, held)


def names(decided: object) -> list[str]:
    assert isinstance(decided, list), decided
    return [name for name, _, _ in decided]


@pytest.mark.parametrize(
    ("goes", "stays"),
    [
        (candidate("x", last_used=0), candidate("y", last_used=100)),
        (candidate("x", nbytes=3), candidate("y", nbytes=2)),
        (candidate("x", load_seconds=1), candidate("y", load_seconds=2)),
        (candidate("x", heat=1), candidate("y", heat=2)),
    ],
    ids=["the longest unused", "the largest", "the quickest to load", "the least used"],
)
def test_all_else_being_equal_goes(goes: Candidate, stays: Candidate) -> None:
    assert names(plan([stays, goes], 1, 200.0)) == ["x"]


def test_of_models_that_were_never_measured_the_longest_unused_goes() -> None:
    models = [candidate(name, load_seconds=0.0, last_used=number) for number, name in enumerate("abc")]
    assert names(plan(reversed(models), 2, 5.0)) == ["a", "b"]


def test_a_model_that_was_used_much_and_long_ago_goes_before_one_that_is_used_now() -> None:
    past = candidate("past", heat=100, last_used=0)
    present = candidate("present", heat=2, last_used=10 * HALF_LIFE)
    assert names(plan([present, past], 1, 10 * HALF_LIFE)) == ["past"]


def test_a_use_counts_half_after_the_half_life() -> None:
    assert cooled(4.0, 2 * HALF_LIFE) == pytest.approx(1.0)


def test_a_small_one_that_a_larger_one_makes_unnecessary_stays() -> None:
    small, large = candidate("small", 1, load_seconds=0.1), candidate("large", 8, load_seconds=8.0)
    assert names(plan([small, large], 8, 0.0)) == ["large"]


@given(candidates, st.integers(-5, 60))
def test_a_plan_exists_just_where_the_free_models_suffice(entries: list[Candidate], need: int) -> None:
    free = sum(entry.nbytes for entry in entries if not entry.held)
    assert isinstance(plan(entries, need, 10.0), Refusal) == (free < need)


@given(candidates, st.integers(-5, 60))
def test_a_plan_frees_enough_of_free_models_and_no_one_of_them_in_vain(entries: list[Candidate], need: int) -> None:
    decided = plan(entries, need, 10.0)
    if isinstance(decided, Refusal):
        return
    chosen = [next(entry for entry in entries if entry.key == key) for key in decided]
    freed = sum(entry.nbytes for entry in chosen)
    assert not any(entry.held for entry in chosen)
    assert freed >= need
    assert all(freed - entry.nbytes < need for entry in chosen)


@given(candidates, st.integers(-5, 60))
def test_a_refusal_accounts_for_every_byte(entries: list[Candidate], need: int) -> None:
    decided = plan(entries, need, 10.0)
    if isinstance(decided, Refusal):
        _, free, leased, pinned, loading = decided
        assert free + leased + pinned + loading == sum(entry.nbytes for entry in entries)


def test_a_refusal_says_what_holds_the_room() -> None:
    held: list[Held] = ["", "leased", "pinned", "loading"]
    models = [candidate(str(nbytes), nbytes, held=why) for nbytes, why in enumerate(held, 1)]
    told = str(plan(models, 50, 0.0))
    assert told == ("50 bytes more are needed, and idle models hold 1; in use are 2, pinned 3, and being loaded 4")

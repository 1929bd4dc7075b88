"""Who follows a task hears of every change, and who no longer does is forgotten."""

from __future__ import annotations

import pytest

from ndserve.engine.watchers import Watchers
from tests.unit.engine.rig import batch_key, make_task


def test_every_follower_of_a_task_hears_of_a_change_and_nobody_else() -> None:
    watchers = Watchers()
    with watchers.watch("a") as first, watchers.watch("a") as second, watchers.watch("b") as other:
        watchers.notify(make_task("a", batch_key()))
        assert (first.is_set(), second.is_set(), other.is_set()) == (True, True, False)


def test_all_followers_can_be_told_at_once() -> None:
    watchers = Watchers()
    with watchers.watch("a") as first, watchers.watch("b") as second:
        watchers.notify_all()
        assert first.is_set()
        assert second.is_set()


def test_who_leaves_is_forgotten_and_the_others_stay() -> None:
    watchers = Watchers()
    with watchers.watch("a") as staying:
        with watchers.watch("a") as leaving:
            assert len(watchers) == 2
        watchers.notify(make_task("a", batch_key()))
        assert (staying.is_set(), leaving.is_set()) == (True, False)
    assert len(watchers) == 0
    assert not watchers._watching


def test_a_follower_that_ends_with_an_error_is_forgotten_as_well() -> None:
    watchers = Watchers()
    with pytest.raises(ValueError, match="gone"), watchers.watch("a"):
        raise ValueError("gone")
    assert len(watchers) == 0


def test_a_change_of_what_nobody_follows_is_nothing() -> None:
    watchers = Watchers()
    watchers.notify(make_task("a", batch_key()))
    assert len(watchers) == 0

"""Who waits for which task: everyone is woken once, and who gives up leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from ndserve.engine.waiters import PATIENCE, Waiters
from tests.unit.engine.rig import run


def test_everyone_who_waits_for_a_task_is_woken_and_nobody_else() -> None:
    async def main() -> None:
        waiters = Waiters()
        first, second, third = waiters.add("a"), waiters.add("a"), waiters.add("b")
        waiters.wake(["a"])
        assert (first.done(), second.done(), third.done()) == (True, True, False)
        assert await first
        assert len(waiters) == 1

    run(main())


def test_who_gives_up_is_forgotten_and_the_others_still_wait() -> None:
    async def main() -> None:
        waiters = Waiters()
        first, second = waiters.add("a"), waiters.add("a")
        waiters.remove("a", first)
        assert len(waiters) == 1
        waiters.wake(["a"])
        assert (first.done(), second.done()) == (False, True)

    run(main())


def test_removing_after_waking_does_nothing() -> None:
    async def main() -> None:
        waiters = Waiters()
        future = waiters.add("a")
        waiters.wake(["a"])
        waiters.remove("a", future)
        assert len(waiters) == 0

    run(main())


def test_a_future_that_was_given_up_but_not_removed_does_not_break_the_waking_of_others() -> None:
    async def main() -> None:
        waiters = Waiters()
        given_up, waiting = waiters.add("a"), waiters.add("a")
        given_up.cancel()
        waiters.wake(["a"])
        assert await waiting

    run(main())


def test_waking_a_task_that_nobody_waits_for_does_nothing() -> None:
    waiters = Waiters()
    waiters.wake(["a"])
    assert len(waiters) == 0


def test_nobody_waits_any_more_once_it_is_closed() -> None:
    async def main() -> None:
        waiters = Waiters()
        before = waiters.add("a")
        waiters.close()
        assert not await before
        assert not await waiters.add("a")

    run(main())


def test_nothing_is_kept_of_those_who_wait_once_it_is_closed() -> None:
    async def main() -> None:
        waiters = Waiters()
        waiters.add("a")
        waiters.close()
        waiters.add("b")
        assert len(waiters) == 0

    run(main())


# the patient ones, with a timer that the test moves


class Ticks:
    """Stands in for the loop's `call_later`: keeps what is to be called until the test calls it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[float, Callable[[], object]]] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._call_later)

    def _call_later(self, delay: float, callback: Callable[..., object], *args: object) -> None:
        self.calls.append((delay, partial(callback, *args)))

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for _, call in calls:
            call()


def test_a_patient_one_gives_up_between_one_and_two_spans_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        waiters = Waiters()
        with monkeypatch.context() as patched:
            ticks = Ticks(patched)
            waiter = waiters.add_patient("a")
            ticks.turn()
            assert not waiter.done()
            ticks.turn()
            assert waiter.done()
            assert not await waiter

    run(main())


def test_all_patient_ones_share_one_timer_and_none_is_left_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        waiters = Waiters()
        with monkeypatch.context() as patched:
            ticks = Ticks(patched)
            early = [waiters.add_patient("a") for _ in range(3)]
            ticks.turn()
            late = waiters.add_patient("b")
            assert [delay for delay, _ in ticks.calls] == [PATIENCE]
            ticks.turn()
            assert ([waiter.done() for waiter in early], late.done()) == ([True] * 3, False)
            ticks.turn()
            assert (late.done(), ticks.calls) == (True, [])

    run(main())


def test_a_patient_one_whose_task_ends_in_time_is_woken_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        waiters = Waiters()
        with monkeypatch.context() as patched:
            ticks = Ticks(patched)
            waiter = waiters.add_patient("a")
            waiters.wake(["a"])
            ticks.turn()
            ticks.turn()
            assert await waiter
            assert len(waiters) == 0

    run(main())

"""Who waits for which task: everyone is woken once, and who gives up leaves nothing behind."""

from __future__ import annotations

from ndserve.engine.waiters import Waiters
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

"""Who waits for which task: everyone is woken once, and who gives up leaves nothing behind."""

from __future__ import annotations

from ndserve.engine.waiters import Waiters
from tests.unit.engine.rig import batch_key, make_task, run


def test_everyone_who_waits_for_a_task_is_woken_and_nobody_else() -> None:
    async def main() -> None:
        waiters, task, other = Waiters(), make_task("a", batch_key()), make_task("b", batch_key())
        first, second, third = waiters.add(task), waiters.add(task), waiters.add(other)
        waiters.wake([task])
        assert (first.done(), second.done(), third.done()) == (True, True, False)
        assert await first
        assert len(waiters) == 1

    run(main())


def test_who_gives_up_is_forgotten_and_the_others_still_wait() -> None:
    async def main() -> None:
        waiters, task = Waiters(), make_task("a", batch_key())
        first, second = waiters.add(task), waiters.add(task)
        waiters.remove(task, first)
        assert len(waiters) == 1
        waiters.wake([task])
        assert (first.done(), second.done()) == (False, True)

    run(main())


def test_removing_after_waking_does_nothing() -> None:
    async def main() -> None:
        waiters, task = Waiters(), make_task("a", batch_key())
        future = waiters.add(task)
        waiters.wake([task])
        waiters.remove(task, future)
        assert len(waiters) == 0

    run(main())


def test_a_future_that_was_given_up_but_not_removed_does_not_break_the_waking_of_others() -> None:
    async def main() -> None:
        waiters, task = Waiters(), make_task("a", batch_key())
        given_up, waiting = waiters.add(task), waiters.add(task)
        given_up.cancel()
        waiters.wake([task])
        assert await waiting

    run(main())


def test_waking_a_task_that_nobody_waits_for_does_nothing() -> None:
    waiters = Waiters()
    waiters.wake([make_task("a", batch_key())])
    assert len(waiters) == 0

"""Deadlines: which end a late task meets, and that the timer finds it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from ndserve.engine.deadlines import SLACK, Deadlines, overdue
from ndserve.processes.base import process
from ndserve.types import Outcome, Task, TaskOptions, TaskState
from tests.unit.engine.rig import Clock, Gate, batch_key, code, ended, item, run, serving, tick


def timed(start_within: float | None = None, run_within: float | None = None, name: str = "t") -> Task:
    options = TaskOptions(start_within=start_within, run_within=run_within)
    return Task(name, batch_key(), {"x": np.zeros(1)}, 1, True, 1000.0, options)


# the rule


@pytest.mark.parametrize(("now", "late"), [(1004.9, False), (1005.0, True), (1006.0, True)])
def test_a_task_that_has_not_started_in_time_expires(now: float, late: bool) -> None:
    outcome = overdue(timed(start_within=5.0), now)
    if not late:
        assert outcome is None
        return
    assert outcome is not None
    _, state, outputs, failure = outcome
    assert (state, outputs) == (TaskState.EXPIRED, None)
    assert failure is not None
    assert (failure.code, failure.status) == ("expired", 410)
    assert "5 s after it was accepted (start_within)" in failure.message


def test_a_task_that_has_started_in_time_may_take_longer_than_the_first_deadline() -> None:
    task = timed(start_within=5.0)
    task.start(1004.0)
    assert overdue(task, 9000.0) is None


def test_a_task_that_was_interrupted_has_met_its_first_deadline() -> None:
    task = timed(start_within=5.0)
    task.attempts = 1
    assert overdue(task, 9000.0) is None


@pytest.mark.parametrize(("now", "late"), [(1009.9, False), (1010.0, True)])
def test_a_task_that_runs_too_long_fails_as_timed_out(now: float, late: bool) -> None:
    task = timed(run_within=7.0)
    task.start(1003.0)
    outcome = overdue(task, now)
    assert (outcome is not None) is late
    if outcome is not None:
        assert outcome[1] is TaskState.FAILED
        assert outcome[3] is not None
        assert (outcome[3].code, outcome[3].status) == ("timeout", 504)


def test_the_first_start_sets_the_deadline_and_a_later_one_does_not_move_it() -> None:
    task = timed(run_within=7.0)
    task.start(1003.0)
    task.state = TaskState.QUEUED  # as after a restart of the server
    task.start(1008.0)
    assert task.run_by == 1010.0


def test_a_task_without_deadlines_is_never_overdue() -> None:
    assert overdue(timed(), 1e12) is None


# the timer


def test_the_timer_ends_what_is_overdue_and_only_that() -> None:
    async def main() -> None:
        clock, due = Clock(), list[Outcome]()
        deadlines = Deadlines(clock, due.append)
        early, late = timed(5.0, name="early"), timed(500.0, name="late")
        deadlines.add(late)
        clock.now = 1005.0
        deadlines.add(early)  # its time is over already, so the timer is due now
        await tick()
        assert [outcome[0] for outcome in due] == [early]
        assert len(deadlines) == 1
        deadlines.close()

    run(main())


def test_the_timer_goes_by_the_clock_alone() -> None:
    async def main() -> None:
        ends: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        deadlines = Deadlines(time.time, ends.set_result)
        task = timed(0.005)
        task.created = time.time()
        deadlines.add(task)
        assert (await ends)[1] is TaskState.EXPIRED
        assert len(deadlines) == 0

    run(main())


def test_a_task_that_has_started_is_watched_for_its_other_deadline() -> None:
    async def main() -> None:
        clock, due = Clock(), list[Outcome]()
        deadlines = Deadlines(clock, due.append)
        task = timed(5.0, 20.0)
        deadlines.add(task)
        task.start(1001.0)
        deadlines.add(task)
        assert len(deadlines) == 1
        clock.now = 1021.0
        deadlines.add(timed(1000.0, name="other"))  # has the timer look at the clock again
        await tick()
        assert [(outcome[0], outcome[1]) for outcome in due] == [(task, TaskState.FAILED)]
        deadlines.close()

    run(main())


def test_a_forgotten_task_is_not_held_although_its_deadline_is_far_away() -> None:
    async def main() -> None:
        deadlines = Deadlines(Clock(), lambda outcome: None)
        deadlines.add(timed(1.0, name="first"))
        for number in range(10 * SLACK):
            task = timed(86_400.0, name=str(number))
            deadlines.add(task)
            deadlines.forget(task)
        assert len(deadlines) == 1
        assert len(deadlines._heap) <= 2 + SLACK + 1
        deadlines.close()

    run(main())


def test_a_closed_timer_ends_nothing() -> None:
    async def main() -> None:
        clock, due = Clock(), list[Outcome]()
        clock.now = 2000.0
        deadlines = Deadlines(clock, due.append)
        deadlines.add(timed(5.0))
        deadlines.close()
        await tick()
        assert due == []

    run(main())


def test_a_task_that_has_ended_leaves_no_timer_behind() -> None:
    async def main() -> None:
        clock, due = Clock(), list[Outcome]()
        deadlines = Deadlines(clock, due.append)
        task = timed(5.0)
        deadlines.add(task)
        deadlines.forget(task)
        clock.now += 5
        deadlines._fire()
        assert (due, len(deadlines), deadlines._heap, deadlines._timer) == ([], 0, [], None)

    run(main())


def test_a_task_that_ends_in_the_turn_in_which_it_falls_due_ends_once() -> None:
    async def main() -> None:
        clock, due = Clock(), list[Outcome]()
        deadlines = Deadlines(clock, due.append)
        task = timed(5.0)
        deadlines.add(task)
        task.settle(TaskState.CANCELLED, 1005.0)
        clock.now += 5
        deadlines._fire()
        assert (due, len(deadlines)) == ([], 0)

    run(main())


def test_a_task_that_was_interrupted_is_watched_for_the_time_of_its_first_start() -> None:
    async def main() -> None:
        clock, due = Clock(), list[Outcome]()
        deadlines = Deadlines(clock, due.append)
        task = timed(5.0, 20.0)
        task.attempts, task.run_by = 1, 1015.0
        deadlines.add(task)
        clock.now += 14
        deadlines._fire()
        assert due == []
        clock.now += 1
        deadlines._fire()
        assert [(outcome[0], outcome[1]) for outcome in due] == [(task, TaskState.FAILED)]
        deadlines.close()

    run(main())


def test_a_task_that_was_interrupted_and_may_take_its_time_is_not_watched() -> None:
    async def main() -> None:
        deadlines = Deadlines(Clock(), lambda outcome: None)
        task = timed(5.0)
        task.attempts = 1
        deadlines.add(task)
        assert (len(deadlines), deadlines._timer) == (0, None)

    run(main())


# in the service


def test_expired_work_never_reaches_the_lane() -> None:
    seen: list[float] = []
    gate = Gate()

    @process("seen", batched=True)
    def see(xp: Any, x: Any) -> Any:
        seen.extend(x[:, 0].tolist())
        gate.hold()
        return x

    async def main() -> None:
        clock = Clock()
        async with serving(see, clock=clock, gates=[gate]) as service:
            first = await service.submit("seen", item(0))
            await gate.reached()
            late = await service.submit("seen", item(1), options=TaskOptions(start_within=5.0))
            other = await service.submit("seen", item(2))
            clock.now += 5
            gate.open()
            await ended(service, first, late, other)
            assert (late.state, late.attempts, code(late)) == (TaskState.EXPIRED, 0, "expired")
            assert seen == [0, 2]

    run(main())


def test_a_running_task_whose_time_is_over_fails_and_its_result_is_dropped() -> None:
    gate = Gate()

    @process("slow", batched=True)
    def slow(xp: Any, x: Any) -> Any:
        gate.hold()
        return x

    async def main() -> None:
        clock = Clock()
        async with serving(slow, clock=clock, gates=[gate]) as service:
            task = await service.submit("slow", item(1), options=TaskOptions(run_within=5.0))
            await gate.reached()
            clock.now += 5
            service.ledger.started([task])  # has the timer look at the clock again
            await ended(service, task)
            assert (task.state, code(task)) == (TaskState.FAILED, "timeout")
            gate.open()
            await service.lane.delivered()
            await tick()
            assert (task.outputs, service.stats()["settled_late"]) == (None, 1)

    run(main())

"""Progress on its way from the lane's thread: the latest report always arrives, and no queue grows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from ndserve.engine.reporting import Reporter
from ndserve.progress import report_progress
from tests.unit.engine.rig import run, tick


class CountedLoop:
    """Stands in for the event loop: keeps what is to be called on it until the test calls it."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.on_call: Callable[[], object] = lambda: None

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        self.calls.append(callback)
        self.on_call()

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_of_many_reports_between_two_turns_of_the_loop_the_last_is_told_once() -> None:
    loop, told = CountedLoop(), list[tuple[float, str]]()
    with Reporter(cast(Any, loop), lambda *report: told.append(report)).listening():
        for number in range(100):
            report_progress(number / 100, str(number))
    assert len(loop.calls) == 1
    loop.turn()
    assert told == [(0.99, "99")]


def test_a_report_after_one_was_told_is_told_as_well() -> None:
    loop, told = CountedLoop(), list[tuple[float, str]]()
    with Reporter(cast(Any, loop), lambda *report: told.append(report)).listening():
        report_progress(0.25)
        loop.turn()
        report_progress(0.5)
        loop.turn()
    assert told == [(0.25, ""), (0.5, "")]


def test_outside_of_its_run_nobody_listens() -> None:
    loop = CountedLoop()
    with Reporter(cast(Any, loop), lambda *report: None).listening():
        pass
    report_progress(0.5)
    assert loop.calls == []


def test_the_last_report_arrives_however_the_two_threads_meet() -> None:
    async def main() -> None:
        told: list[float] = []
        reporter = Reporter(asyncio.get_running_loop(), lambda fraction, message: told.append(fraction))

        def work() -> None:
            with reporter.listening():
                for number in range(20_001):
                    report_progress(number / 20_000)

        await asyncio.to_thread(work)
        await tick()
        assert told[-1] == 1.0

    run(main())


def test_a_report_that_comes_while_the_one_before_is_being_told_is_not_lost() -> None:
    loop, told = CountedLoop(), list[float]()
    reporter: Reporter

    def tell(fraction: float, message: str) -> None:
        told.append(fraction)
        if fraction == 0.25:
            report_progress(0.5)

    reporter = Reporter(cast(Any, loop), tell)
    with reporter.listening():
        report_progress(0.25)
        loop.turn()
        loop.turn()
    assert told == [0.25, 0.5]

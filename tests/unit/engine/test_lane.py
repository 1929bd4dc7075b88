"""The lane: one thread inside the device, work in order, and whatever the work raises."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self

import pytest

from ndserve.devices.cpu import CpuDevice
from ndserve.engine.lane import Lane
from tests.unit.engine.rig import Gate, run


class WatchedDevice(CpuDevice):
    """Notes who enters and leaves."""

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.left: list[int] = []

    def __enter__(self) -> Self:
        self.entered.append(threading.get_ident())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left.append(threading.get_ident())


class LockedDevice(CpuDevice):
    """Cannot be entered."""

    def __enter__(self) -> Self:
        raise OSError("no driver")


@asynccontextmanager
async def started(device: CpuDevice | None = None, gate: Gate | None = None) -> AsyncIterator[Lane]:
    lane = Lane(device or CpuDevice())
    deaths: list[str] = []
    lane.start(deaths.append)
    try:
        yield lane
    finally:
        if gate is not None:
            gate.open()
        assert lane.stop(20)
        assert not deaths


def test_work_gives_its_result() -> None:
    async def main() -> None:
        async with started() as lane:
            assert await lane.run(lambda: 6 * 7) == 42

    run(main())


def test_all_work_runs_in_order_on_the_one_thread_that_is_inside_the_device() -> None:
    async def main() -> None:
        device, order, threads = WatchedDevice(), list[int](), set[int]()

        def work(number: int) -> None:
            order.append(number)
            threads.add(threading.get_ident())

        async with started(device) as lane:
            await asyncio.gather(*(lane.run(partial(work, number)) for number in range(20)))
        assert order == list(range(20))
        assert list(threads) == device.entered == device.left
        assert threading.get_ident() not in threads

    run(main())


def test_what_the_work_raises_comes_out_as_it_is() -> None:
    error = ValueError("bad value")

    def work() -> None:
        raise error

    async def main() -> None:
        async with started() as lane:
            with pytest.raises(ValueError, match="bad value") as caught:
                await lane.run(work)
            assert caught.value is error

    run(main())


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), GeneratorExit(), asyncio.CancelledError()], ids=repr
)
def test_what_would_end_a_thread_or_a_loop_fails_only_the_work(error: BaseException) -> None:
    def work() -> None:
        raise error

    async def main() -> None:
        async with started() as lane:
            with pytest.raises(RuntimeError, match=type(error).__name__):
                await lane.run(work)
            assert await lane.run(lambda: "next") == "next"

    run(main())


def test_in_flight_counts_what_has_been_given_and_not_come_back() -> None:
    async def main() -> None:
        gate = Gate()
        async with started(gate=gate) as lane:
            first, second = lane.run(gate.hold), lane.run(lambda: 1 / 0)
            assert lane.in_flight == 2
            gate.open()
            await asyncio.gather(first, second, return_exceptions=True)
            assert lane.in_flight == 0

    run(main())


def test_a_result_that_nobody_waits_for_any_more_is_dropped() -> None:
    async def main() -> None:
        gate = Gate()
        async with started(gate=gate) as lane:
            given_up = lane.run(gate.hold)
            given_up.cancel()
            gate.open()
            assert await lane.run(lambda: "next") == "next"
            assert lane.in_flight == 0

    run(main())


def test_who_asks_for_what_was_delivered_finds_that_everybody_has_heard_of_it() -> None:
    async def main() -> None:
        heard: list[None] = []
        lane = Lane(CpuDevice())
        lane.start(lambda reason: None)
        lane.run(lambda: None).add_done_callback(lambda running: heard.append(running.result()))
        assert lane.stop(20)  # the result is on its way to the loop now
        await asyncio.sleep(0)  # and here, but its callbacks come in the next turn
        assert (lane.in_flight, heard) == (0, [])
        await lane.delivered()
        assert heard == [None]

    run(main())


def test_stop_ends_the_thread_after_what_it_has_been_given() -> None:
    async def main() -> None:
        done: list[int] = []
        lane = Lane(CpuDevice())
        lane.start(lambda reason: None)
        for number in range(10):
            lane.run(partial(done.append, number))
        assert lane.stop(20)
        assert done == list(range(10))

    run(main())


def test_stop_says_when_the_thread_is_still_busy() -> None:
    async def main() -> None:
        gate = Gate()
        async with started(gate=gate) as lane:
            lane.run(gate.hold)
            await gate.reached()
            assert not lane.stop(0)

    run(main())


def test_a_lane_that_was_never_started_has_stopped() -> None:
    assert Lane(CpuDevice()).stop(0)


def test_a_device_that_cannot_be_entered_is_reported_with_its_error() -> None:
    async def main() -> None:
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        lane = Lane(LockedDevice())
        lane.start(died.set_result)
        assert "no driver" in await died
        assert lane.stop(20)

    run(main())


def test_a_loop_that_has_gone_does_not_break_the_lane() -> None:
    """The process is ending, and the lane was in the middle of something."""
    gate, lane, deaths = Gate(), Lane(CpuDevice()), list[str]()

    async def main() -> None:
        lane.start(deaths.append)
        lane.run(gate.hold)
        await gate.reached()

    run(main())
    gate.open()
    assert lane.stop(20)
    assert not deaths

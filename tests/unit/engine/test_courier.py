"""The courier: what lies in the outbox arrives at least once, and nobody is sent it again and again at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from ndserve.engine import courier as module
from ndserve.engine.courier import AT_ONCE, Courier
from ndserve.stores.base import Delivery
from ndserve.stores.memory import MemoryOutbox
from ndserve.webhooks import Sender, Sent, next_try
from tests.unit.engine.rig import Clock, run, tick

DELIVERED, BROKEN, GONE = Sent(200), Sent(500, "the receiver answered 500"), Sent(410, "the receiver answered 410")


class FakeSender:
    """Notes what it is given, and answers what the test says, or when."""

    def __init__(self, *answers: Sent) -> None:
        self.sent: list[tuple[str, str, bytes, float]] = []
        self.holding: list[asyncio.Future[Sent]] = []
        self.hold = False
        self.closed = False
        self._answers = list(answers)

    async def send(self, url: str, message_id: str, body: bytes, now: float) -> Sent:
        self.sent.append((url, message_id, body, now))
        if self.hold:
            answer: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
            self.holding.append(answer)
            return await answer
        return self._answers.pop(0) if self._answers else DELIVERED

    async def aclose(self) -> None:
        self.closed = True

    @property
    def names(self) -> list[str]:
        return [name for _, name, _, _ in self.sent]


class TornOutbox(MemoryOutbox):
    """Cannot be read or written as often as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.torn_reads = 0
        self.torn_notes = 0
        self.notes = 0

    async def due(self, now: float, limit: int) -> list[Delivery]:
        if self.torn_reads:
            self.torn_reads -= 1
            raise OSError("torn")
        return await super().due(now, limit)

    async def done(self, delivery: Delivery) -> None:
        self.notes += 1
        if self.torn_notes:
            self.torn_notes -= 1
            raise OSError("torn")
        await super().done(delivery)


def message(name: str = "msg", due: float = 1000.0, attempts: int = 0) -> Delivery:
    return Delivery(name, "http://here/hook?secret=1", b"{}", attempts, due)


def outbox_with(*deliveries: Delivery) -> MemoryOutbox:
    outbox = MemoryOutbox()
    for delivery in deliveries:
        outbox.add(delivery)
    return outbox


@asynccontextmanager
async def running(
    outbox: MemoryOutbox, sender: FakeSender, clock: Callable[[], float] | None = None, jitter: float = 0.0
) -> AsyncIterator[Courier]:
    courier = Courier(cast(Sender, sender), clock or Clock(), lambda: jitter)
    courier.start(outbox)
    await tick(20)
    try:
        yield courier
    finally:
        await courier.close()


async def left(outbox: MemoryOutbox) -> list[Delivery]:
    return await outbox.due(1e12, 1000)


async def again(courier: Courier) -> None:
    """Have the courier look, and do what there is to do."""
    courier.nudge()
    await tick(20)


# that it arrives


def test_what_is_due_is_sent_and_leaves_the_outbox() -> None:
    async def main() -> None:
        outbox, sender = outbox_with(message()), FakeSender()
        async with running(outbox, sender):
            assert sender.sent == [("http://here/hook?secret=1", "msg", b"{}", 1000.0)]
            assert await left(outbox) == []

    run(main())


def test_what_comes_later_is_sent_once_the_courier_is_nudged() -> None:
    async def main() -> None:
        outbox, sender = outbox_with(), FakeSender()
        async with running(outbox, sender) as courier:
            outbox.add(message())
            await tick(20)
            assert sender.sent == []
            await again(courier)
            assert sender.names == ["msg"]

    run(main())


def test_what_is_not_due_yet_is_not_sent() -> None:
    async def main() -> None:
        clock, outbox, sender = Clock(), outbox_with(message(due=1060.0)), FakeSender()
        async with running(outbox, sender, clock) as courier:
            await again(courier)
            assert sender.sent == []
            clock.now += 60
            await again(courier)
            assert sender.names == ["msg"]

    run(main())


def test_the_courier_wakes_by_itself_when_a_message_falls_due(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        clock, outbox, sender = Clock(), outbox_with(message(due=1060.0)), FakeSender()
        waits: list[float | None] = []
        wait_for = asyncio.wait_for

        async def skip(waiting: Any, timeout: float | None) -> Any:  # noqa: ASYNC109
            waits.append(timeout)
            if timeout is not None:
                clock.now += timeout
                waiting.close()
                raise TimeoutError
            return await wait_for(waiting, None)

        monkeypatch.setattr(asyncio, "wait_for", skip)
        async with running(outbox, sender, clock):
            assert sender.names == ["msg"]
            assert waits[0] == 60.0
            assert waits[-1] is None, "nothing is left to wait for"

    run(main())


def test_a_message_that_was_on_its_way_when_the_server_died_is_sent_by_the_next_one() -> None:
    async def main() -> None:
        outbox, first, second = outbox_with(message()), FakeSender(), FakeSender()
        first.hold = True
        async with running(outbox, first):
            assert first.names == ["msg"]
        async with running(outbox, second):
            assert second.names == ["msg"]
        assert await left(outbox) == []

    run(main())


def test_a_message_that_is_on_its_way_is_not_sent_a_second_time() -> None:
    async def main() -> None:
        outbox, sender = outbox_with(message()), FakeSender()
        sender.hold = True
        async with running(outbox, sender) as courier:
            for _ in range(3):
                await again(courier)
            assert sender.names == ["msg"]

    run(main())


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_a_message_that_fails_is_tried_again_later(jitter: float) -> None:
    async def main() -> None:
        clock, outbox, sender = Clock(), outbox_with(message()), FakeSender(BROKEN, BROKEN)
        async with running(outbox, sender, clock, jitter) as courier:
            first = next_try(1, 1000.0, jitter)
            assert first is not None
            assert [(one.attempts, one.due) for one in await left(outbox)] == [(1, first)]
            clock.now = first
            await again(courier)
            assert [(one.attempts, one.due) for one in await left(outbox)] == [(2, next_try(2, first, jitter))]
            assert len(sender.sent) == 2

    run(main())


def test_a_message_that_fails_too_often_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "next_try", lambda attempts, now, jitter: None if attempts >= 3 else now)

    async def main() -> None:
        outbox, sender = outbox_with(message()), FakeSender(*[BROKEN] * 5)
        async with running(outbox, sender):
            await tick(100)
            assert len(sender.sent) == 3
            assert await left(outbox) == []

    run(main())


def test_a_receiver_that_wants_no_more_is_sent_no_more() -> None:
    async def main() -> None:
        clock, outbox, sender = Clock(), outbox_with(message()), FakeSender(GONE)
        async with running(outbox, sender, clock) as courier:
            clock.now += 1e6
            await again(courier)
            assert len(sender.sent) == 1
            assert await left(outbox) == []

    run(main())


def test_a_failure_is_logged_without_what_may_be_secret_of_the_url(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with running(outbox_with(message()), FakeSender(BROKEN)):
            assert "webhook msg to" in caplog.text
            assert "the receiver answered 500" in caplog.text
            assert "secret" not in caplog.text

    run(main())


def test_only_so_many_messages_are_on_their_way_at_once_and_the_others_follow() -> None:
    async def main() -> None:
        outbox = outbox_with(*(message(str(number)) for number in range(AT_ONCE + 3)))
        sender = FakeSender()
        sender.hold = True
        async with running(outbox, sender) as courier:
            await again(courier)
            assert len(sender.sent) == AT_ONCE
            sender.holding[0].set_result(DELIVERED)
            await tick(20)
            assert len(sender.sent) == AT_ONCE + 1
            sender.hold = False
            for answer in sender.holding[1:]:
                answer.set_result(DELIVERED)
            await tick(50)
            assert sorted(sender.names) == sorted(str(number) for number in range(AT_ONCE + 3))
            assert await left(outbox) == []

    run(main())


def test_slow_receivers_do_not_hold_up_the_others() -> None:
    async def main() -> None:
        outbox, sender = outbox_with(message("slow")), FakeSender()
        sender.hold = True
        async with running(outbox, sender) as courier:
            sender.hold = False
            outbox.add(message("quick"))
            await again(courier)
            assert [one.id for one in await left(outbox)] == ["slow"]

    run(main())


# what goes wrong


def test_an_outbox_that_cannot_be_read_is_read_again() -> None:
    async def main() -> None:
        outbox, sender = TornOutbox(), FakeSender()
        outbox.add(message())
        outbox.torn_reads = 1
        async with running(outbox, sender) as courier:
            assert sender.sent == []
            await again(courier)
            assert sender.names == ["msg"]

    run(main())


def test_a_message_whose_arrival_could_not_be_noted_is_not_sent_again_at_once() -> None:
    async def main() -> None:
        outbox, sender = TornOutbox(), FakeSender()
        outbox.add(message())
        outbox.torn_notes = 1
        async with running(outbox, sender) as courier:
            for _ in range(5):
                await again(courier)
            assert sender.names == ["msg"]

    run(main())


def test_a_message_whose_arrival_could_not_be_noted_is_sent_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)

    async def main() -> None:
        outbox, sender = TornOutbox(), FakeSender()
        outbox.add(message())
        outbox.torn_notes = 1
        async with running(outbox, sender):
            await tick(50)
            assert sender.names == ["msg", "msg"]
            assert await left(outbox) == []

    run(main())


def test_a_courier_that_is_closed_stops_and_closes_its_sender() -> None:
    async def main() -> None:
        outbox, sender = outbox_with(message()), FakeSender()
        sender.hold = True
        async with running(outbox, sender) as courier:
            pass
        assert sender.closed
        assert sender.holding[0].cancelled()
        assert [one.id for one in await left(outbox)] == ["msg"]
        await again(courier)
        assert len(sender.sent) == 1

    run(main())

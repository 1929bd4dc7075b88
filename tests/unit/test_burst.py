"""Writes of one turn of the event loop leave together, in order, and at the latest when the connection closes."""

from __future__ import annotations

import asyncio

from ndserve.burst import JOINED, Burst, BurstTransport


class Wire(asyncio.Transport):
    """Notes what is written, and by whom."""

    def __init__(self, log: list[bytes]) -> None:
        super().__init__()
        self.log = log
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.log.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_head_and_body_leave_in_one_write_at_the_end_of_the_turn() -> None:
    async def main() -> list[bytes]:
        log: list[bytes] = []
        transport = BurstTransport(Wire(log), Burst())
        transport.write(b"head")
        transport.write(memoryview(b"body"))
        assert log == []
        await asyncio.sleep(0)
        return log

    assert asyncio.run(main()) == [b"headbody"]


def test_the_answers_of_several_connections_leave_in_the_order_of_their_heads() -> None:
    async def main() -> list[bytes]:
        log: list[bytes] = []
        burst = Burst()
        first, second = BurstTransport(Wire(log), burst), BurstTransport(Wire(log), burst)
        first.write(b"1")
        second.write(b"2")
        first.write(b"1")
        await asyncio.sleep(0)
        first.write(b"3")
        await asyncio.sleep(0)
        return log

    assert asyncio.run(main()) == [b"11", b"2", b"3"]


def test_a_connection_that_cannot_be_written_to_holds_up_no_other() -> None:
    class Broken(Wire):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            raise RuntimeError("the handler is closed")

    async def main() -> list[bytes]:
        log: list[bytes] = []
        burst = Burst()
        gone = Wire(log)
        broken, closed, live = (BurstTransport(wire, burst) for wire in (Broken(log), gone, Wire(log)))
        for transport in (broken, closed, live):
            transport.write(b"one")
        gone.closed = True
        await asyncio.sleep(0)
        for transport in (broken, closed, live):
            transport.write(b"two")
        await asyncio.sleep(0)
        return log

    assert asyncio.run(main()) == [b"one", b"two"]


def test_a_large_body_is_written_at_once_behind_its_head() -> None:
    async def main() -> list[bytes]:
        log: list[bytes] = []
        transport = BurstTransport(Wire(log), Burst())
        transport.write(b"head")
        transport.write(bytes(JOINED))
        written = list(log)
        await asyncio.sleep(0)
        assert log == written
        return written

    assert asyncio.run(main()) == [b"head", bytes(JOINED)]


def test_closing_writes_what_is_held_first() -> None:
    async def main() -> None:
        wire = Wire([])
        transport = BurstTransport(wire, Burst())
        transport.write(b"last words")
        transport.close()
        assert wire.log == [b"last words"]
        assert wire.closed
        await asyncio.sleep(0)
        assert wire.log == [b"last words"]

    asyncio.run(main())


def test_what_is_not_writing_is_the_transports_own() -> None:
    wire = Wire([])
    transport = BurstTransport(wire, Burst())
    wire.close()
    assert transport.is_closing()
    assert transport.get_protocol == wire.get_protocol

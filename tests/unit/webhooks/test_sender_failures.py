"""Whatever goes wrong in the sending of a message is told, and only a cancellation is raised."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading

import anyio
import h11
import httpcore2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndserve.webhooks import Sent
from ndserve.webhooks.sender import MAX_ANSWER, resolve
from tests.unit.webhooks.rig import NAME, OK, PUBLIC, Line, Names, Network, Receiver, a_sender, run

UNFORESEEN = [
    anyio.ClosedResourceError(),
    anyio.BusyResourceError("reading"),
    ExceptionGroup("several", [OSError(), ValueError()]),
    h11.LocalProtocolError("not mapped"),
    RuntimeError("the handler is closed"),
    ValueError("Exceeds the limit (4300 digits)"),
    AssertionError(),
    httpcore2.UnsupportedProtocol("x"),
    httpcore2.ProxyError("x"),
]


class Failing(Names):
    """A resolver that raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__([])
        self._error = error

    async def __call__(self, host: str, port: int) -> list[str]:
        raise self._error


def sent(names: Names) -> Sent:
    async def main() -> Sent:
        async with a_sender(names=names) as sender:
            return await sender.send(f"https://{NAME}/", "msg_1", b"{}", 0.0)

    return run(main())


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_an_error_that_nobody_has_foreseen_is_a_failure(error: Exception) -> None:
    assert sent(Failing(error)) == (None, type(error).__name__)


def test_an_error_that_nobody_has_foreseen_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    sent(Failing(RuntimeError("odd")))
    (record,) = [record for record in caplog.records if record.name == "ndserve.webhooks.sender"]
    assert "msg_1" in record.getMessage()
    assert record.exc_info is not None


def test_a_resolver_that_gives_no_address_is_a_failure() -> None:
    assert sent(Names(["nonsense"])).status is None


class Breaking(Network):
    """A network whose connections raise when they are read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.closed = False

    async def connect_tcp(self, *arguments: object, **options: object) -> httpcore2.AsyncNetworkStream:
        network = self

        class Broken(Line):
            async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
                raise network.error

            async def aclose(self) -> None:
                network.closed = True

        return Broken(self)


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_a_connection_is_closed_after_an_error_that_nobody_has_foreseen(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    network = Breaking(error)
    monkeypatch.setattr(httpcore2, "AnyIOBackend", lambda: network)
    assert sent(Names([PUBLIC])).status is None
    assert network.closed


@settings(deadline=None, max_examples=20)  # each has a loop of its own
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(b"HTTP/1.1 200 OK\r\n".__add__)))
def test_whatever_a_receiver_answers_is_told(answer: bytes) -> None:
    async def main() -> Sent:
        receiver = Receiver(answer)
        async with receiver.open(), a_sender(NAME) as sender:
            return await sender.send(f"http://{NAME}:{receiver.port}/", "msg_1", b"{}", 0.0)

    result = run(main())
    assert result.delivered != bool(result.error)


def test_interim_answers_without_end_are_a_failure_long_before_the_time_is_up() -> None:
    async def interim(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 103 X\r\n\r\n" * 1000)
            await writer.drain()

    async def main() -> Sent:
        receiver = Receiver(b"", interim)
        async with receiver.open(), a_sender(NAME, timeout=60.0) as sender:
            return await sender.send(f"http://{NAME}:{receiver.port}/", "msg_1", b"{}", 0.0)

    assert run(main()) == (None, f"no status within the first {MAX_ANSWER} bytes of the answer")


def test_an_answer_with_many_headers_is_taken() -> None:
    headers = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 1000) for number in range(20))

    async def main() -> Sent:
        receiver = Receiver(OK.replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n"))
        async with receiver.open(), a_sender(NAME) as sender:
            return await sender.send(f"http://{NAME}:{receiver.port}/", "msg_1", b"{}", 0.0)

    assert run(main()).delivered


def test_a_name_that_is_slow_to_resolve_holds_up_none_of_the_loops_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(*arguments: object, **options: object) -> list[object]:
        go_on.wait(10)
        return []

    async def main() -> int:
        lookups = [asyncio.create_task(resolve(NAME, 443)) for _ in range(100)]
        try:
            return await asyncio.to_thread(lambda: 5)
        finally:
            go_on.set()
            assert await asyncio.gather(*lookups) == [[]] * 100

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert run(main()) == 5


def test_a_lookup_that_nobody_waits_for_any_more_ends_in_silence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()
    started: queue.Queue[threading.Thread] = queue.Queue()

    def slow(*arguments: object, **options: object) -> list[object]:
        started.put(threading.current_thread())
        go_on.wait(10)
        return []

    async def main() -> None:
        lookup = asyncio.create_task(resolve(NAME, 443))
        thread = await asyncio.to_thread(started.get)
        lookup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lookup
        go_on.set()
        await asyncio.to_thread(thread.join)
        assert not thread.is_alive()

    caplog.set_level("ERROR")
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    run(main())
    assert not caplog.records  # the loop would log a result that comes too late


def test_what_a_lookup_raises_is_raised_to_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(socket.gaierror):
        run(resolve(NAME, 443))

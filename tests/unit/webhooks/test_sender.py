"""One delivery, to a server on this machine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac

import pytest

from ndserve.webhooks import Sent
from tests.unit.webhooks.rig import NAME, OK, SECRET, Names, Receiver, a_sender, run

BODY = b'{"a":1}'


def sent_to(receiver: Receiver, path: str = "/hook", *, timeout: float = 5.0) -> Sent:
    """What comes of one message to a receiver whose host is allowed."""

    async def main() -> Sent:
        async with receiver.open(), a_sender(NAME, timeout=timeout) as sender:
            return await sender.send(f"http://{NAME}:{receiver.port}{path}", "msg_1", BODY, 1700000000.5)

    return run(main())


def answer(status: str, headers: str = "content-length: 0\r\n") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}\r\n".encode()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Keep the connection, until the other side ends it."""
    await reader.read()


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Write without end, until the other side ends it."""
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


# what is sent


def test_the_body_arrives_as_it_is() -> None:
    receiver = Receiver()
    assert sent_to(receiver, "/hook?x=1").delivered
    (request,) = receiver.requests
    assert request.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n" + BODY)


def test_the_headers_are_these_and_no_others() -> None:
    receiver = Receiver()
    sent_to(receiver)
    headers = receiver.headers
    signature = headers.pop("webhook-signature")
    assert headers == {
        "host": f"{NAME}:{receiver.port}",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "user-agent": "ndserve/1.2.3",
        "webhook-id": "msg_1",
        "webhook-timestamp": "1700000000",
    }
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = hmac.digest(key, b"msg_1.1700000000." + BODY, hashlib.sha256)
    assert base64.b64decode(signature.removeprefix("v1,")) == expected


def test_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert sent_to(Receiver()).delivered


def test_a_cookie_is_not_kept() -> None:
    receiver = Receiver(answer("200 OK", "set-cookie: a=b\r\ncontent-length: 0\r\n"))

    async def main() -> None:
        async with receiver.open(), a_sender(NAME) as sender:
            for number in range(2):
                await sender.send(f"http://{NAME}:{receiver.port}/", f"msg_{number}", BODY, 0.0)

    run(main())
    assert len(receiver.requests) == 2
    assert not any(b"cookie" in request.lower() for request in receiver.requests)


# what comes of it


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_a_delivery(status: int) -> None:
    sent = sent_to(Receiver(answer(f"{status} X", "")))
    assert (sent.status, sent.delivered, sent.gone, sent.error) == (status, True, False, "")


@pytest.mark.parametrize("status", [300, 304, 400, 404, 429, 500, 503])
def test_any_other_status_is_a_failure(status: int) -> None:
    sent = sent_to(Receiver(answer(f"{status} X")))
    assert (sent.status, sent.delivered, sent.gone) == (status, False, False)
    assert str(status) in sent.error


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    receiver = Receiver(answer(f"{status} Elsewhere", "location: /elsewhere\r\ncontent-length: 0\r\n"))
    sent = sent_to(receiver)
    assert (sent.status, sent.delivered) == (status, False)
    assert len(receiver.requests) == 1


def test_410_says_that_the_receiver_wants_no_more() -> None:
    sent = sent_to(Receiver(answer("410 Gone")))
    assert (sent.gone, sent.delivered) == (True, False)


def test_a_status_that_only_announces_another_is_passed_over() -> None:
    assert sent_to(Receiver(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)).status == 200


def test_a_change_of_protocol_is_a_failure() -> None:
    sent = sent_to(Receiver(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"))
    assert not sent.delivered


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 999999 X\r\n\r\n",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nx\r\n\r\n",
    ],
)
def test_an_answer_that_is_not_http_is_a_failure(reply: bytes) -> None:
    sent = sent_to(Receiver(reply))
    assert sent.status is None
    assert sent.error


def test_headers_without_end_are_a_failure() -> None:
    sent = sent_to(Receiver(b"HTTP/1.1 200 OK\r\nx: ", flood))
    assert sent.status is None
    assert sent.error


def test_a_body_without_end_is_not_waited_for() -> None:
    assert sent_to(Receiver(b"HTTP/1.1 200 OK\r\n\r\n", flood)).delivered


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    assert sent_to(Receiver(answer("200 OK", "content-length: 5\r\n"), hang)).delivered


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nx: y\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_an_answer_that_does_not_come_in_time_is_a_failure(reply: bytes) -> None:
    sent = sent_to(Receiver(reply, hang), timeout=0.05)
    assert sent == (None, "no answer within 0.05 s")


def test_a_receiver_that_is_not_there_is_a_failure() -> None:
    receiver = Receiver()

    async def main() -> Sent:
        async with receiver.open():
            pass
        async with a_sender(NAME) as sender:
            return await sender.send(f"http://{NAME}:{receiver.port}/", "msg_1", BODY, 0.0)

    sent = run(main())
    assert sent.status is None
    assert sent.error


def test_a_receiver_that_speaks_no_tls_is_a_failure() -> None:
    def answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.close()

    async def main() -> Sent:
        server = await asyncio.start_server(answer_at_once, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            async with a_sender(NAME) as sender:
                return await sender.send(f"https://{NAME}:{port}/", "msg_1", BODY, 0.0)
        finally:
            server.close()

    sent = run(main())
    assert sent.status is None
    assert "SSL" in sent.error


def test_messages_may_be_on_their_way_side_by_side() -> None:
    receiver = Receiver()

    async def main() -> list[Sent]:
        async with receiver.open(), a_sender(NAME) as sender:
            url = f"http://{NAME}:{receiver.port}/"
            return await asyncio.gather(*(sender.send(url, f"msg_{number}", BODY, 0.0) for number in range(32)))

    assert all(sent.delivered for sent in run(main()))
    assert len(receiver.requests) == 32


# its end


def test_a_cancellation_passes_and_leaves_nothing_behind() -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.set()
            await reader.read()

        receiver = Receiver(b"", note)
        async with receiver.open(), a_sender(NAME) as sender:
            task = asyncio.create_task(sender.send(f"http://{NAME}:{receiver.port}/", "msg_1", BODY, 0.0))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


def test_a_name_that_cannot_be_resolved_is_a_failure() -> None:
    class Unknown(Names):
        async def __call__(self, host: str, port: int) -> list[str]:
            raise OSError(-2, "Name or service not known")

    async def main() -> Sent:
        async with a_sender(names=Unknown([])) as sender:
            return await sender.send("https://hook.example/", "msg_1", BODY, 0.0)

    sent = run(main())
    assert sent.status is None
    assert "not known" in sent.error


def test_a_name_that_takes_too_long_to_resolve_is_a_failure() -> None:
    class Slow(Names):
        async def __call__(self, host: str, port: int) -> list[str]:
            await asyncio.Event().wait()
            return []

    async def main() -> Sent:
        async with a_sender(names=Slow([]), timeout=0.05) as sender:
            return await sender.send("https://hook.example/", "msg_1", BODY, 0.0)

    assert run(main()) == (None, "no answer within 0.05 s")

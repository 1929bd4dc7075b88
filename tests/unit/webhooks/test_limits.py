"""How much a client's name or a receiver's answer can cost the server."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndserve.errors import InvalidParameterError
from ndserve.webhooks import Guard, Sent
from ndserve.webhooks.sender import MAX_ADDRESSES, MAX_ERROR, MAX_LOOKUPS, resolve
from tests.unit.webhooks.rig import NAME, PUBLIC, Names, Receiver, a_sender, network, run

PUBLIC_ONES = [f"93.184.216.{number}" for number in range(1, 2 * MAX_ADDRESSES)]
NETWORKS = ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16")


def sent(names: Names) -> Sent:
    async def main() -> Sent:
        async with a_sender(names=names) as sender:
            return await sender.send(f"https://{NAME}/", "msg_1", b"{}", 0.0)

    return run(main())


def quoted(answer: bytes) -> Sent:
    """What is told of an answer that is not HTTP."""

    async def main() -> Sent:
        receiver = Receiver(answer)
        async with receiver.open(), a_sender(NAME) as sender:
            return await sender.send(f"http://{NAME}:{receiver.port}/", "msg_1", b"{}", 0.0)

    return run(main())


# hosts


@pytest.mark.parametrize(
    "authority",
    ["[2606:4700::1111]x", "x[2606:4700::1111]", "[2606:4700::1111].example", "[2606:4700::1111]443", "[::1][2606::1]"],
)
def test_nothing_may_stand_around_an_address_in_brackets(authority: str) -> None:
    with pytest.raises(InvalidParameterError):
        Guard([]).check_url(f"https://{authority}/")


@pytest.mark.parametrize("port", ["", ":", ":443"])
def test_an_address_in_brackets_may_have_a_port(port: str) -> None:
    assert Guard([]).check_url(f"https://[2606:4700::1111]{port}/").port == 443


@pytest.mark.parametrize("host", ["é." * 1000, "é" * 2000, "a" * 254])
def test_a_host_longer_than_any_name_is_refused_unread(host: str) -> None:
    with pytest.raises(InvalidParameterError, match="longer than a host name") as caught:
        Guard([]).check_url(f"https://{host}/")
    assert len(caught.value.message) < 250


@given(
    st.sampled_from(["::ffff:", "::FFFF:", "0:0:0:0:0:ffff:", "::", "64:ff9b::", "0064:ff9b:0:0:0:0:", "::ffff:0:"]),
    st.one_of(*(st.ip_addresses(v=4, network=each) for each in NETWORKS)),
)
def test_no_private_address_is_taken_behind_an_ipv6_prefix(prefix: str, address: ipaddress.IPv4Address) -> None:
    with pytest.raises(InvalidParameterError):
        Guard([]).check_url(f"https://[{prefix}{address}]/")


# addresses


@pytest.mark.parametrize("place", [0, 1, MAX_ADDRESSES, len(PUBLIC_ONES)])
def test_a_name_with_one_private_address_among_public_ones_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    net = network(monkeypatch)
    result = sent(Names([*PUBLIC_ONES[:place], "10.0.0.1", *PUBLIC_ONES[place:]]))
    assert "10.0.0.1" in result.error
    assert net.connected == []


def test_only_the_first_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch, *PUBLIC_ONES)
    assert sent(Names(PUBLIC_ONES)).status is None
    assert [host for host, _ in net.connected] == PUBLIC_ONES[:MAX_ADDRESSES]


# answers


@pytest.mark.parametrize("answer", [b"A" * 30000 + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A" * 20000 + b"\r\n\r\n"])
def test_only_the_start_of_what_a_receiver_has_sent_is_quoted(answer: bytes) -> None:
    result = quoted(answer)
    assert result.error
    assert len(result.error) <= MAX_ERROR


def test_a_receiver_cannot_begin_a_line_of_the_log() -> None:
    assert quoted(b"HTTP\x1b[2J\r INFO forged\r\n\r\n").error.isprintable()


# lookups


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that answers nobody until the event is set."""
    go_on = threading.Event()

    def hang(*arguments: object, **options: object) -> list[object]:
        go_on.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        yield go_on
    finally:
        go_on.set()


def test_no_more_than_so_many_lookups_hang_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with hanging(monkeypatch):
            lookups = [asyncio.create_task(resolve(NAME, 443)) for _ in range(MAX_LOOKUPS)]
            await asyncio.sleep(0)  # a turn, in which they begin
            with pytest.raises(OSError, match="already"):
                await resolve(NAME, 443)
        await asyncio.gather(*lookups)

    run(main())


def test_there_are_lookups_again_when_those_that_hung_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[list[str]]:
        with hanging(monkeypatch):
            lookups = [asyncio.create_task(resolve(NAME, 443)) for _ in range(MAX_LOOKUPS)]
            await asyncio.sleep(0)
        await asyncio.gather(*lookups)
        return await asyncio.gather(*(resolve(NAME, 443) for _ in range(MAX_LOOKUPS)))

    assert run(main()) == [[]] * MAX_LOOKUPS


def test_a_lookup_for_which_there_is_no_thread_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> list[str]:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more)
            for _ in range(MAX_LOOKUPS + 1):
                with pytest.raises(RuntimeError):
                    await resolve(NAME, 443)
        return await resolve(PUBLIC, 443)

    assert run(main()) == [PUBLIC]


HANGING_SERVER = """
import asyncio, socket, threading
from ndserve.webhooks.sender import resolve

begun = threading.Event()

def hang(*arguments, **options):
    begun.set()
    threading.Event().wait()

async def main():
    lookup = asyncio.create_task(resolve("hook.example", 443))
    await asyncio.to_thread(begun.wait)

socket.getaddrinfo = hang
asyncio.run(main())
print("ended")
"""


def test_a_lookup_that_never_ends_does_not_keep_the_process_alive() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING_SERVER], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")

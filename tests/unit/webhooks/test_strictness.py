"""What only a hostile client or receiver would try, and what a network does at its worst."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable

import httpcore2
import pytest

from ndserve.errors import InvalidParameterError, StartupError
from ndserve.webhooks import Guard, Sent
from tests.unit.webhooks.rig import HERE, NAME, PUBLIC, Line, Names, Network, a_sender, network, run


@pytest.mark.parametrize(
    "host",
    [
        *(".", "a<b", "a*b", "%31%32%37.0.0.1", "[v1.abc]", "[2606:4700::1%25eth0]", "-a.example", "a.example-"),
        *("h\u00a0x.example", "h\u3000x.example", "h\ufeffx.example", ".".join(["a"] * 128), "hook.example.."),
    ],
)
def test_a_host_that_no_name_server_would_know_is_refused(host: str) -> None:
    with pytest.raises(InvalidParameterError):
        Guard([]).check_url(f"https://{host}/")


@pytest.mark.parametrize("host", ["0x", "1.2.3.4.5", "08.8.8.8", "256.0.0.1", "a.0x7f"])
def test_a_name_that_ends_in_a_number_is_refused(host: str) -> None:
    with pytest.raises(InvalidParameterError):
        Guard([]).check_url(f"https://{host}/")


@pytest.mark.parametrize("host", ["faß.de", "ς.example"])
def test_a_name_that_two_editions_of_idna_read_differently_is_refused(host: str) -> None:
    with pytest.raises(InvalidParameterError, match="xn--"):
        Guard([]).check_url(f"https://{host}/")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost"])
def test_this_machine_by_name_is_refused_when_the_task_is_submitted(host: str) -> None:
    with pytest.raises(InvalidParameterError, match="--webhook-allow"):
        Guard([]).check_url(f"https://{host}/")


def test_the_address_at_which_azure_tells_a_machine_its_configuration_is_refused() -> None:
    with pytest.raises(InvalidParameterError):
        Guard([]).check_url("https://168.63.129.16/")


@pytest.mark.parametrize("entry", ["a..b", "h:0", "h:65536", "h:99999", "a*b", "."])
def test_an_entry_that_can_never_fit_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(StartupError, match="--webhook-allow"):
        Guard([entry])


def test_a_tls_handshake_that_does_not_end_leaves_no_connection_behind() -> None:
    async def main() -> Sent:
        ended = asyncio.Event()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            ended.set()

        server = await asyncio.start_server(listen, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with a_sender(NAME, names=HERE, timeout=0.05) as sender:
            sent = await sender.send(f"https://{NAME}:{port}/", "msg_1", b"{}", 0.0)
        await ended.wait()
        server.close()
        return sent

    assert run(main()) == (None, "no answer within 0.05 s")


class Silent(Network):
    """A network in which nothing comes back from one address."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore calls it so
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        if host == PUBLIC:
            try:
                async with asyncio.timeout(timeout):
                    await asyncio.Event().wait()
            except TimeoutError:
                raise httpcore2.ConnectTimeout from None
        return Line(self)


def test_an_address_from_which_nothing_comes_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpcore2, "AnyIOBackend", Silent)

    async def main() -> Sent:
        async with a_sender(names=Names([PUBLIC, "8.8.8.8"]), timeout=0.3) as sender:
            return await sender.send(f"https://{NAME}/", "msg_1", b"{}", 0.0)

    assert run(main()).delivered


def test_the_systems_certificates_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch)

    async def main() -> None:
        async with a_sender(names=Names([PUBLIC])) as sender:
            for number in range(3):
                await sender.send(f"https://{NAME}/", f"msg_{number}", b"{}", 0.0)

    run(main())
    contexts: list[ssl.SSLContext] = [context for _, context in net.tls]
    assert len(contexts) == 3
    assert len({id(context) for context in contexts}) == 1

"""The delivery of one message: resolved once, to a checked address, without redirects, within its time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import httpcore2

from ndserve.errors import InvalidParameterError
from ndserve.webhooks.guard import Guard, RefusedAddressError
from ndserve.webhooks.signing import Secret, sign

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
"""For the whole exchange, the name's resolution included."""

MAX_ANSWER = 32768
"""The bytes within which an answer's status must come. Interim answers could go on without end, and use up the loop."""

MAX_ADDRESSES = 8
"""The addresses of a name that are tried. A name can have thousands, each of them somebody else's."""

MAX_LOOKUPS = 128
"""Names that are looked up at a time. More than are sent at once, because a lookup cannot be ended: one that hangs goes
on in its thread after the message's time is up."""

MAX_ERROR = 200
"""The characters of a failure that are told: a receiver can have its answer quoted, and that goes into the log."""

_PIECE = 4096
"""The bytes that are read at a time: what is parsed in one go holds up the loop."""

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, best first."""


class Sent(NamedTuple):
    """What came of an attempt: the receiver's status, or why there is none."""

    status: int | None
    error: str = ""

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more of it (410, as Standard Webhooks has it)."""
        return self.status == 410


_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses that the system knows for a host.

    Each call has a thread of its own. Names that clients choose may be slow to resolve, and would hold up those who
    share the loop's own threads (the decoding of large arrays), and the server's end.

    Raises:
        OSError: the host is not known, or too many lookups hang.
    """
    if not _lookups.acquire(blocking=False):
        raise OSError(f"{MAX_LOOKUPS} names are being looked up already")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def tell(found: list[str] | Exception) -> None:
        if answer.done():  # nobody waits any more
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def look_up() -> None:
        found: list[str] | Exception
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = [str(entry[4][0]) for entry in entries]
        except Exception as error:
            found = error
        finally:
            _lookups.release()
        with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
            loop.call_soon_threadsafe(tell, found)

    try:
        threading.Thread(target=look_up, name="ndserve-resolve", daemon=True).start()
    except BaseException:  # the system gives no more threads
        _lookups.release()
        raise
    return await answer


class _Connection(httpcore2.AsyncNetworkStream):
    """An open connection from which only so much is read.

    It does not outlive a TLS handshake that is cut off, as httpcore's own would.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = MAX_ANSWER

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        if self._left <= 0:
            raise httpcore2.ReadError(f"no status within the first {MAX_ANSWER} bytes of the answer")
        data = await self._stream.read(min(max_bytes, self._left, _PIECE), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return _Connection(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:  # a cancellation too, which is how the time for an exchange ends
            await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses that the guard lets pass.

    httpcore asks for a connection by name, and checks the certificate against that name afterwards. Between the two
    the name is resolved here, once: nobody can answer differently a moment later.
    """

    def __init__(self, guard: Guard, resolve: Resolve) -> None:
        self._guard = guard
        self._resolve = resolve
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore calls it so
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        for address in addresses:
            self._guard.check_address(host, port, address)
        addresses = addresses[:MAX_ADDRESSES]
        failure: Exception = OSError(f"{host} has no address")
        # An address from which nothing comes back must not use up the time of the next.
        share = None if timeout is None else timeout / max(1, len(addresses))
        for address in addresses:
            try:
                return _Connection(await self._network.connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class Sender:
    """Sends signed messages. It keeps no connection: the next message may have to go elsewhere by then."""

    def __init__(
        self,
        guard: Guard,
        secret: Secret,
        *,
        version: str = "",
        timeout: float = TIMEOUT_SECONDS,
        resolve: Resolve = resolve,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._guard = guard
        self._secret = secret
        self._agent = f"ndserve/{version}".rstrip("/").encode()
        self._timeout = timeout
        self._pool = httpcore2.AsyncConnectionPool(
            # Made once: httpcore would read the system's certificates anew for every connection, on the loop.
            ssl_context=ssl_context or httpcore2.default_ssl_context(),
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=GuardedBackend(guard, resolve),
        )

    async def send(self, url: str, message_id: str, body: bytes, now: float) -> Sent:
        """Post a message. Nothing that goes wrong on the way is raised; it is told."""
        try:
            to = self._guard.check_url(url)  # again: the operator may have allowed less since it was accepted
            headers = [
                (b"host", _authority(to.host, to.port, to.https)),
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"user-agent", self._agent),
                *sign(self._secret, message_id, now, body),
            ]
            where = httpcore2.URL(
                scheme=b"https" if to.https else b"http", host=to.host, port=to.port, target=to.target.encode()
            )
            limits = {"timeout": {"connect": self._timeout}}
            async with asyncio.timeout(self._timeout):
                # Nothing but the status is read: what the receiver has to say could be endless.
                async with self._pool.stream(
                    "POST", where, headers=headers, content=body, extensions=limits
                ) as response:
                    status = response.status
        except InvalidParameterError as error:
            return Sent(None, error.message)
        except (TimeoutError, httpcore2.TimeoutException):
            return Sent(None, f"no answer within {self._timeout:g} s")
        except (RefusedAddressError, OSError, UnicodeError, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            return Sent(None, str(error)[:MAX_ERROR] or type(error).__name__)
        except Exception as error:
            # What no one has foreseen is a failed attempt too. Raised, it would leave the message due, to be sent again
            # at once, without end.
            logger.exception("webhook %s has failed in an unforeseen way", message_id)
            return Sent(None, type(error).__name__)
        return Sent(status, "" if 200 <= status < 300 else f"the receiver answered {status}")

    async def aclose(self) -> None:
        await self._pool.aclose()


def _authority(host: str, port: int, https: bool) -> bytes:
    shown = f"[{host}]" if ":" in host else host
    return (shown if port == (443 if https else 80) else f"{shown}:{port}").encode()

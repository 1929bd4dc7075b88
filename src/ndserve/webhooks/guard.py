"""Where a webhook may go: to public addresses over https, and to what the operator has allowed.

A URL that a client names is fetched by the server, from inside of its network. So that nobody reaches with it what is
not meant for the outside (a cloud's metadata, a neighbour's database), every address that a name has is checked, and
the connection is made to the address that was checked (`sender.py`).
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from ndserve.errors import InvalidParameterError, StartupError

MAX_URL = 2048
_LONGEST_NAME = 253

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# What is not public by the IANA special-purpose registries, and multicast. Named here, because what the standard
# library takes for global differs between its versions. The last one is public by number, but Azure answers there
# every machine of its own with that machine's configuration.
_NOT_PUBLIC_4 = [
    ipaddress.IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
    )
]
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_ALLOWED = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::(?P<port>[0-9]{1,5}))?")
_BRACKETS = re.compile(r"\[[^\[\]]*:[^\[\]]*\](:[0-9]*)?")
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
# What ends so is read as an IPv4 address by some part or other of every system: 127.1, 0x7f000001, 2130706433.
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
_UNFIT = re.compile(r"[^\x21-\x7e]|[\\<>\"^`{|}]")


class RefusedAddressError(Exception):
    """A name leads to an address that no webhook may go to."""


class Destination(NamedTuple):
    """A checked URL in parts; `target` is the path with its query."""

    https: bool
    host: str
    port: int
    target: str


class Guard:
    """The rule, with the hosts that are exempt from it."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """`allowed` are `HOST` or `HOST:PORT`; an IPv6 address stands in brackets.

        Raises:
            StartupError: one of them is something else.
        """
        self._allowed: set[tuple[str, int | None]] = set()
        for entry in allowed:
            found = _ALLOWED.fullmatch(entry)
            port = int(found["port"]) if found and found["port"] else None
            if found is None or (port is not None and not 1 <= port <= 65535):
                raise StartupError(f"--webhook-allow takes HOST or HOST:PORT, not {entry!r}")
            try:
                self._allowed.add((_plain_host(found["host"]), port))
            except InvalidParameterError as error:
                raise StartupError(f"--webhook-allow: {error.message}") from None

    def allows(self, host: str, port: int) -> bool:
        """Whether the operator has named this host, whatever its address."""
        return (host, None) in self._allowed or (host, port) in self._allowed

    def check_url(self, url: str) -> Destination:
        """The parts of a URL that a webhook may be asked for.

        Raises:
            InvalidParameterError: it is not one; says which rule it breaks.
        """
        if len(url) > MAX_URL:
            raise _refusal(f"the URL has {len(url)} characters, and at most {MAX_URL} are taken")
        parts = _split(url)
        host = _plain_host(parts.hostname or "")
        https = parts.scheme == "https"
        port = parts.port or (443 if https else 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if _UNFIT.search(target):
            raise _refusal("the path and the query must be percent-encoded ASCII")
        if not self.allows(host, port):
            if not https:
                raise _refusal(f"the URL must begin with https:// (or --webhook-allow must name {host})")
            address = _address(host)
            if address is None and _NUMERIC.fullmatch(host):
                raise _refusal(f"{host!r} is an address in an odd form")
            if host == "localhost" or host.endswith(".localhost"):
                raise _refusal(f"{host} is this machine (and --webhook-allow does not name it)")
            if address is not None and not is_public(address):
                raise _refusal(f"{host} is not a public address (and --webhook-allow does not name it)")
        return Destination(https, host, port, target)

    def check_address(self, host: str, port: int, address: str) -> None:
        """Let pass an address to which a host's name has led.

        Raises:
            RefusedAddressError: it is not public, and the host is not exempt.
        """
        if not self.allows(host, port) and not is_public(ipaddress.ip_address(address)):
            raise RefusedAddressError(f"{host} leads to {address}, which is not a public address")


def is_public(address: Address) -> bool:
    """Whether an address is one of the public Internet. One that holds an IPv4 address is judged by that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None:
            return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)
        address = inner
    return not any(address in network for network in _NOT_PUBLIC_4)


def _split(url: str) -> SplitResult:
    if any(ord(letter) <= 0x20 or letter in "\\\x7f" for letter in url):
        raise _refusal("the URL must not hold spaces, control characters or backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refusal(f"the URL cannot be read: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise _refusal("the URL must begin with https://")
    if parts.username is not None or parts.password is not None:
        raise _refusal("the URL must not hold a user name or password")
    if parts.fragment:
        raise _refusal("the URL must not hold a fragment")
    # Python 3.11 passes over what stands around the brackets; who reads the URL elsewhere may not.
    if "[" in parts.netloc and not _BRACKETS.fullmatch(parts.netloc):
        raise _refusal("only an IPv6 address may stand in brackets")
    if not parts.hostname or port == 0:
        raise _refusal("the URL must name a host, and a port from 1 to 65535 if any")
    return parts


def _plain_host(host: str) -> str:
    """A host in the one form in which hosts are compared: lower case, ASCII, no brackets and no final dot."""
    host = unicodedata.normalize("NFC", host.strip("[]").removesuffix(".").lower())
    if ":" in host:
        try:
            if "%" not in host:  # a zone means something on one machine only
                return str(ipaddress.IPv6Address(host))
        except ValueError:
            pass
        raise _refusal(f"{host[:100]!r} is not an IPv6 address")
    if len(host) > _LONGEST_NAME:  # the codec takes longer the longer a name is, on the loop
        raise _refusal(f"{host[:100]!r}… is longer than a host name can be")
    try:
        name = host.encode("idna").decode()
        # The codec knows the older IDNA, which makes another name of some: faß.de would become fass.de.
        if not host.isascii() and name.encode().decode("idna") != host:
            raise _refusal(f"{host[:100]!r} is ambiguous; write it in its ASCII form (xn--)")
    except UnicodeError:
        name = ""
    if not _NAME.fullmatch(name):
        raise _refusal(f"{host[:100]!r} is not a host name")
    return name


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _refusal(reason: str) -> InvalidParameterError:
    return InvalidParameterError(f"webhook: {reason}")

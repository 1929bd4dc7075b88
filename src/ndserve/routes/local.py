"""Whether a request comes from this machine, and of its user's own will.

A server without keys lets those manage it who reach it over the loopback. Two others reach it there as well: web pages
that the user's browser runs, and proxies that pass on what came from elsewhere. Their requests look different.
"""

from __future__ import annotations

import ipaddress
import re

from ndserve.routes.asgi import Scope

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::[0-9]+)?")
_PASSED_ON = (b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")
_SHOWN = 80


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is this machine's own (127.0.0.0/8, ::1)."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def reason_against(scope: Scope) -> str | None:
    """Why this request does not count as one of this machine's user; None where it does.

    - The connection's own address is a loopback one, whatever address the server was told to listen on.
    - `Host` names the loopback: a page whose name leads here by DNS rebinding sends its own name.
    - `Origin` (https://www.rfc-editor.org/rfc/rfc6454#section-7) is of that host and port, and `Sec-Fetch-Site`
      (https://www.w3.org/TR/fetch-metadata/) not of another: a page from elsewhere cannot change them.
    - No proxy says that it passes the request on.
    """
    server = scope.get("server")
    local = str(server[0]) if server else "an unknown address"
    if not is_loopback(local):
        return f"it arrived at {local[:_SHOWN]}, which is not a loopback address"
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value)
    host = _one(headers, b"host")
    if host is None or not _names_loopback(host):
        return f"its Host is {_shown(host)}, which is not a loopback address"
    if b"origin" in headers:
        origin = _one(headers, b"origin")
        scheme, _, place = (origin or "").partition("://")
        if scheme not in ("http", "https") or place != host:
            return f"it comes from a page of another origin, {_shown(origin)}"
    if b"sec-fetch-site" in headers and _one(headers, b"sec-fetch-site") not in ("same-origin", "none"):
        return "it comes from a page of another site"
    for name in _PASSED_ON:
        if name in headers:
            return f"a proxy has passed it on ({name.decode()})"
    return None


def _one(headers: dict[bytes, list[bytes]], name: bytes) -> str | None:
    """The value of a header in lower case; None where it is missing or there is more than one."""
    values = headers.get(name, [])
    return values[0].decode("latin1").strip().lower() if len(values) == 1 else None


def _names_loopback(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback(found[1] or found[2])


def _shown(value: str | None) -> str:
    return "missing or there twice" if value is None else repr(value[:_SHOWN])

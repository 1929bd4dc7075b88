"""Other ways to write a path: those that servers, proxies and frameworks have been known to take for the same."""

from __future__ import annotations

from collections.abc import Iterator

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "get", "BREW")

OVERRIDES = (
    ("x-http-method-override", "{method}"),
    ("x-http-method", "{method}"),
    ("x-method-override", "{method}"),
    ("x-original-url", "{path}"),
    ("x-rewrite-url", "{path}"),
    ("x-forwarded-prefix", "{path}"),
)
"""Headers by which some stacks take another method or path than the request line's."""


def spellings(path: str) -> Iterator[str]:
    """The path itself, and what looks like it."""
    yield path
    yield from (path + "/", path + "//", "/" + path, path.replace("/", "//"), path + "/.", path + "/..")
    yield from (path + "%2f", path + "%2F", "/." + path, "/%2e" + path, "/%2e%2e" + path, "/health/.." + path)
    yield from ("/health/%2e%2e" + path, "/health/%2e%2e%2f" + path[1:], "/docs%2f.." + path, path + "/%2e%2e/health")
    yield from (path.upper(), path.title(), path.swapcase())
    yield from (
        path + suffix for suffix in ("%00", "%0a", "%0d%0a", "%20", "%09", ";a=b", ";/health", "%3b", "%3f", ".")
    )
    yield from (path + suffix for suffix in ("?/health", "?_method=GET", "#/health", "%23", "/health", "/health/live"))
    yield path.replace("/", "%2f")
    yield path.replace("/", "/%2f")
    yield path.replace("/", "\\")
    yield path.replace("/", "%5c")
    yield "/" + path.lstrip("/").replace("/", "%2f")
    yield path.replace("/", "/./")
    yield "".join(f"%{ord(letter):02x}" if letter != "/" else letter for letter in path)
    yield "".join(f"%25{ord(letter):02x}" if letter != "/" else letter for letter in path)
    yield path.replace("m", "%6d").replace("h", "%68")
    yield path.replace("e", "\u0435")
    yield from ("http://127.0.0.1:8076" + path, "*", "")

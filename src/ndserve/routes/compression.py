"""Content-Encoding: gzip (RFC 1952), and deflate, by which HTTP means the zlib format (RFC 9110, 8.4.1.2)."""

from __future__ import annotations

import asyncio
import zlib
from functools import lru_cache, partial

from ndserve.codecs.base import Buffer, Payload, excerpt
from ndserve.errors import BodyTooLargeError, MalformedBodyError, UnsupportedEncodingError

_WINDOWS = {b"gzip": 31, b"deflate": 15}
"""zlib's way to name the format (https://docs.python.org/3/library/zlib.html#zlib.decompressobj)."""

SMALL = 4096
"""Up to this size the event loop does the work itself."""

GZIP_MAGIC = b"\x1f\x8b"

LEVEL = 1
"""The fastest: arrays hardly become smaller by more effort."""


def inflate(body: Buffer, coding: bytes, limit: int) -> Buffer:
    """The body as it was before it was compressed.

    Raises:
        UnsupportedEncodingError: another coding than gzip and deflate.
        MalformedBodyError: it is cut off, or was not compressed so.
        BodyTooLargeError: it would have more than `limit` bytes; no more than that is ever inflated.
    """
    coding = coding.strip().lower()
    if coding in (b"", b"identity"):
        return body
    if coding not in _WINDOWS:
        raise UnsupportedEncodingError(
            f"the Content-Encoding {excerpt(coding.decode('latin1'))} is not supported; use gzip or deflate"
        )
    inflated = bytearray()
    left: Buffer = body
    while True:
        stream = zlib.decompressobj(_WINDOWS[coding])
        try:
            inflated += stream.decompress(left, limit + 1 - len(inflated))
        except zlib.error as error:
            raise MalformedBodyError(f"the body is not compressed by {coding.decode()}: {error}") from None
        if len(inflated) > limit:
            raise BodyTooLargeError(f"the body inflates to more than {limit} bytes", limit=limit)
        if not stream.eof:
            raise MalformedBodyError(f"the {coding.decode()} body is cut off")
        left = stream.unused_data
        if not left:
            return inflated
        if coding != b"gzip" or left[:2] != GZIP_MAGIC:  # which may have several members (RFC 1952, 2.2)
            raise MalformedBodyError(f"{len(left)} bytes follow the {coding.decode()} body")


def asked_coding(accept: bytes) -> tuple[bytes, bool]:
    """The coding that an Accept-Encoding header likes best, if it is one of ours, and whether it names no other.

    HTTP libraries name all that they can read in every request, without a wish. Who names one alone wants it.
    """
    return _asked(accept) if len(accept) <= LONGEST else (b"", False)


LONGEST = 256
"""Bytes of an Accept-Encoding header that is looked at."""


@lru_cache(maxsize=256)
def _asked(accept: bytes) -> tuple[bytes, bool]:
    weights: dict[bytes, float] = {}
    for item in accept.lower().split(b","):
        name, _, parameter = item.partition(b";")
        key, _, value = parameter.partition(b"=")
        try:
            weight = float(value) if key.strip() == b"q" else 1.0
        except ValueError:
            weight = 0.0
        if name.strip() and weight > 0:
            weights[name.strip()] = weight
    ours = [name for name in weights if name in _WINDOWS]
    best = max(ours, key=lambda name: weights[name], default=b"")
    return best, not weights.keys() - {best, b"identity"}


def deflate(chunks: tuple[bytes | memoryview, ...], coding: bytes) -> bytes:
    """The chunks as one compressed body."""
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, _WINDOWS[coding])
    return b"".join([*(stream.compress(chunk) for chunk in chunks), stream.flush()])


async def compressed(payload: Payload, accept: bytes) -> Payload:
    """The answer as Accept-Encoding asks.

    Binary tensors hardly become smaller, at a hundred times the cost of the request: they are compressed only for
    who asks for nothing else.
    """
    coding, alone = asked_coding(accept)
    if not coding or not (alone or not payload.headers):
        return payload
    work = partial(deflate, payload.chunks, coding)
    chunk = work() if sum(map(len, payload.chunks)) <= SMALL else await asyncio.to_thread(work)
    headers = ((b"content-encoding", coding), (b"vary", b"accept-encoding"), *payload.headers)
    return Payload(payload.content_type, (chunk,), headers)

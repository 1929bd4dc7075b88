"""The wire formats and the choice among them by Content-Type and Accept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from ndserve.codecs import multipart
from ndserve.codecs.base import Buffer, Codec
from ndserve.codecs.json import JsonCodec
from ndserve.codecs.npy import NPY_MAGIC, SMALL, ZIP_MAGIC, NpyCodec, NpzCodec
from ndserve.errors import NotAcceptableError, UnsupportedMediaTypeError
from ndserve.types import Tensors, TensorSpec

_NPY: Codec = NpyCodec()
_NPZ: Codec = NpzCodec()
_JSON: Codec = JsonCodec()
CODECS: tuple[Codec, ...] = (_NPY, _NPZ, _JSON)
_BY_TYPE: dict[str, Codec] = {name: codec for codec in CODECS for name in codec.media_types}

# What clients send when nobody told them the type: curl's --data-binary claims the last one.
_SNIFFED = {"", "application/octet-stream", "application/x-www-form-urlencoded"}


def decode(content_type: str, body: Buffer, specs: Sequence[TensorSpec], limit: int) -> Tensors:
    """The arrays of a request body, by its Content-Type or, where that says nothing, by its first bytes.

    Raises:
        UnsupportedMediaTypeError: no codec reads it.
        MalformedBodyError, InvalidInputError, BodyTooLargeError: as `Codec.decode` says.
    """
    media_type = _media_type(content_type)
    if media_type == multipart.MEDIA_TYPE:
        content_type, body = multipart.unwrap(content_type, body)
        media_type = _media_type(content_type)
    codec = _sniff(body) if media_type in _SNIFFED else _BY_TYPE.get(media_type)
    if codec is None:
        raise UnsupportedMediaTypeError(
            f"the body's type {media_type or 'unknown'!r} is not read;"
            f" send {', '.join(codec.media_types[0] for codec in CODECS)} or {multipart.MEDIA_TYPE} with one file"
        )
    return codec.decode(body, specs, limit)


def encoder(accept: str, outputs: Tensors) -> Codec:
    """The codec for the form that the Accept header likes best.

    Without a preference one output is .npy and several are .npz.

    Raises:
        NotAcceptableError: no form that can hold these outputs is accepted.
    """
    for codec in _accepted(accept):
        if codec is None:
            codec = _NPY if len(outputs) == 1 else _NPZ
        if codec is not _NPY or len(outputs) == 1:
            return codec
    offered = CODECS if len(outputs) == 1 else (_NPZ, _JSON)
    raise NotAcceptableError(
        f"the result has {len(outputs)} output(s) and comes as {', '.join(codec.media_types[0] for codec in offered)};"
        f" Accept asks for {accept!r}"
    )


def is_cheap(body: Buffer) -> bool:
    """Whether decoding is a view or small, so that the event loop may do it."""
    return len(body) <= SMALL or bytes(body[:6]) == NPY_MAGIC


@lru_cache(maxsize=256)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _sniff(body: Buffer) -> Codec | None:
    start = bytes(body[:64])
    if start.startswith(NPY_MAGIC):
        return _NPY
    if start.startswith(ZIP_MAGIC):
        return _NPZ
    return _JSON if start.lstrip()[:1] in (b"[", b"{") else None


@lru_cache(maxsize=256)
def _accepted(accept: str) -> tuple[Codec | None, ...]:
    """The codecs that an Accept header allows, best first (RFC 9110, 12.5.1); None means: our choice."""
    ranked: list[tuple[float, Codec | None]] = []
    for item in accept.split(",") if accept.strip() else ("*/*",):
        media_type, *options = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for option in options:
            if option.startswith("q="):
                try:
                    quality = float(option[2:])
                except ValueError:
                    quality = 0.0
        if quality <= 0:
            continue
        if media_type in _BY_TYPE:
            ranked.append((quality, _BY_TYPE[media_type]))
        elif media_type in ("*/*", "application/*", "application/octet-stream"):
            ranked.append((quality, None))
    return tuple(codec for _, codec in sorted(ranked, key=lambda pair: -pair[0]))

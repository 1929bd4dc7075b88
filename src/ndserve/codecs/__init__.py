"""The wire formats and the choice among them by Content-Type and Accept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ndserve.codecs import multipart, open_inference
from ndserve.codecs.base import Buffer, Codec, Form, excerpt
from ndserve.codecs.json import JsonCodec, parse
from ndserve.codecs.npy import NPY_MAGIC, SMALL, NpyCodec, is_view
from ndserve.codecs.npz import ZIP_MAGIC, NpzCodec
from ndserve.codecs.open_inference import BINARY_TYPE, JSON_TYPE, OpenInferenceForm, Request
from ndserve.errors import NotAcceptableError, UnsupportedMediaTypeError
from ndserve.types import Tensors, TensorSpec

_NPY: Codec = NpyCodec()
_NPZ: Codec = NpzCodec()
_JSON = JsonCodec()
CODECS: tuple[Codec, ...] = (_NPY, _NPZ, _JSON)
"""Every wire format. Where a client has no preference, the first that holds the result is taken."""

_BY_TYPE: dict[str, Codec] = {name: codec for codec in CODECS for name in codec.media_types}

OPEN_INFERENCE = (BINARY_TYPE, JSON_TYPE)
"""Media types of Open Inference messages, with binary tensors and all in JSON."""

FORMS: tuple[Form, ...] = (*CODECS, OpenInferenceForm(binary=True), OpenInferenceForm(binary=False))
"""What answers can look like; those of Open Inference only for who asks for them by name."""

# What clients send when nobody told them the type: curl's --data-binary claims the last one.
_SNIFFED = {"", "application/octet-stream", "application/x-www-form-urlencoded"}

LONGEST_ACCEPT = 4096

# What a client accepts that takes any of our forms, the most specific first.
_ANY_FORM = ("application/octet-stream", "application/*", "*/*")


class Decoded(NamedTuple):
    """What a body holds. An Open Inference request says more than its arrays."""

    tensors: Tensors
    request: Request | None = None


def decode(
    content_type: str,
    body: Buffer,
    specs: Sequence[TensorSpec],
    limit: int,
    *,
    json_length: int | None = None,
    has_batch: bool = False,
) -> Decoded:
    """The arrays of a request body, by its Content-Type or, where that says nothing, by its first bytes.

    Args:
        json_length: bytes of JSON in front of Open Inference's binary tensors, where a header says so.
        has_batch: whether axis 0 of the specs is a batch axis.

    Raises:
        UnsupportedMediaTypeError: no codec reads it.
        MalformedBodyError, InvalidInputError, BodyTooLargeError: as `Codec.decode` says.
    """
    codec = _BY_TYPE.get(content_type)  # the usual case: the bare name
    if json_length is not None or (codec is None and _media_type(content_type) in OPEN_INFERENCE):
        request, tensors = open_inference.decode(body, json_length, specs, limit, has_batch=has_batch)
        return Decoded(tensors, request)
    if codec is None:
        codec, body = _find(content_type, body)
    if codec is not _JSON:
        return Decoded(codec.decode(body, specs, limit))
    document = parse(body)
    if open_inference.is_request(document):
        request, tensors = open_inference.decode_document(document, limit)
        return Decoded(tensors, request)
    return Decoded(_JSON.read(document, specs, limit))


def encoder(accept: str, outputs: Tensors) -> Form:
    """The form that the Accept header likes best. One of Open Inference has yet to be told whose outputs they are.

    Without a preference one output is .npy and several are .npz.

    Raises:
        NotAcceptableError: no form that can hold these outputs is accepted.
    """
    if len(accept) > LONGEST_ACCEPT:
        raise NotAcceptableError(f"the Accept header has {len(accept)} characters; at most {LONGEST_ACCEPT} are read")
    for form in _accepted(accept):
        if form.holds(outputs):
            return form
    offered = ", ".join(form.media_types[0] for form in FORMS if form.holds(outputs))
    raise NotAcceptableError(
        f"the result has {len(outputs)} output(s) and comes as {offered}; Accept asks for {excerpt(accept)}"
    )


def is_cheap(body: Buffer) -> bool:
    """Whether decoding is a view or small, so that the event loop may do it."""
    return len(body) <= SMALL or (body[:6] == NPY_MAGIC and is_view(body))


def _find(content_type: str, body: Buffer) -> tuple[Codec, Buffer]:
    """The codec of a body and the bytes that it reads: those of the file, where a form holds one."""
    media_type = _media_type(content_type)
    if media_type == multipart.MEDIA_TYPE:
        content_type, body = multipart.unwrap(content_type, body)
        media_type = _media_type(content_type)
    codec = _sniff(body) if media_type in _SNIFFED else _BY_TYPE.get(media_type)
    if codec is None:
        raise UnsupportedMediaTypeError(
            f"the body's type {excerpt(media_type or 'unknown')} is not read;"
            f" send {', '.join([*(codec.media_types[0] for codec in CODECS), *OPEN_INFERENCE])}"
            f" or {multipart.MEDIA_TYPE} with one file"
        )
    return codec, body


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
def _accepted(accept: str) -> tuple[Form, ...]:
    """The forms that an Accept header allows, best first.

    The most specific range that fits a form decides on it (RFC 9110, 12.5.1); among equals the header's order does.
    """
    qualities: dict[str, float] = {}
    for item in (accept.strip() or "*/*").split(","):
        media_type, _, parameters = item.partition(";")
        qualities.setdefault(media_type.strip().lower(), _quality(parameters))
    places = {media_type: place for place, media_type in enumerate(qualities)}
    ranked = []
    for form in FORMS:
        any_form = _ANY_FORM if form in CODECS else ()
        fitting = next((name for name in (*form.media_types, *any_form) if name in qualities), None)
        if fitting is not None and qualities[fitting] > 0:
            ranked.append((-qualities[fitting], places[fitting], form))
    return tuple(form for *_, form in sorted(ranked, key=lambda entry: entry[:2]))


def _quality(parameters: str) -> float:
    """The weight among the parameters of a media range: 1 without one, 0 where it is none."""
    for parameter in parameters.lower().split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0

"""multipart/form-data with one file: what an HTML form or `curl -F file=@array.npy` sends.

An envelope, not a codec: it holds a body of another media type. The grammar is RFC 7578's.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ndserve.codecs.base import Buffer
from ndserve.errors import MalformedBodyError

MEDIA_TYPE = "multipart/form-data"
MAX_PARTS = 64
"""The parser takes some microseconds a part. It bounds a part's headers itself."""


def unwrap(content_type: str, body: Buffer) -> tuple[str, bytes]:
    """The Content-Type and the bytes of the one part that is a file.

    Raises:
        MalformedBodyError: no boundary, a broken envelope, over 64 parts, or not exactly one file.
    """
    envelope = _Envelope()
    try:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise MalformedBodyError("the multipart Content-Type names no boundary")
        parser = MultipartParser(boundary, callbacks=envelope.callbacks())  # type: ignore[arg-type]
        parser.write(bytes(body))
        parser.finalize()
    except (FormParserError, UnicodeEncodeError) as error:  # the latter on a header beyond Latin-1
        raise MalformedBodyError(f"the multipart body cannot be read: {error}") from None
    if not envelope.complete:
        raise MalformedBodyError("the multipart body is cut off before its last boundary")
    if len(envelope.files) != 1:
        raise MalformedBodyError(f"the multipart body holds {len(envelope.files)} files; exactly one is read")
    media_type, chunks = envelope.files[0]
    return media_type, b"".join(chunks)


class _Envelope:
    """Collects the file parts that the parser reports; form fields are read past."""

    def __init__(self) -> None:
        self.files: list[tuple[str, list[bytes]]] = []
        self.complete = False
        self._parts = 0
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] | None = None

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._text,
            "on_header_end": self._header,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise MalformedBodyError(f"the multipart body has over {MAX_PARTS} parts")
        self._headers, self._chunks = {}, None

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _text(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"filename" in options:
            self._chunks = []
            media_type = self._headers.get(b"content-type", b"application/octet-stream").decode("latin1")
            self.files.append((media_type, self._chunks))
            if len(self.files) > 1:
                raise MalformedBodyError("the multipart body holds several files; exactly one is read")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._chunks is not None:
            self._chunks.append(data[start:end])

    def _end(self) -> None:
        self.complete = True

"""Protobuf's wire format, read from a file without what is stepped over.

https://protobuf.dev/programming-guides/encoding/. The file is not mapped into memory: one that is being overwritten may
shrink meanwhile, and a look behind the end of a mapped file ends the process (SIGBUS).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias, TypeVar

SHORT = 4096
"""Bytes that are read at once. Most nodes are shorter; most weights are longer and stay unread."""

_HEADER = 20
"""Bytes of the longest tag and length together."""

_LONGEST_TEXT = 1 << 20
"""Bytes of a name or a location; none that is meant comes near."""

MAX_FIELDS = 2_000_000
"""Of one message; the largest graphs have a hundred thousand."""

_BREATH = 500
"""Fields after which others get their turn."""

T = TypeVar("T")
D = TypeVar("D")


class Span(NamedTuple):
    """A stretch of an open file that is read where it is looked into, in bytes from the file's beginning."""

    file: int
    start: int
    end: int

    def read(self, position: int = 0, most: int = _LONGEST_TEXT) -> memoryview:
        """Up to `most` bytes from `position` on, counted from the span's start."""
        start = self.start + position
        return memoryview(os.pread(self.file, min(most, self.end - start), start))


Message: TypeAlias = memoryview | Span


VARINT, LENGTH = 0, 2
"""The wire types of numbers, and of texts and messages."""


class Value(NamedTuple):
    """One protobuf field: a number for varints, bytes for everything that has a length. The wire type says which.

    A field of another wire type than the one that it should have is not that field to any reader of protobuf. To look
    at it all the same would be to read another model than onnxruntime does.
    """

    number: int
    bytes: Message
    kind: int = LENGTH


class CutOffError(ValueError):
    """A field would end behind the message that it is in."""

    def __init__(self, number: int, end: int) -> None:
        super().__init__(f"field {number} is cut off")
        self.number = number
        self.end = end


_NOTHING = memoryview(b"")


def all_of(message: Message, number: int) -> Iterator[Message]:
    return (value.bytes for found, value in fields_of(message) if found == number and value.kind == LENGTH)


def text_of(message: Message, number: int) -> str:
    last = last_of(all_of(message, number), _NOTHING)
    if length_of(last) > _LONGEST_TEXT:
        raise ValueError("a text is too long")
    return bytes(near(last)).decode()


def integer_of(message: Message, number: int) -> int | None:
    return last_of(
        (value.number for found, value in fields_of(message) if found == number and value.kind == VARINT), None
    )


def last_of(values: Iterator[T], default: D) -> T | D:
    """The last one counts where a field comes twice, as protobuf has it."""
    last: T | D = default
    for value in values:
        last = value
    return last


def length_of(message: Message) -> int:
    return len(message) if isinstance(message, memoryview) else message.end - message.start


def near(message: Message) -> memoryview:
    """The message in memory. Raises ValueError where the file has become shorter."""
    if isinstance(message, memoryview):
        return message
    content = message.read()
    if len(content) < length_of(message):
        raise ValueError("the file has become shorter")
    return content


def fields_of(message: Message) -> Iterator[tuple[int, Value]]:
    """Every field of one message, in order. Raises IndexError or ValueError where the bytes make none."""
    if length_of(message) <= SHORT:
        message = near(message)
    position, end, count = 0, length_of(message), 0
    # `window` is the part of the message in memory, and `begin` where in the message it begins.
    window, begin = (message, 0) if isinstance(message, memoryview) else (_NOTHING, 0)
    while position < end:
        count += 1
        if count % _BREATH == 0:
            time.sleep(0)  # other threads wait for the interpreter meanwhile
            if count > MAX_FIELDS:
                raise ValueError(f"a message has more than {MAX_FIELDS} fields")
        if isinstance(message, Span) and begin + len(window) - position < _HEADER:
            window, begin = message.read(position, SHORT), position
        tag, at = _varint(window, position - begin)
        number, wire_type = tag >> 3, tag & 7
        value = Value(0, _NOTHING, wire_type)
        # Other readers take the lower 32 bits of a longer tag, and so another field.
        if not number or tag >> 32:
            raise ValueError("a field has no number, or one that is too long")
        if wire_type == 0:
            content, at = _varint(window, at)
            value = Value(content, _NOTHING, VARINT)
        elif wire_type == 2:
            length, at = _varint(window, at)
            start, at = at, at + length
            if at <= len(window):
                value = Value(0, window[start:at])
            elif isinstance(message, Span):
                first = message.start + begin
                value = Value(0, Span(message.file, first + start, first + at))
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        position = begin + at
        if position > end:
            raise CutOffError(number, position)
        yield number, value


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte: Any = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")

"""Protobuf messages read from a file are what they are in memory, and what is stepped over is not read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndserve.model_cache.disk.protobuf import SHORT, Span, fields_of, near, text_of

Field = tuple[int, int | bytes]


def varint(number: int) -> bytes:
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def written(fields: list[Field]) -> bytes:
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def read(data: bytes) -> list[Field]:
    """The fields as a file gives them, each with its whole content."""
    with tempfile.TemporaryFile() as file:
        file.write(b"before" + data + b"behind")
        file.flush()
        span = Span(file.fileno(), 6, 6 + len(data))
        return [
            (number, value.number if not len(content := near(value.bytes)) else bytes(content))
            for number, value in fields_of(span)
        ]


contents = st.one_of(
    st.integers(1, 2**63),
    st.binary(min_size=1, max_size=30),
    st.integers(SHORT - 30, SHORT + 30).map(lambda length: b"x" * length),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), contents), max_size=60))
def test_a_file_gives_the_fields_that_were_written(fields: list[Field]) -> None:
    assert read(written(fields)) == fields


@pytest.mark.parametrize("filler", range(SHORT - 30, SHORT + 2))
def test_a_field_may_begin_anywhere_at_the_end_of_what_is_read_at_once(filler: int) -> None:
    fields: list[Field] = [(1, b"x" * (filler - 3)), (2**29 - 1, 2**63), (3, b"y" * 200), (4, b"z" * SHORT)]
    assert read(written(fields)) == fields


def test_a_long_content_is_a_place_in_the_file_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(written([(5, b"x" * 10_000)]))
    with (tmp_path / "file").open("rb") as file:
        ((number, value),) = fields_of(Span(file.fileno(), 0, 10_003))
        assert (number, value.bytes) == (5, Span(file.fileno(), 3, 10_003))


def test_a_content_that_is_gone_when_it_is_looked_at_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    with (tmp_path / "file").open("rb") as file:
        os.truncate(tmp_path / "file", 50)
        with pytest.raises(ValueError, match="become shorter"):
            near(Span(file.fileno(), 0, 100))


def test_a_text_that_is_too_long_to_be_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        text_of(memoryview(written([(1, b"x" * (1 << 20 | 1))])), 1)
    assert text_of(memoryview(written([(1, b"x" * (1 << 20))])), 1) == "x" * (1 << 20)

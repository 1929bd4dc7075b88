"""External data behind odd spellings of protobuf: what another reader sees is seen here, or the file is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from onnx import load_model_from_string

from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk.onnx_file import read_signature
from tests import onnx_models
from tests.unit.model_cache.disk.test_protobuf import varint


def text(number: int, content: bytes, *, tag: bytes = b"") -> bytes:
    return (tag or varint(number << 3 | 2)) + varint(len(content)) + content


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


LOCATION = text(1, b"location") + text(2, b"../secret")

ENTRIES = {
    "as it should be": text(13, LOCATION),
    "the key again as a number": text(13, text(1, b"location") + number(1, 0) + text(2, b"../secret")),
    "the value again as a number": text(13, LOCATION + number(2, 0)),
    "the key again before itself": text(13, text(1, b"offset") + LOCATION),
    "the entry's field again as a number": number(13, 0) + text(13, LOCATION) + number(13, 5),
    "two locations": text(13, text(1, b"location") + text(2, b"w.bin")) + text(13, LOCATION),
    "two locations the other way": text(13, LOCATION) + text(13, text(1, b"location") + text(2, b"w.bin")),
    "a tag that is longer than it must be": text(13, LOCATION, tag=b"\xea\x80\x80\x00"),
    "a tag beyond 32 bits": text(13, LOCATION, tag=b"\xea\x80\x80\x80\x10"),
    "a tag of ten bytes": text(13, LOCATION, tag=b"\xea" + b"\x80" * 8 + b"\x01"),
}


def model(entry: bytes) -> bytes:
    """A model with a weight that says of itself what `entry` says."""
    tensor = number(1, 2) + number(2, 1) + text(8, b"w") + entry + number(14, 1)
    whole: bytes = onnx_models.double().SerializeToString()
    return whole + text(7, text(5, tensor))


def seen_by_the_library(data: bytes) -> set[str]:
    tensors = load_model_from_string(data).graph.initializer
    return {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
def test_no_location_that_the_library_sees_is_overlooked(entry: bytes) -> None:
    data = model(entry)
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(data)
        file.flush()
        try:
            found = read_signature(Path(file.name)).external
        except ModelLoadError:
            return
    assert found >= seen_by_the_library(data)
    assert "../secret" in found


@pytest.mark.parametrize("tag", [b"\xea\x80\x80\x80\x10", b"\xea" + b"\x80" * 8 + b"\x01"])
def test_a_tag_that_others_would_cut_to_another_is_refused(tag: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(model(text(13, LOCATION, tag=tag)))
        file.flush()
        with pytest.raises(ModelLoadError):
            read_signature(Path(file.name))

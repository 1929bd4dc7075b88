"""Arrays as bytes: they come back as they went, and damaged bytes do no harm."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ndserve import byte_strings
from ndserve.dtypes import NARROW, PLAIN, carrier
from ndserve.stores.sqlite.arrays import ALIGN, MAGIC, DamagedError, Files, buffers, pack, unpack
from ndserve.types import HostArray, Tensors
from tests.contract.stores import bits

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
TEXTS = st.lists(st.binary(max_size=8), max_size=6).map(lambda texts: byte_strings.of(texts, (1, len(texts))))


def narrow(dtype: np.dtype[Any]) -> st.SearchStrategy[HostArray]:
    return hnp.arrays(carrier(dtype), SHAPES).map(lambda bits: bits.view(dtype))


ARRAYS = (
    st.sampled_from(list(PLAIN.values())).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
    | st.sampled_from(list(NARROW.values())).flatmap(narrow)
    | TEXTS
)
TENSORS = st.dictionaries(st.text(max_size=8), ARRAYS, min_size=1, max_size=4)


@given(tensors=TENSORS)
@settings(max_examples=150, deadline=None)
def test_arrays_come_back_bit_for_bit_from_a_row_and_from_a_file(tensors: dict[str, HostArray]) -> None:
    packed = pack(tensors)
    assert b"".join(buffers(tensors)) == packed
    assert bits(unpack(packed)) == bits(tensors)


@given(tensors=TENSORS)
@settings(max_examples=50, deadline=None)
def test_arrays_are_read_only_views_that_lie_aligned(tensors: dict[str, HostArray]) -> None:
    raw = bytearray(pack(tensors))
    base = np.frombuffer(raw, np.uint8).ctypes.data
    for array in unpack(raw).values():
        if array.size:
            assert not array.flags.writeable
        if array.size and not array.dtype.hasobject:
            assert (array.ctypes.data - base) % ALIGN == 0


@pytest.mark.parametrize("write", [pack, buffers])
def test_an_array_of_objects_is_refused(write: object) -> None:
    assert callable(write)
    with pytest.raises(TypeError, match="'x'"):
        write({"x": np.array([{}])})


def read_or_damaged(raw: bytes) -> None:
    try:
        tensors = unpack(raw)
    except DamagedError:
        return
    assert sum(2 * array.size if array.dtype.hasobject else array.nbytes for array in tensors.values()) <= len(raw)


def headed(text: str) -> bytes:
    return MAGIC + struct.pack("<I", len(text)) + text.encode() + bytes(64)


@given(start=st.sampled_from([b"", MAGIC, MAGIC + b"\x02\x00\x00\x00", MAGIC + b"\xff\xff\xff\xff"]), rest=st.binary())
@example(start=b"", rest=headed("[" * 100_000))
@example(start=b"", rest=headed("1" * 5_000))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_damaged(start: bytes, rest: bytes) -> None:
    read_or_damaged(start + rest)


@given(tensors=TENSORS, at=st.integers(0, 400), patch=st.binary(min_size=1, max_size=4), cut=st.integers(0, 400))
@settings(max_examples=300, deadline=None)
def test_damaged_arrays_are_read_or_told(tensors: dict[str, HostArray], at: int, patch: bytes, cut: int) -> None:
    raw = bytes(pack(tensors))
    at %= len(raw)
    read_or_damaged(raw[:at] + patch + raw[at + len(patch) :])
    read_or_damaged(raw[: cut % len(raw)])


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["<f8", "O", "|b1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


WORDS = st.sampled_from(["<f8", "|O", "a5", "(", "", "f4,(2", "bytes", "bfloat16"])


@given(form=JSON | st.lists(st.tuples(st.just("x"), WORDS, JSON)))
@example(form=[["x", "<f8", [2**70]]])
@example(form=[["x", "<f8", [0, 2**62]]])
@example(form=[["x", "<f8", [0, 2**70]]])
@example(form=[["x", "<f8", [-1]]])
@example(form=[["x", "<f8", [10**9, "a"]]])
@example(form=[["x", "|O", [0]]])
@example(form=[["x", "bytes", []]])
@example(form=[["x", "bytes", [2**70]]])
@example(form=[["x", "bytes", [0, 10**30, 0]]])
@example(form=[["x", "bytes", [2**40, 64]]])
@example(form=[["x", "bfloat16", [2**70]]])
@example(form=[["x", "f4,(2", [0]]])
@settings(max_examples=300, deadline=None)
def test_headers_that_make_no_sense_are_damaged(form: object) -> None:
    read_or_damaged(headed(json.dumps(form)))


# files


def test_a_file_holds_what_a_row_would(tmp_path: Path) -> None:
    tensors: Tensors = {f"a{number}": np.arange(number * 1000) for number in range(70)}
    files = Files(tmp_path, sync=False)
    files.create()
    files.write(files.path(300, "in"), buffers(tensors))
    assert files.path(300, "in").read_bytes() == pack(tensors)


def test_a_write_that_comes_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda descriptor, left: real(descriptor, [left[0][:1000]]))
    tensors: Tensors = {"x": np.arange(900), "empty": np.zeros(0), "y": np.arange(700)}
    files = Files(tmp_path, sync=False)
    files.create()
    files.write(files.path(1, "in"), buffers(tensors))
    assert bits(unpack(files.path(1, "in").read_bytes())) == bits(tensors)


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, left: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    files = Files(tmp_path, sync=False)
    files.create()
    with pytest.raises(OSError, match="No space"):
        files.write(files.path(1, "in"), [b"x"])
    assert [path for path in tmp_path.glob("*/*") if path.is_file()] == []

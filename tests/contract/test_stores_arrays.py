"""One suite for every task store: arrays come back bit for bit, whatever they are, however they are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ndserve import byte_strings
from ndserve.codecs.base import DTYPES
from ndserve.stores import STORES
from ndserve.types import HostArray, Tensors
from tests.contract.stores import DURABLE, bits, end, finish, found, killed, new, on_a_loop, opened, put, resumed

EDGE = 64 * 1024
"""Where the durable store changes from rows to files."""


def of_dtype(name: str, items: int) -> HostArray:
    """Values of that dtype without a pattern, NaN and the sign of zero among them."""
    raw = np.random.default_rng(7).integers(0, 256, items * 16, np.uint8)
    dtype = DTYPES[name]
    return (raw[:items] & 1).astype(dtype) if dtype.kind == "b" else raw.view(dtype)[:items].copy()


def texts(*elements: bytes) -> HostArray:
    return byte_strings.of(elements, (len(elements),))


KINDS: dict[str, Callable[[], Tensors]] = {
    "scalar": lambda: {"x": np.array(1.5, np.float32)},
    "empty": lambda: {"x": np.zeros((0, 3), np.int64)},
    "only empty ones": lambda: {"x": np.zeros(0), "y": np.zeros((2, 0), np.int8)},
    "fortran": lambda: {"x": np.asfortranarray(np.arange(24.0).reshape(4, 6))},
    "strided": lambda: {"x": np.arange(48)[::2]},
    "reversed": lambda: {"x": np.arange(5, dtype=np.uint16)[::-1]},
    "large fortran": lambda: {"x": np.asfortranarray(np.arange(60_000.0).reshape(200, 300))},
    "large strided": lambda: {"x": np.arange(100_000)[::2]},
    "big-endian": lambda: {"x": np.arange(5, dtype=">i4")},
    "read-only": lambda: {"x": np.frombuffer(bytes(range(16)), np.uint16)},
    "several": lambda: {name: of_dtype(name, 5) for name in DTYPES},
    "several large": lambda: {name: of_dtype(name, 20_001) for name in DTYPES},
    "large beside empty and scalar": lambda: {"a": np.zeros(0), "b": np.arange(90_000), "c": np.array(True)},
    "many": lambda: {f"array {number}": np.full(1_000, number, np.uint8) for number in range(200)},
    "any name": lambda: {"": np.ones(1), "ü/..": np.ones(2), "\ud800\0": np.ones(3)},
    "texts": lambda: {"x": texts(b"one", "zwölf".encode(), b"", b"\0", b"\xff\0"), "y": np.arange(3)},
    "large texts": lambda: {"x": texts(b"x" * 100_000, b"short"), "y": np.arange(3)},
    "no texts": lambda: {"x": texts(), "y": texts().reshape(3, 0)},
    "texts of two axes": lambda: {"x": texts(*(b"%d" % number for number in range(6))).reshape(2, 3)[:, ::2]},
    "scalar text": lambda: {"x": texts(b"one").reshape(())},
    **{
        f"{EDGE + more:d} bytes": lambda more=more: {"x": np.arange(EDGE + more, dtype=np.uint8)}  # type: ignore[misc]
        for more in (-1, 0, 1)
    },
    **{f"{name} scalar": lambda name=name: {"x": of_dtype(name, 1).reshape(())} for name in DTYPES},  # type: ignore[misc]
}

every_kind = pytest.mark.parametrize("tensors", KINDS.values(), ids=KINDS)


@every_kind
@pytest.mark.parametrize("name", sorted(STORES))
@on_a_loop
async def test_outputs_come_back_bit_for_bit(name: str, tensors: Callable[[], Tensors]) -> None:
    outputs = tensors()
    async with opened(name, max_bytes=10**8) as store:
        await put(store, [task := new(1)])
        await finish(store, [end(task, 1.0, outputs=outputs)])
        assert bits((await found(store, task.id)).outputs) == bits(outputs)
        assert store.usage().nbytes == task.nbytes


@every_kind
@pytest.mark.parametrize("name", DURABLE)
@on_a_loop
async def test_arrays_outlive_the_process_bit_for_bit(
    name: str, tensors: Callable[[], Tensors], tmp_path: Path
) -> None:
    arrays = tensors()
    queued, ended = new(1, inputs=arrays), new(2)
    async with opened(name, tmp_path / "data", max_bytes=10**8) as store:
        await put(store, [queued, ended])
        await finish(store, [end(ended, 1.0, outputs=arrays)])
        copy = killed(tmp_path / "data")
    async with resumed(name, copy) as (store, unfinished):
        assert [bits(task.inputs) for task in unfinished] == [bits(arrays)]
        assert bits((await found(store, queued.id)).inputs) == bits(arrays)
        assert bits((await found(store, ended.id)).outputs) == bits(arrays)


@pytest.mark.parametrize("name", DURABLE)
@on_a_loop
async def test_arrays_may_be_used_where_they_lie(name: str, tmp_path: Path) -> None:
    arrays = {dtype: of_dtype(dtype, items) for dtype in DTYPES for items in (3,)}
    async with opened(name, tmp_path / "data") as store:
        await put(store, [new(1, inputs=arrays), new(2, inputs={**arrays, "large": of_dtype("complex128", 9_000)})])
    async with resumed(name, tmp_path / "data") as (_, unfinished):
        for task in unfinished:
            assert all(array.flags.aligned and array.flags.c_contiguous for array in task.inputs.values())

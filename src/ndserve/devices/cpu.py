"""The CPU: NumPy, and onnxruntime's CPU execution provider."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import ModuleType, TracebackType
from typing import Self

import numpy as np

from ndserve.devices.base import Memory, Provider
from ndserve.types import Array, HostArray


class CpuDevice:
    """Needs NumPy alone. Also the device of every test."""

    name = "cpu"
    xp: ModuleType = np

    def to_device(self, parts: Sequence[HostArray]) -> Array:
        # Read-only even where it is a fresh copy, so that a process that writes to its input fails on a
        # batch of any size, not just where the input happens to be a view of a request's body.
        array = parts[0].view() if len(parts) == 1 else np.concatenate(parts)
        array.flags.writeable = False
        return array

    def to_host(self, array: Array) -> HostArray:
        host: HostArray = np.asarray(array)
        # A small view of something large, such as one column of the input, would keep all of it in memory
        # for as long as the result is kept.
        return host.copy() if _owned_bytes(host) > 2 * host.nbytes else host

    def synchronize(self) -> None:
        """NumPy has finished when it returns."""

    def memory(self) -> Memory:
        page = os.sysconf("SC_PAGE_SIZE")
        return Memory(os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page)

    def providers(self) -> list[Provider]:
        return ["CPUExecutionProvider"]

    def healthy(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def _owned_bytes(array: HostArray) -> int:
    """Bytes of the memory that the array keeps alive: those of the largest array or buffer that it is a view of.

    The last one on the way need not know its size: it may be onnxruntime's own memory.
    """
    largest = 0
    base: object = array
    while isinstance(base, np.ndarray):
        largest = max(largest, base.nbytes)
        base = base.base
    if isinstance(base, bytes | bytearray | memoryview):
        largest = max(largest, memoryview(base).nbytes)
    return largest

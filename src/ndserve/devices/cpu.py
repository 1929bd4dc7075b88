"""The CPU: NumPy, and onnxruntime's CPU execution provider."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import NamedTuple, Self

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
        total, free = os.sysconf("SC_PHYS_PAGES") * page, _available()
        limit = _limit()
        used = _resident() * page
        if limit is None or limit.total >= total:
            return Memory(free, total, used)
        return Memory(min(free, limit.free), limit.total, used)

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


class _Limit(NamedTuple):
    """What a container may still take, and in all."""

    free: int
    total: int


def _available() -> int:
    """Bytes that can be had without swapping: MemAvailable of proc_meminfo(5), which counts what caches would give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # of a kernel that does not say it


def _resident() -> int:
    """Pages of this process in memory (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1])


def _limit() -> _Limit | None:
    """The bound of this process's control group, as containers have it; None where there is none to be seen.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
    """
    for group, most, current in _GROUPS:
        try:
            limit = int((group / most).read_text())
            taken = int((group / current).read_text()) - _cached(group)
        except (OSError, ValueError):  # no such group, or "max"
            continue
        return _Limit(max(0, limit - taken), limit)
    return None


_GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""Where a container sees its own group, in the second and in the first version of control groups."""


def _cached(group: Path) -> int:
    """Bytes of files that are cached and not in use, which the kernel would give up first."""
    for line in (group / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


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

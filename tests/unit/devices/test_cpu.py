"""The CPU device's own promises: inputs cannot be written to, and results hold no more memory than they show."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from ndserve.devices import cpu
from ndserve.devices.cpu import CpuDevice
from ndserve.types import HostArray


class Foreign:
    """Memory that is not NumPy's, such as onnxruntime's, as NumPy reads it."""

    def __init__(self, array: HostArray) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__


def bytes_kept_alive(result: HostArray, large: HostArray) -> int:
    return large.nbytes if np.shares_memory(result, large) else result.nbytes


@pytest.mark.parametrize("parts", [1, 3])
def test_inputs_are_read_only_whether_stacked_or_not(parts: int) -> None:
    array = CpuDevice().to_device([np.zeros((1, 2))] * parts)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_a_lone_part_is_not_copied() -> None:
    part = np.zeros((2, 2))
    assert np.shares_memory(CpuDevice().to_device([part]), part)


def test_a_result_is_not_copied() -> None:
    result = np.zeros((4, 4))
    assert np.shares_memory(CpuDevice().to_host(result), result)


@pytest.mark.parametrize(
    "large",
    [np.zeros((1000, 1000)), np.frombuffer(bytes(8_000_000)).reshape(1000, 1000)],
    ids=["an array", "a request's body"],
)
def test_a_small_view_of_something_large_is_copied(large: HostArray) -> None:
    host = CpuDevice().to_host(large[:, 0])
    assert bytes_kept_alive(host, large) == 8000


def test_a_small_view_of_a_view_of_something_large_is_copied() -> None:
    large = np.zeros((1000, 1000))
    host = CpuDevice().to_host(large.T[2:][:, ::-1][0])
    assert bytes_kept_alive(host, large) == 8000


def test_a_small_view_of_memory_that_is_not_numpys_is_copied() -> None:
    large = np.zeros((1000, 1000))
    host = CpuDevice().to_host(np.asarray(Foreign(large))[:, 0])
    assert bytes_kept_alive(host, large) == 8000


def test_a_copy_holds_the_same_values() -> None:
    large = np.arange(10_000.0).reshape(100, 100)
    assert CpuDevice().to_host(large[::50, ::50]).tolist() == [[0, 50], [5000, 5050]]


def group(folder: Path, limit: str, current: int, inactive: int, *, first: bool = False) -> tuple[Path, str, str]:
    """A control group as the kernel shows it, in its second version or the `first`."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if first else ("memory.max", "memory.current")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{'total_' if first else ''}inactive_file {inactive}\nx 1\n")
    return folder, *names


@pytest.mark.parametrize("first", [True, False])
def test_a_container_has_what_its_limit_leaves_and_what_its_cache_would_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    monkeypatch.setattr(cpu, "_GROUPS", [group(tmp_path, "1000000", 600_000, 100_000, first=first)])
    memory = CpuDevice().memory()
    assert (memory.free, memory.total) == (500_000, 1_000_000)


@pytest.mark.parametrize("limit", ["max", str(1 << 63)])
def test_a_group_without_a_limit_leaves_the_whole_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(cpu, "_GROUPS", [])
    total = CpuDevice().memory().total
    monkeypatch.setattr(cpu, "_GROUPS", [group(tmp_path, limit, 5, 0)])
    assert CpuDevice().memory().total == total


def test_a_container_over_its_limit_has_nothing_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_GROUPS", [group(tmp_path, "1000", 5000, 0)])
    assert CpuDevice().memory().free == 0


def test_what_the_process_uses_grows_with_what_it_takes() -> None:
    before = CpuDevice().memory().used
    with mmap.mmap(-1, 64 << 20) as taken:
        taken.write(bytes(len(taken)))
        assert CpuDevice().memory().used - before > len(taken) // 2

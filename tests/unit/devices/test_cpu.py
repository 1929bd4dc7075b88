"""The CPU device's own promises: inputs cannot be written to, and results hold no more memory than they show."""

from __future__ import annotations

import numpy as np
import pytest

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

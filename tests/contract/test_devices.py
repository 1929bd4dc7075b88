"""One suite for every device: what `ndserve.devices.base.Device` promises."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import array_api_strict
import numpy as np
import pytest

from ndserve.devices.base import Device
from ndserve.devices.cpu import CpuDevice
from ndserve.dtypes import PLAIN
from ndserve.types import HostArray
from tests.contract.foreign_device import LACKING, ForeignDevice
from tests.gpu.opening import gpu_or_skip

OPENERS: dict[str, Callable[[], Device]] = {"cpu": CpuDevice, "foreign": ForeignDevice, "cuda": gpu_or_skip}
DEVICES = ["cpu", "foreign", pytest.param("cuda", marks=pytest.mark.gpu)]
# array_api_strict has no float16, which leaves that one out for the foreign device.
DEVICES_AND_DTYPES = [
    pytest.param(name, dtype, marks=[pytest.mark.gpu] if name == "cuda" else [])
    for name in OPENERS
    for dtype in PLAIN
    if not (name == "foreign" and dtype in LACKING)
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    with OPENERS[request.param]() as device:
        yield device


def values(shape: tuple[int, ...], dtype: str = "float32") -> HostArray:
    """Any values of that dtype, extremes and signs included."""
    size = int(np.prod(shape))
    raw = np.random.default_rng(0).integers(0, 256, size * np.dtype(dtype).itemsize, np.uint8)
    if dtype == "bool":
        raw %= 2
    array = raw.view(dtype).reshape(shape)
    return np.asarray(np.nan_to_num(array)) if np.dtype(dtype).kind in "fc" else array


@pytest.mark.parametrize(("name", "dtype"), DEVICES_AND_DTYPES)
def test_an_array_of_every_dtype_comes_back_as_it_went(name: str, dtype: str) -> None:
    sent = values((3, 5), dtype)
    with OPENERS[name]() as device:
        back = device.to_host(device.to_device([sent]))
    assert back.dtype == sent.dtype
    assert back.tobytes() == sent.tobytes()


@pytest.mark.parametrize(("name", "dtype"), DEVICES_AND_DTYPES)
def test_parts_of_every_dtype_are_laid_end_to_end(name: str, dtype: str) -> None:
    sent = values((6, 2), dtype)
    with OPENERS[name]() as device:
        back = device.to_host(device.to_device([sent[:1], sent[1:4], sent[4:]]))
    assert back.dtype == sent.dtype
    assert back.tobytes() == sent.tobytes()


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (0, 2, 2), (1, 1, 1, 1, 1)])
def test_a_lone_part_may_be_of_any_shape(device: Device, shape: tuple[int, ...]) -> None:
    sent = values(shape)
    back = device.to_host(device.to_device([sent]))
    assert back.shape == shape
    assert back.tobytes() == sent.tobytes()


@pytest.mark.parametrize("lengths", [(0, 2), (2, 0, 1), (0, 0)])
def test_a_part_without_rows_adds_none(device: Device, lengths: tuple[int, ...]) -> None:
    sent = values((sum(lengths), 3))
    ends = np.cumsum(lengths)
    parts = [sent[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    back = device.to_host(device.to_device(parts))
    assert back.shape == sent.shape
    assert back.tobytes() == sent.tobytes()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[::-1],
        lambda x: x[:, ::2],
        lambda x: np.broadcast_to(x[:1], x.shape),
    ],
    ids=["transposed", "reversed", "strided", "broadcast"],
)
def test_parts_need_not_be_contiguous(device: Device, view: Callable[[HostArray], HostArray], count: int) -> None:
    sent = view(values((4, 4)))
    back = device.to_host(device.to_device([sent] * count))
    assert back.tolist() == sent.tolist() * count


def test_parts_may_be_views_of_a_request_body(device: Device) -> None:
    body = bytes(range(12))
    back = device.to_host(device.to_device([np.frombuffer(body, np.uint8)]))
    assert back.tobytes() == body


def test_the_callers_array_stays_writable(device: Device) -> None:
    part = values((2, 2))
    device.to_device([part])
    assert part.flags.writeable


def test_arrays_compute_in_the_devices_namespace(device: Device) -> None:
    x = device.to_device([np.arange(4.0)])
    total = device.xp.sum(x * 2 + device.xp.ones(4, dtype=x.dtype, device=x.device))
    assert device.to_host(total) == 16


def test_a_result_that_is_a_view_comes_back_whole(device: Device) -> None:
    sent = values((4, 6))
    back = device.to_host(device.to_device([sent])[1:3, ::-2])
    assert back.tolist() == sent[1:3, ::-2].tolist()


def test_results_are_plain_host_arrays(device: Device) -> None:
    assert type(device.to_host(device.to_device([values((2,))]))) is np.ndarray


def test_free_memory_is_positive_and_part_of_all_memory(device: Device) -> None:
    memory = device.memory()
    assert 0 < memory.free <= memory.total


def test_memory_can_be_asked_for_from_any_thread(device: Device) -> None:
    with ThreadPoolExecutor(1) as other:
        assert other.submit(device.memory).result().total == device.memory().total


def test_there_is_an_execution_provider_for_onnxruntime(device: Device) -> None:
    names = [provider if isinstance(provider, str) else provider[0] for provider in device.providers()]
    assert names
    assert all(name.endswith("ExecutionProvider") for name in names)


def test_a_device_that_works_is_healthy(device: Device) -> None:
    device.to_device([values((2,))])
    assert device.healthy()


def test_work_is_done_after_synchronize(device: Device) -> None:
    x = device.to_device([np.arange(1000.0)]) + 1
    device.synchronize()
    assert device.to_host(x)[-1] == 1000


def test_entering_gives_the_device_and_may_be_done_again(device: Device) -> None:
    for _ in range(2):
        with device as entered:
            assert entered is device


def test_the_name_is_a_kind_and_perhaps_an_index(device: Device) -> None:
    assert re.fullmatch(r"[a-z]+(:\d+)?", device.name)


def test_a_foreign_array_cannot_be_read_as_a_host_array() -> None:
    array = ForeignDevice().to_device([values((2,))])
    with pytest.raises(RuntimeError, match="device1"):
        np.asarray(array)


def test_a_foreign_array_cannot_be_mixed_with_one_of_the_host() -> None:
    array = ForeignDevice().to_device([values((2,))])
    with pytest.raises(ValueError, match="device"):
        array + array_api_strict.asarray(values((2,)))
    with pytest.raises(TypeError):
        array + values((2,))


def test_a_foreign_array_shares_no_memory_with_what_it_was_made_of() -> None:
    device, part = ForeignDevice(), np.zeros(2)
    array = device.to_device([part])
    part[:] = 1
    assert device.to_host(array).tolist() == [0, 0]

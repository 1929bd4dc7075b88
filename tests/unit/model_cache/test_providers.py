"""Which execution providers a model gets, and with which options."""

from __future__ import annotations

from typing import Any

import pytest

from ndserve.devices.base import Device, Memory, Provider
from ndserve.devices.cpu import CpuDevice
from ndserve.model_cache import providers
from ndserve.model_cache.providers import CPU, CUDA, NAMES, OWN, REFUSED, TENSORRT, chosen
from ndserve.model_info import ModelOptions
from tests.contract.foreign_device import ForeignDevice

STREAM = {"device_id": 1, "user_compute_stream": "4096"}


class GpuDevice(CpuDevice):
    """What a GPU says of itself."""

    name = "cuda:1"

    def providers(self) -> list[Provider]:
        return [(CUDA, {**STREAM, "use_tf32": "0"}), CPU]


def names(device: Device, *wanted: str) -> list[str]:
    return [name for name, _ in chosen(device, ModelOptions(providers=wanted))]


def options(device: Device, short: str, **wanted: str) -> dict[str, Any]:
    """The options that a model gets which asks for these."""
    given = ModelOptions(providers=tuple(NAMES), provider_options=((short, tuple(wanted.items())),))
    return dict(chosen(device, given))[NAMES[short]]


def test_a_model_that_asks_for_nothing_gets_what_the_device_gives() -> None:
    assert chosen(GpuDevice(), ModelOptions()) == [(CUDA, {**STREAM, "use_tf32": "0"}), (CPU, {})]
    assert chosen(CpuDevice(), ModelOptions()) == [(CPU, {})]


@pytest.mark.parametrize("wanted", [("tensorrt", "cuda", "cpu"), ("cuda", "tensorrt", "cpu"), ("cpu", "cuda")])
def test_the_models_order_holds(wanted: tuple[str, ...]) -> None:
    assert names(GpuDevice(), *wanted) == [NAMES[short] for short in wanted]


@pytest.mark.parametrize("wanted", [("tensorrt", "cuda", "cpu"), ("cuda",), ("tensorrt",), ()])
def test_what_the_device_lacks_is_left_out(wanted: tuple[str, ...]) -> None:
    assert names(CpuDevice(), *wanted) == [CPU]


@pytest.mark.parametrize("wanted", [("tensorrt",), ("cuda",), ("tensorrt", "cuda")])
def test_the_cpu_comes_last_where_it_was_not_asked_for(wanted: tuple[str, ...]) -> None:
    assert names(GpuDevice(), *wanted) == [*(NAMES[short] for short in wanted), CPU]


def test_tensorrt_works_on_the_devices_stream_and_gets_none_of_cudas_options() -> None:
    assert options(GpuDevice(), "tensorrt") == STREAM


def test_the_models_options_go_over_the_devices() -> None:
    merged = options(GpuDevice(), "cuda", use_tf32="1", gpu_mem_limit="1000000000")
    assert merged == {**STREAM, "use_tf32": "1", "gpu_mem_limit": "1000000000"}


def test_options_hold_without_a_list_of_providers() -> None:
    asked = ModelOptions(provider_options=(("cuda", (("use_tf32", "1"),)),))
    assert chosen(GpuDevice(), asked)[0] == (CUDA, {**STREAM, "use_tf32": "1"})


def test_options_of_a_provider_that_the_device_lacks_do_no_harm() -> None:
    asked = ModelOptions(providers=("cuda", "cpu"), provider_options=(("cuda", (("use_tf32", "1"),)),))
    assert chosen(CpuDevice(), asked) == [(CPU, {})]


@pytest.mark.parametrize("short", ["cuda", "tensorrt"])
@pytest.mark.parametrize("key", sorted(OWN))
def test_the_devices_number_and_stream_are_its_own(short: str, key: str) -> None:
    assert options(GpuDevice(), short, **{key: "7"}).get(key) == STREAM.get(key)


@pytest.mark.parametrize("key", REFUSED)
def test_no_model_loads_a_library_names_an_address_or_records_a_graph(key: str) -> None:
    for device in (GpuDevice(), CpuDevice()):
        with pytest.raises(ValueError, match=rf"provider option tensorrt\.{key} is refused: .*; remove it from"):
            options(device, "tensorrt", **{key: "1"})


def test_the_device_does_not_see_what_a_model_has_changed() -> None:
    device = GpuDevice()
    fixed = device.providers()
    device.providers = lambda: fixed  # type: ignore[method-assign]
    options(device, "cuda", use_tf32="1")
    assert dict(each for each in fixed if isinstance(each, tuple))[CUDA]["use_tf32"] == "0"


@pytest.mark.parametrize(
    ("device", "wanted", "host"),
    [
        (GpuDevice(), ("cpu",), True),
        (GpuDevice(), ("cpu", "cuda"), True),
        (GpuDevice(), ("cuda", "cpu"), False),
        (GpuDevice(), ("tensorrt",), False),
        (CpuDevice(), ("cpu",), False),
        (ForeignDevice(), ("cpu",), True),
    ],
)
def test_a_model_runs_on_the_host_where_the_cpu_comes_first_and_arrays_lie_elsewhere(
    device: Device, wanted: tuple[str, ...], host: bool
) -> None:
    assert providers.on_host(device, chosen(device, ModelOptions(providers=wanted))) is host


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([TENSORRT, CUDA, CPU], ""),
        ([CUDA, CPU], f"{TENSORRT} could not be loaded; is TensorRT installed"),
        ([TENSORRT, CPU], f"{CUDA} could not be loaded; are the CUDA and cuDNN libraries installed"),
    ],
)
def test_a_provider_that_onnxruntime_has_not_loaded_is_told_with_what_it_needs(found: list[str], message: str) -> None:
    wanted = chosen(GpuDevice(), ModelOptions(providers=("tensorrt", "cuda")))
    told = providers.missing(wanted, found)
    assert told.startswith(message)
    assert bool(told) == bool(message)


def test_what_tensorrt_has_compiled_cannot_be_saved() -> None:
    assert not providers.can_be_saved(chosen(GpuDevice(), ModelOptions(providers=("tensorrt", "cuda"))))
    assert providers.can_be_saved(chosen(GpuDevice(), ModelOptions()))


def told(device: Device, **asked: Any) -> str:
    return providers.of(device, chosen(device, ModelOptions(**asked)))


def test_another_gpu_of_the_same_kind_is_told_the_same() -> None:
    class Other(GpuDevice):
        name = "cuda:0"

        def providers(self) -> list[Provider]:
            return [(CUDA, {"device_id": 0, "user_compute_stream": "8192", "use_tf32": "0"}), CPU]

    assert told(Other()) == told(GpuDevice())


def test_a_gpu_of_another_size_is_told_apart() -> None:
    class Larger(GpuDevice):
        def memory(self) -> Memory:
            return Memory(0, 1 << 50, 0)

    assert told(Larger()) != told(GpuDevice())


def test_a_cpu_is_told_the_same_whatever_memory_its_container_has() -> None:
    class Contained(CpuDevice):
        def memory(self) -> Memory:
            return Memory(0, 1 << 20, 0)

    assert told(Contained()) == told(CpuDevice())


def test_providers_their_order_and_their_options_are_told_apart() -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"providers": ("cpu",)},
        {"providers": ("cpu", "cuda")},
        {"provider_options": (("cuda", (("use_tf32", "1"),)),)},
    ]
    assert len({told(GpuDevice(), **each) for each in asked}) == len(asked)

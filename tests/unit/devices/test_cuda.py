"""How the CUDA device reads its libraries, with stand-ins for them; tests/gpu has what needs a real GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from ndserve.devices import open_device
from ndserve.devices.base import Device, DeviceUnavailableError, Memory


class CudaError(RuntimeError):
    """CuPy's CUDARuntimeError."""


class NvmlError(Exception):
    """NVML's root of all errors."""


def raising(error: Exception) -> Any:
    def function(*args: object, **kwargs: object) -> Any:
        raise error

    return function


class Libraries:
    """CuPy and NVML on a machine with two GPUs; a test changes the answers that it is about."""

    def __init__(self) -> None:
        self.runtime = SimpleNamespace(
            getDeviceCount=lambda: 2, streamQuery=lambda pointer: 0, CUDARuntimeError=CudaError
        )
        self.cuda = SimpleNamespace(
            runtime=self.runtime, Device=self.gpu, Stream=lambda non_blocking: SimpleNamespace(ptr=4096)
        )
        self.nvml = SimpleNamespace(
            NVMLError=NvmlError,
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByPciBusId=lambda address: address,
            nvmlDeviceGetMemoryInfo=self.memory_of,
        )

    @staticmethod
    def gpu(index: int) -> Any:
        gpu: Any = nullcontext()
        gpu.pci_bus_id = f"0000:0{index}:00.0"
        gpu.mem_info = (10 + index, 20)
        return gpu

    @staticmethod
    def memory_of(handle: str) -> Any:
        return SimpleNamespace(free={"0000:00:00.0": 30, "0000:01:00.0": 31}[handle], total=40)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Libraries:
    libraries = Libraries()
    compat = SimpleNamespace(cupy=SimpleNamespace())
    modules: dict[str, Any] = {
        "cupy": SimpleNamespace(cuda=libraries.cuda),
        "cupyx": SimpleNamespace(),
        "pynvml": libraries.nvml,
        "array_api_compat": compat,
        "array_api_compat.cupy": compat.cupy,
    }
    monkeypatch.delitem(sys.modules, "ndserve.devices.cuda", raising=False)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return libraries


@pytest.fixture(autouse=True)
def forget_the_module() -> Iterator[None]:
    """The module that was made with stand-ins is not for the next test."""
    real = sys.modules.get("ndserve.devices.cuda")
    yield
    if real is None:
        sys.modules.pop("ndserve.devices.cuda", None)
    else:
        sys.modules["ndserve.devices.cuda"] = real


def opened(name: str) -> Device:
    return open_device(name)[0]


@pytest.mark.usefixtures("libraries")
def test_the_name_holds_the_index() -> None:
    assert (opened("cuda").name, opened("cuda:1").name) == ("cuda:0", "cuda:1")


@pytest.mark.usefixtures("libraries")
def test_auto_takes_the_first_gpu() -> None:
    assert opened("auto").name == "cuda:0"


def test_without_a_driver_cudas_own_reason_is_given(libraries: Libraries) -> None:
    libraries.runtime.getDeviceCount = raising(CudaError("cudaErrorInsufficientDriver"))
    with pytest.raises(DeviceUnavailableError, match=r"no NVIDIA driver answers .cudaErrorInsufficientDriver"):
        opened("cuda")
    assert opened("auto").name == "cpu"


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize("index", [2, 99])
def test_a_gpu_that_is_not_there_is_refused_with_the_number_of_those_that_are(index: int) -> None:
    with pytest.raises(DeviceUnavailableError, match=f"there is no GPU {index}; CUDA sees 2"):
        opened(f"cuda:{index}")


def test_a_gpu_that_gives_no_stream_cannot_be_used(libraries: Libraries) -> None:
    libraries.cuda.Stream = raising(CudaError("cudaErrorDevicesUnavailable"))
    with pytest.raises(DeviceUnavailableError, match="cudaErrorDevicesUnavailable"):
        opened("cuda")
    assert opened("auto").name == "cpu"


@pytest.mark.usefixtures("libraries")
def test_onnxruntime_gets_the_index_and_the_stream_and_the_cpu_for_the_rest() -> None:
    cuda, cpu = opened("cuda:1").providers()
    assert isinstance(cuda, tuple)
    assert (cuda[0], cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (cuda[1]["device_id"], cuda[1]["user_compute_stream"]) == (1, "4096")


@pytest.mark.usefixtures("libraries")
def test_memory_is_what_nvml_says_of_the_gpu_at_the_same_address() -> None:
    assert opened("cuda:1").memory() == Memory(31, 40)


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetMemoryInfo"])
def test_memory_is_what_cuda_says_where_nvml_cannot_tell(libraries: Libraries, function: str) -> None:
    setattr(libraries.nvml, function, raising(NvmlError("Not Supported")))
    assert opened("cuda:1").memory() == Memory(11, 20)


@pytest.mark.parametrize(("status", "healthy"), [(0, True), (600, True), (700, False), (719, False)])
def test_a_stream_that_is_done_or_busy_is_healthy_and_any_other_is_not(
    libraries: Libraries, status: int, healthy: bool
) -> None:
    libraries.runtime.streamQuery = lambda pointer: status
    assert opened("cuda").healthy() is healthy


def test_a_gpu_that_cannot_be_made_current_is_not_healthy(libraries: Libraries) -> None:
    device = opened("cuda")
    libraries.cuda.Device = raising(CudaError("cudaErrorIllegalAddress"))
    assert not device.healthy()

"""How the CUDA device reads its libraries, with stand-ins for them; tests/gpu has what needs a real GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
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


class Stream:
    """CuPy's stream, which never has anything to do."""

    ptr = 4096

    def __init__(self, non_blocking: bool) -> None:
        assert non_blocking

    def __enter__(self) -> None: ...
    def __exit__(self, *raised: object) -> None: ...
    def synchronize(self) -> None: ...


class Pool:
    """CuPy's memory pool, which holds some bytes that no array uses."""

    def __init__(self, unused: int) -> None:
        self.unused = unused

    def free_bytes(self) -> int:
        return self.unused

    def free_all_blocks(self) -> None:
        self.unused = 0


class Libraries:
    """CuPy and NVML on a machine with two GPUs; a test changes the answers that it is about."""

    def __init__(self) -> None:
        self.runtime = SimpleNamespace(
            getDeviceCount=lambda: 2, streamQuery=lambda pointer: 0, CUDARuntimeError=CudaError
        )
        self.cuda = SimpleNamespace(runtime=self.runtime, Device=self.gpu, Stream=Stream)
        self.pool = Pool(0)
        self.cupy = SimpleNamespace(
            cuda=self.cuda,
            ones=np.ones,
            square=np.square,
            asarray=lambda staging: staging,
            get_default_memory_pool=lambda: self.pool,
        )
        self.cupyx = SimpleNamespace(empty_pinned=np.empty)
        self.nvml = SimpleNamespace(
            NVMLError=NvmlError,
            NVML_DEVICE_MIG_ENABLE=1,
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByPciBusId=lambda address: address,
            nvmlDeviceGetMigMode=raising(NvmlError("Not Supported")),
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
        "cupy": libraries.cupy,
        "cupyx": libraries.cupyx,
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


@pytest.mark.parametrize("function", ["Device", "Stream"])
def test_a_gpu_that_someone_else_has_to_himself_cannot_be_used(libraries: Libraries, function: str) -> None:
    setattr(libraries.cuda, function, raising(CudaError("cudaErrorDevicesUnavailable")))
    with pytest.raises(DeviceUnavailableError, match=r"GPU 0 cannot be used .CudaError: cudaErrorDevicesUnavailable"):
        opened("cuda")
    assert opened("auto").name == "cpu"


def test_a_gpu_for_which_nothing_can_be_compiled_cannot_be_used(libraries: Libraries) -> None:
    libraries.cupy.square = raising(RuntimeError("CuPy failed to load libnvrtc.so.12:\n\n  OSError: no such file\n"))
    why = open_device("auto")[1]
    assert why == (
        "no GPU can be used: GPU 0 cannot be used"
        " (RuntimeError: CuPy failed to load libnvrtc.so.12: OSError: no such file)"
    )


def test_the_reason_of_a_compiler_is_kept_short(libraries: Libraries) -> None:
    libraries.cupy.square = raising(RuntimeError('cannot open source file "cuda_fp16.h"\n' + "in line 1\n" * 1000))
    why = open_device("auto")[1]
    assert "cuda_fp16.h" in why
    assert len(why) < 400


@pytest.mark.usefixtures("libraries")
def test_onnxruntime_gets_the_index_and_the_stream_and_the_cpu_for_the_rest() -> None:
    cuda, cpu = opened("cuda:1").providers()
    assert isinstance(cuda, tuple)
    assert (cuda[0], cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (cuda[1]["device_id"], cuda[1]["user_compute_stream"]) == (1, "4096")


@pytest.mark.usefixtures("libraries")
def test_memory_is_what_nvml_says_of_the_gpu_at_the_same_address() -> None:
    assert opened("cuda:1").memory() == Memory(31, 40, 9)


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetMemoryInfo"])
def test_memory_is_what_cuda_says_where_nvml_cannot_tell(libraries: Libraries, function: str) -> None:
    setattr(libraries.nvml, function, raising(NvmlError("Not Supported")))
    assert opened("cuda:1").memory() == Memory(11, 20, 9)


def test_memory_is_what_cuda_says_where_the_gpu_has_no_address(libraries: Libraries) -> None:
    class Gpu(nullcontext[None]):
        mem_info = (11, 20)
        pci_bus_id = property(raising(CudaError("cudaErrorInvalidDevice")))

    libraries.cuda.Device = lambda index: Gpu()
    assert opened("cuda:1").memory() == Memory(11, 20, 9)


@pytest.mark.parametrize(("mode", "memory"), [([1, 1], Memory(11, 20, 9)), ([0, 1], Memory(31, 40, 9))])
def test_memory_of_a_slice_is_not_that_of_the_whole_gpu(libraries: Libraries, mode: list[int], memory: Memory) -> None:
    libraries.nvml.nvmlDeviceGetMigMode = lambda handle: mode
    assert opened("cuda:1").memory() == memory


def test_a_gpu_that_no_longer_answers_has_no_free_memory(libraries: Libraries) -> None:
    device = opened("cuda:1")
    libraries.nvml.nvmlDeviceGetMemoryInfo = raising(NvmlError("GPU is lost"))
    libraries.cuda.Device = raising(CudaError("cudaErrorIllegalAddress"))
    assert device.memory() == Memory(0, 20, 20)


@pytest.mark.parametrize(("unused", "kept"), [(2, 2), (3, 0)])
def test_what_cupy_holds_for_no_array_goes_back_when_it_is_over_an_eighth(
    libraries: Libraries, unused: int, kept: int
) -> None:
    device = opened("cuda")
    libraries.pool.unused = unused
    device.synchronize()
    assert libraries.pool.unused == kept


@pytest.mark.parametrize("count", [1, 3])
def test_arrays_go_over_ordinary_memory_where_no_more_can_be_pinned(libraries: Libraries, count: int) -> None:
    libraries.cupyx.empty_pinned = raising(CudaError("cudaErrorMemoryAllocation"))
    assert opened("cuda").to_device([np.ones((1, 2), np.int8)] * count).tolist() == [[1, 1]] * count


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

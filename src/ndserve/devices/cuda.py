"""An NVIDIA GPU: CuPy, onnxruntime's CUDA provider on the lane's own stream, and NVML for the memory.

One stream carries everything: copies, kernels and models, in the order in which the lane issues them
(https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, `user_compute_stream`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from textwrap import shorten
from types import ModuleType, TracebackType
from typing import Any, Self

import array_api_compat.cupy
import cupy
import cupyx
import numpy as np
import pynvml

from ndserve.devices.base import DeviceUnavailableError, Memory, Provider
from ndserve.types import Array, HostArray

_RUNNING = (0, 600)
"""What cudaStreamQuery gives for a stream that works: cudaSuccess and cudaErrorNotReady."""

_POOL_SHARE = 8
"""CuPy may keep up to one part in so many of the GPU's memory for arrays to come."""


class CudaDevice:
    """One GPU and one stream on it."""

    # Plain CuPy lacks parts of the standard, such as `device=` and `unstack`.
    xp: ModuleType = array_api_compat.cupy

    def __init__(self, index: int, stream: Any, handle: Any, total: int) -> None:
        """`handle` is NVML's for the same memory, or None where NVML does not tell it; `total` is CUDA's, in bytes."""
        self.name = f"cuda:{index}"
        self._index = index
        self._stream = stream
        self._handle = handle
        self._total = total

    @classmethod
    def open(cls, index: int) -> Self:
        """The GPU with that CUDA index, after it has compiled and run something.

        Raises:
            DeviceUnavailableError: no driver, no such GPU, or one that cannot be used; says what is missing.
        """
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceUnavailableError(f"no NVIDIA driver answers ({error})") from None
        if index >= count:
            raise DeviceUnavailableError(f"there is no GPU {index}; CUDA sees {count}")
        try:
            gpu = cupy.cuda.Device(index)
            with gpu:
                _, total = gpu.mem_info
                # Non-blocking: the null stream, which other libraries use, must not hold it up.
                stream = cupy.cuda.Stream(non_blocking=True)
                with stream:
                    # Half precision, because it alone needs the headers of CUDA, too.
                    cupy.square(cupy.ones(1, np.float16))
                stream.synchronize()
        except Exception as error:  # those of CUDA, of its compiler and of the loader have no common base class
            reason = shorten(f"{type(error).__name__}: {error}", 300)
            raise DeviceUnavailableError(f"GPU {index} cannot be used ({reason})") from None
        return cls(index, stream, _nvml_handle(gpu), total)

    def to_device(self, parts: Sequence[HostArray]) -> Array:
        # Laid end to end where the copy starts from. `asarray` keeps that buffer until the copy is done;
        # `ndarray.set` would not. Where the GPU is full, it frees CuPy's unused memory and tries again by itself.
        first = parts[0]
        shape = first.shape if len(parts) == 1 else (sum(len(part) for part in parts), *first.shape[1:])
        staging = _staging(shape, first.dtype)
        if len(parts) == 1:
            staging[...] = first
        else:
            np.concatenate(parts, out=staging)
        return cupy.asarray(staging)

    def to_host(self, array: Array) -> HostArray:
        # Into ordinary memory: a result may be kept for an hour, and pinned memory is scarce.
        host: HostArray = cupy.asnumpy(array, stream=self._stream)
        return host

    def synchronize(self) -> None:
        self._stream.synchronize()
        # CuPy keeps what arrays have left, where onnxruntime cannot take it: after a large batch, give it back.
        pool = cupy.get_default_memory_pool()
        if pool.free_bytes() > self._total // _POOL_SHARE:
            pool.free_all_blocks()

    def memory(self) -> Memory:
        if self._handle is not None:
            with contextlib.suppress(pynvml.NVMLError):
                info = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
                return Memory(info.free, info.total, info.total - info.free)
        try:
            free, total = cupy.cuda.Device(self._index).mem_info
        except cupy.cuda.runtime.CUDARuntimeError:
            return Memory(0, self._total, self._total)
        return Memory(free, total, total - free)

    def providers(self) -> list[Provider]:
        options = {
            "device_id": self._index,
            "user_compute_stream": str(self._stream.ptr),
            # Take what is asked for, not the next power of two: the model cache counts bytes.
            "arena_extend_strategy": "kSameAsRequested",
            # The default tries every algorithm on each new shape, which stalls for seconds.
            "cudnn_conv_algo_search": "HEURISTIC",
            # Ten bits of mantissa would make the GPU's results differ visibly from the CPU's.
            "use_tf32": "0",
        }
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]

    def healthy(self) -> bool:
        # After an illegal access every call fails until the process ends; `Stream.done` would just say False.
        try:
            with cupy.cuda.Device(self._index):
                return cupy.cuda.runtime.streamQuery(self._stream.ptr) in _RUNNING
        except cupy.cuda.runtime.CUDARuntimeError:
            return False

    def __enter__(self) -> Self:
        # Both are the calling thread's own, and onnxruntime sets no device where it is given a stream.
        cupy.cuda.Device(self._index).use()
        self._stream.use()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cupy.cuda.Stream.null.use()


def _staging(shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostArray:
    """Pinned memory, from which a copy runs without the processor; ordinary memory where no more can be pinned."""
    try:
        pinned: HostArray = cupyx.empty_pinned(shape, dtype)
    except cupy.cuda.runtime.CUDARuntimeError:
        return np.empty(shape, dtype)
    return pinned


def _nvml_handle(gpu: Any) -> Any:
    """NVML's handle of a CuPy device, or None where there is no NVML or it would tell another memory.

    It is found by PCI address: NVML counts all GPUs, CUDA only the visible ones. A slice of a GPU (MIG) has the
    address of the whole, and so NVML would tell the memory of all slices.
    """
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(gpu.pci_bus_id)
    except (pynvml.NVMLError, cupy.cuda.runtime.CUDARuntimeError):
        return None
    return None if _is_sliced(handle) else handle


def _is_sliced(handle: Any) -> bool:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError:  # a GPU or a driver that does not know of slices
        return False
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)

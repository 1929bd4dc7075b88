"""An NVIDIA GPU: CuPy, onnxruntime's CUDA provider on the lane's own stream, and NVML for the memory.

One stream carries everything: copies, kernels and models, in the order in which the lane issues them
(https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html, `user_compute_stream`).
"""

from __future__ import annotations

from collections.abc import Sequence
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


class CudaDevice:
    """One GPU and one stream on it."""

    # Plain CuPy lacks parts of the standard, such as `device=` and `unstack`.
    xp: ModuleType = array_api_compat.cupy

    def __init__(self, index: int, stream: Any, handle: Any) -> None:
        """`handle` is NVML's for the same GPU, or None where NVML cannot be used."""
        self.name = f"cuda:{index}"
        self._index = index
        self._stream = stream
        self._handle = handle

    @classmethod
    def open(cls, index: int) -> Self:
        """The GPU with that CUDA index.

        Raises:
            DeviceUnavailableError: no driver, or no such GPU.
        """
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceUnavailableError(f"no NVIDIA driver answers ({error})") from None
        if index >= count:
            raise DeviceUnavailableError(f"there is no GPU {index}; CUDA sees {count}")
        with cupy.cuda.Device(index):
            # Non-blocking: the null stream, which other libraries use, must not hold it up.
            stream = cupy.cuda.Stream(non_blocking=True)
        return cls(index, stream, _nvml_handle(index))

    def to_device(self, parts: Sequence[HostArray]) -> Array:
        # Laid end to end in pinned memory, from which the copy runs without the processor. `asarray` keeps the
        # pinned buffer until the copy is done; `ndarray.set` would not.
        first = parts[0]
        shape = first.shape if len(parts) == 1 else (sum(len(part) for part in parts), *first.shape[1:])
        staging = cupyx.empty_pinned(shape, first.dtype)
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

    def memory(self) -> Memory:
        if self._handle is None:
            return Memory(*cupy.cuda.Device(self._index).mem_info)
        info = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
        return Memory(info.free, info.total)

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


def _nvml_handle(index: int) -> Any:
    """NVML's handle, found by PCI address: NVML counts all GPUs, CUDA only the visible ones."""
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByPciBusId(cupy.cuda.Device(index).pci_bus_id)
    except pynvml.NVMLError:
        return None

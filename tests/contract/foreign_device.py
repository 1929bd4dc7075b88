"""A device whose arrays refuse what a GPU's arrays refuse: to be read as host arrays, or to be mixed with them.

It is the stand-in for a GPU in the tests. Its arrays are array_api_strict's, on a device that is not the host's.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType, TracebackType
from typing import Self

import array_api_strict
import numpy as np

from ndserve.devices.base import Memory, Provider
from ndserve.types import Array, HostArray

HOST = array_api_strict.Device("CPU_DEVICE")
FOREIGN = array_api_strict.Device("device1")

LACKING = frozenset({"float16"})
"""The wire's dtypes that array_api_strict does not have."""


class ForeignDevice:
    """Follows `ndserve.devices.base.Device`. Arrays come and go only by explicit transfers, which copy."""

    name = "foreign:1"
    xp: ModuleType = array_api_strict

    def to_device(self, parts: Sequence[HostArray]) -> Array:
        host = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return self.xp.asarray(host, copy=True).to_device(FOREIGN)

    def to_host(self, array: Array) -> HostArray:
        if isinstance(array, np.ndarray) and array.dtype.hasobject:
            return array
        return np.array(array.to_device(HOST))

    def synchronize(self) -> None:
        """array_api_strict has finished when it returns."""

    def memory(self) -> Memory:
        return Memory(1 << 30, 1 << 31, 1 << 30)

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

"""What a device is.

To add one: write one file here with a class that follows `Device`, and name its opener in this folder's
lookup (`devices/__init__.py`). Nothing in `model_cache` or `engine` changes.

A lane's thread enters the device (`with device:`) once and alone calls the methods that move or compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

from ndserve.errors import StartupError
from ndserve.types import Array, HostArray

Provider: TypeAlias = str | tuple[str, dict[str, Any]]
"""An onnxruntime execution provider: its name, or its name and options."""


class Memory(NamedTuple):
    """Bytes of the device's memory: free now, in all, and what loading models adds to.

    `used` is compared with itself alone, before and after a load. On the CPU it is what this process takes; on a GPU,
    where the driver may not tell processes apart, what is not free.
    """

    free: int
    total: int
    used: int


class DeviceUnavailableError(StartupError):
    """The device cannot be used here; the message says what is missing."""


class Device(Protocol):
    """Where arrays live and code runs."""

    name: str
    """`cpu` or `cuda:N`: onnxruntime's device type and index."""

    xp: ModuleType
    """The array API namespace of the device's arrays."""

    def to_device(self, parts: Sequence[HostArray]) -> Array:
        """One device array holding `parts` laid end to end along axis 0.

        `parts` is not empty; its members agree in dtype and in all axes but the first. A lone part may be of
        any shape. The result is not to be written to: it may share memory with the part.
        """
        ...

    def to_host(self, array: Array) -> HostArray:
        """The array in the host's memory, complete when this returns. Texts are there already: no device holds any."""
        ...

    def synchronize(self) -> None:
        """Wait until all work given to the device by this thread is done.

        Raises:
            Exception: the device's own error, when some of that work failed.
        """
        ...

    def memory(self) -> Memory:
        """Free and total bytes; callable from any thread. Nothing is free on a device that no longer answers."""
        ...

    def providers(self) -> list[Provider]:
        """The execution providers for onnxruntime, best first."""
        ...

    def healthy(self) -> bool:
        """Whether the device still answers. After a failed batch, False ends the process."""
        ...

    def __enter__(self) -> Self:
        """Make this the calling thread's current device."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

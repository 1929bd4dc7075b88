"""How many bytes of models may be loaded at a time."""

from __future__ import annotations

from ndserve.devices.base import Memory
from ndserve.errors import StartupError

MARGIN = 1024**3
"""Bytes of a GPU that are left for what is neither a model nor an array: the CUDA context, kernels, other programs."""

ARRAYS_SHARE = 8
"""One part in so many of a GPU is left to the arrays of tasks, of which CuPy keeps some for those to come."""


def budget_of(wanted: str, memory: Memory, *, is_gpu: bool) -> int:
    """The budget in bytes for `auto`, a percentage of the device's memory such as `40%`, or a number of bytes.

    `auto` is on a GPU what is free less a margin, and on the CPU half of what is free.

    Raises:
        StartupError: nothing would be left of it, or it is more than the device has.
    """
    if wanted == "auto":
        budget = memory.free - MARGIN - memory.total // ARRAYS_SHARE if is_gpu else memory.free // 2
    elif wanted.endswith("%"):
        budget = int(memory.total * float(wanted[:-1]) / 100)
    else:
        budget = int(wanted)
    if not 0 < budget <= memory.total:
        raise StartupError(
            f"--model-memory {wanted} comes to {budget} bytes: the device has {memory.total} bytes, of which"
            f" {memory.free} are free; give a number of bytes, such as 2GiB"
        )
    return budget

"""A model or process with host arrays on both sides, for trials and warm-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ndserve.devices.base import Device
from ndserve.dtypes import carried, is_narrow
from ndserve.types import Array, HostArray, Tensors


def sent(device: Device, parts: list[HostArray]) -> Array:
    """One input as the call takes it: on the device, or on the host where no device has such elements."""
    dtype = parts[0].dtype
    if dtype.hasobject:
        texts = parts[0].view() if len(parts) == 1 else np.concatenate(parts)
        texts.flags.writeable = False  # as `CpuDevice.to_device` has it
        return texts
    return device.to_device([carried(part) for part in parts] if is_narrow(dtype) else parts)


def host_run(
    device: Device, call: Callable[[Mapping[str, Array]], Mapping[str, Array]]
) -> Callable[[Tensors], Tensors]:
    """The same call with host arrays on both sides."""

    def run(inputs: Tensors) -> Tensors:
        outputs = call({name: sent(device, [array]) for name, array in inputs.items()})
        return {name: device.to_host(array) for name, array in outputs.items()}

    return run

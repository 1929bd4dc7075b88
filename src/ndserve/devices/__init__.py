"""Devices: where arrays live and code runs. `open_device` is the lookup by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from textwrap import shorten

from ndserve.devices.base import Device, DeviceUnavailableError
from ndserve.devices.cpu import CpuDevice
from ndserve.errors import StartupError


def _open_cpu(index: int) -> Device:
    return CpuDevice()


def _open_cuda(index: int) -> Device:
    try:
        # Imported here alone: CuPy is an optional library, and importing it takes a second.
        from ndserve.devices.cuda import CudaDevice
    except ModuleNotFoundError as error:
        missing = "CuPy" if find_spec("cupy") is None else error.name
        raise DeviceUnavailableError(
            f"{missing} is not installed (pip install 'ndserve[cuda12]' or 'ndserve[cuda13]')"
        ) from None
    except ImportError as error:
        # CuPy frames its reason in a page of advice; the cause is the reason itself.
        reason = shorten(str(error.__cause__ or error), 300)
        raise DeviceUnavailableError(f"CuPy is installed but cannot be imported ({reason})") from None
    return CudaDevice.open(index)


OPENERS: dict[str, Callable[[int], Device]] = {"cpu": _open_cpu, "cuda": _open_cuda}


def open_device(name: str) -> tuple[Device, str]:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`, and one line that says why it was chosen.

    `auto` tries CUDA and falls back to the CPU, saying what was missing.

    Raises:
        StartupError: the name is unknown, or that very device cannot be used.
    """
    if name == "auto":
        try:
            return OPENERS["cuda"](0), "a usable GPU was found"
        except DeviceUnavailableError as missing:
            return OPENERS["cpu"](0), f"no GPU can be used: {missing.message}"
    kind, colon, index = name.partition(":")
    if kind not in OPENERS or (colon and (kind == "cpu" or not index.isdecimal())):
        raise StartupError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:N")
    return OPENERS[kind](int(index or 0)), f"asked for by --device {name}"

"""The GPU for the tests, or the reason why there is none."""

from __future__ import annotations

import os
from functools import cache

import pytest

from ndserve.devices import open_device
from ndserve.devices.base import Device
from ndserve.errors import StartupError
from ndserve.model_cache.session import check_runtime


def gpu_or_skip() -> Device:
    """The first GPU. Skips the test without one, and fails it where NDSERVE_REQUIRE_GPU=1."""
    try:
        return _open()
    except StartupError as missing:
        if os.environ.get("NDSERVE_REQUIRE_GPU") == "1":
            pytest.fail(f"NDSERVE_REQUIRE_GPU is 1, but {missing.message}", pytrace=False)
        pytest.skip(f"needs a GPU: {missing.message}")


@cache
def _open() -> Device:
    """One for all tests: opening takes a while. A failure is not remembered."""
    device, _ = open_device("cuda")
    check_runtime(device)
    return device

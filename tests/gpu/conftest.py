"""Fixtures of the tests that need a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ndserve.devices.base import Device
from tests.gpu.opening import gpu_or_skip


@pytest.fixture
def gpu() -> Iterator[Device]:
    """The first GPU, entered by the test's thread."""
    with gpu_or_skip() as device:
        yield device

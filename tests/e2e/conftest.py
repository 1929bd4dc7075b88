"""The servers and pipes of these tests, each ended when its test is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Pipe
from tests.e2e.running import RunningServer, serving


@pytest.fixture
def server() -> Iterator[RunningServer]:
    """A fresh server with the repository's models and the sample processes."""
    with serving() as running:
        yield running


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    made = Pipe(tmp_path / "pipe")
    yield made
    made.release()

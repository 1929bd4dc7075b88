"""One server for each file of tests, and one client for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.http import InferenceServerClient

from tests.e2e.running import RunningServer, serving
from tests.e2e.tritonclient.asking import connected
from tests.e2e.tritonclient.models import write_models


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's model repository: all models of `models.py`."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    with serving(models=models) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[InferenceServerClient]:
    with connected(server) as opened:
        yield opened

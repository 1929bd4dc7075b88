"""A server that keeps its tasks on disk, and is killed and started again on the same data."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.running import COMMAND, MODELS, RunningServer, started

PROCESSES = Path(__file__).with_name("processes")


def command(data: Path, *options: str, port: int = 0) -> list[str]:
    folders = ["--models", str(MODELS), "--processes", str(PROCESSES), "--data-dir", str(data)]
    return [COMMAND, "serve", "--port", str(port), "--device", "cpu", "--log-level", "info", *folders, *options]


@contextmanager
def durable(data: Path, *options: str, port: int = 0) -> Iterator[RunningServer]:
    with started(command(data, *options, port=port)) as server:
        yield server


def kill(server: RunningServer) -> None:
    """End the server as a crash does: at once, and without a word."""
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()

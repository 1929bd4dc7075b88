"""The server as its users run it: a process of its own, which says on stderr where it listens."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
USER_CODE = ROOT / "tests" / "user_code"
PROCESSES = USER_CODE / "processes"
COMMAND = str(Path(sys.executable).with_name("ndserve"))
HANG = 40.0
"""Seconds after which a server that hangs is ended and its test fails. No test waits for it."""


class RunningServer:
    """A started server; `lines` are what it has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.host, self.port = "", 0
        self._new: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def line(self, pattern: str) -> re.Match[str]:
        """Wait for the next line that fits."""
        while True:
            line = self._new.get(timeout=HANG)
            assert line is not None, "the server has ended and said:\n" + "".join(self.lines)
            found = re.search(pattern, line)
            if found:
                return found

    def ready(self) -> None:
        """Wait until it serves."""
        found = self.line(r"(?:ready: |running on )http://([\d.]+):(\d+)")
        self.host, self.port = found[1], int(found[2])

    def terminate(self) -> None:
        """SIGTERM; returns once the server has seen it."""
        self.process.send_signal(signal.SIGTERM)
        self.line("shutting down")

    def exit_code(self) -> int:
        """Wait for its end."""
        return self.process.wait(HANG)

    def end(self) -> None:
        """Kill it if it still lives, and take leave of its output."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(HANG)
        self._reader.join(HANG)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self._new.put(line)
        self._new.put(None)


def environment(**variables: str) -> dict[str, str]:
    """The environment without options of ndserve, and with these variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NDSERVE_")}
    return {**kept, **variables}


@contextmanager
def started(command: Sequence[str], **variables: str) -> Iterator[RunningServer]:
    """A server that serves, and is killed at the end if it still lives."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server = RunningServer(process)
    try:
        server.ready()
        yield server
    finally:
        server.end()


@contextmanager
def serving(*options: str, models: Path = MODELS, **variables: str) -> Iterator[RunningServer]:
    """`ndserve serve` with these models and the sample processes on a free port.

    It keeps its tasks in memory, unless the options name a data directory.
    """
    folders = ["--models", str(models), "--processes", str(PROCESSES)]
    if "--data-dir" not in options and "--store" not in options:
        folders += ["--store", "memory"]
    with started([COMMAND, "serve", "--port", "0", "--device", "cpu", *folders, *options], **variables) as server:
        yield server


def finished(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a command that ends by itself has left."""
    with tempfile.TemporaryDirectory() as data:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment(**{"NDSERVE_DATA_DIR": data, **variables}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG,
        )

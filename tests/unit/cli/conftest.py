from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from ndserve.cli import main
from tests.unit.cli.fake_server import FakeServer


class Done(NamedTuple):
    """What a command has left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Ndserve = Callable[..., Done]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def ndserve(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ndserve:
    """The command line, in process, in a folder of its own."""
    monkeypatch.delenv("NDSERVE_URL", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:  # argparse ends the process
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


@pytest.fixture
def called(ndserve: Ndserve, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Ndserve:
    """The command line, which finds the fake server by itself."""
    monkeypatch.setenv("NDSERVE_URL", server.url)
    return ndserve


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the array [1.5, 2]."""
    path = tmp_path / "in.npy"
    np.save(path, np.array([1.5, 2.0], np.float32))
    return path

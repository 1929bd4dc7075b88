"""The client against a server that is killed and started again in the middle of its work."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ndserve import Client
from tests.e2e.durable import durable, kill
from tests.e2e.running import RunningServer

ITEMS = 20_000
KILL_AFTER = (5_000, 12_000)
"""How many results are there when the server is killed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Undying:
    """A server that is started again on the same port and data as soon as it has been killed."""

    def __init__(self, data: Path) -> None:
        self.starts = 0
        self._data = data
        self._port = free_port()
        self._ended = False
        self._up = threading.Event()
        self._server: RunningServer | None = None
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Undying:
        self._thread.start()
        assert self._up.wait(40)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self.kill()
        self._thread.join(40)

    def kill(self) -> None:
        assert self._up.wait(40)
        self._up.clear()
        assert self._server is not None
        kill(self._server)

    def _serve(self) -> None:
        while not self._ended:
            with durable(self._data, port=self._port) as self._server:
                self.starts += 1
                self._up.set()
                self._server.process.wait()


@pytest.mark.timeout(150)
def test_map_gives_every_result_in_order_over_two_restarts_and_no_task_twice(tmp_path: Path) -> None:
    arrays = (np.array([number, number + 0.5], np.float32) for number in range(ITEMS))
    with Undying(tmp_path) as server, Client(server.url) as client:
        results = client.map("identity", arrays, concurrency=32, progress=False)
        for number, result in enumerate(results):
            if number in KILL_AFTER:
                server.kill()
            assert isinstance(result, np.ndarray)
            assert result.tolist() == [number, number + 0.5]
        assert number == ITEMS - 1
        tasks = Counter((task["task_id"], task["status"]) for task in client.tasks())
        assert server.starts == 1 + len(KILL_AFTER)
    assert len(tasks) == ITEMS
    assert {state for _, state in tasks} == {"succeeded"}
    assert set(tasks.values()) == {1}

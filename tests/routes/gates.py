"""A server whose process `held` stands still until the test opens its gate."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import PROCESSES, floats, npy

HANG = 20.0
"""Seconds after which a test that hangs is ended with an error. No test waits for it."""


class Gate:
    """The gate of the process in `tests/user_code/processes/held.py`, as the last server has loaded it."""

    def __init__(self) -> None:
        module: Any = sys.modules["ndserve_user_processes.held"]
        self._reached, self._opened = module.REACHED, module.OPENED

    def reached(self) -> None:
        """Wait until the process stands at the gate."""
        assert self._reached.wait(HANG), "nobody has come to the gate"

    def open(self) -> None:
        self._opened.set()


@contextmanager
def serving_held(**options: Any) -> Iterator[tuple[InProcessServer, Gate]]:
    with serving(processes=PROCESSES, **options) as server:
        gate = Gate()
        try:
            yield server, gate
        finally:
            gate.open()


def submit_held(server: InProcessServer, gate: Gate) -> str:
    """A task that runs and stands at the gate; gives its id."""
    answer = server.http.post("/tasks/held", content=npy(floats(2)))
    assert answer.status_code == 202, answer.text
    gate.reached()
    task_id: str = answer.json()["task_id"]
    return task_id

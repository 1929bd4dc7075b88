"""For your own tests: the whole server in process, on the CPU, with nothing kept afterwards.

In `conftest.py`::

    pytest_plugins = ["ndserve.testing"]

In `pyproject.toml`, where your code lies (each is optional)::

    [tool.pytest.ini_options]
    ndserve_models = "models"
    ndserve_processes = "processes"
    ndserve_routes = "routes"

and then::

    def test_double_doubles(ndserve):
        assert ndserve.run("double", np.ones(3)).tolist() == [2, 2, 2]
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

from ndserve.engine.service import InferenceService
from ndserve.main import create_app
from ndserve.settings import Settings
from ndserve.types import HostArray, Parameter

WAIT_SECONDS = 30

URL = "http://127.0.0.1:8076"
"""Where the server in process seems to be: what a user of this machine may do, its tests may do."""


class InProcessServer:
    """A server without a socket. `http` sends requests; `service` is the engine behind them."""

    def __init__(self, http: TestClient, service: InferenceService) -> None:
        self.http = http
        self.service = service

    def run(
        self, target: str, inputs: HostArray | Mapping[str, HostArray], **parameters: Parameter
    ) -> HostArray | dict[str, HostArray]:
        """Submit, wait, and give the result: one array, or a dict of arrays where there are several.

        Raises:
            AssertionError: the server refused the arrays or the task failed; holds the server's answer.
        """
        body = io.BytesIO()
        if isinstance(inputs, Mapping):
            np.savez(body, **{name: np.asarray(array) for name, array in inputs.items()})  # type: ignore[arg-type]
        else:
            np.save(body, np.asarray(inputs), allow_pickle=False)
        query: dict[str, Any] = {"wait": WAIT_SECONDS, **parameters}
        answer = self.http.post(f"/tasks/{quote(target, safe='')}", params=query, content=body.getvalue())
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        loaded = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else dict(loaded)


@contextmanager
def serving(
    models: str | Path | None = None,
    processes: str | Path | None = None,
    routes: str | Path | None = None,
    **options: Any,
) -> Iterator[InProcessServer]:
    """A started server: `--device cpu --store memory --no-watch`, with these folders and any other option by its name.

    Raises:
        StartupError: it cannot be served as configured.
    """
    folders = {"models": models, "processes": processes, "routes": routes}
    options |= {name: Path(folder) for name, folder in folders.items() if folder is not None}
    app = create_app(Settings(**{"device": "cpu", "store": "memory", "watch": False, **options}))
    with TestClient(app, base_url=URL) as http:
        yield InProcessServer(http, app.state.service)


def pytest_addoption(parser: pytest.Parser) -> None:
    for name in ("models", "processes", "routes"):
        parser.addini(f"ndserve_{name}", f"Folder of {name} for the ndserve fixture.", default="")


@pytest.fixture
def ndserve(pytestconfig: pytest.Config) -> Iterator[InProcessServer]:
    """A server with the folders that the pytest options `ndserve_models`, `_processes` and `_routes` name."""
    folders = {name: pytestconfig.getini(f"ndserve_{name}") for name in ("models", "processes", "routes")}
    with serving(**{name: pytestconfig.rootpath / folder for name, folder in folders.items() if folder}) as server:
        yield server

"""The files in docs/extending.md work as they stand."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ndserve.testing import InProcessServer, serving
from tests.docs.blocks import DOCS, blocks_of, clean_environment, commands_of, write_files

EXTENDING = DOCS / "extending.md"

COVERED = {
    "./scripts/serve --models my/models --processes my/processes --routes my/routes\n",
    ".venv/bin/python my/make_model.py\n.venv/bin/python -m pytest my\n",
}
"""The commands of the guide: what follows does the same in a folder of its own."""


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the guide, and the model that one of them makes."""
    folder = tmp_path_factory.mktemp("extending")
    write_files(EXTENDING, folder)
    runpy.run_path(str(folder / "my/make_model.py"))
    return folder / "my"


@pytest.fixture(scope="module")
def server(user_folder: Path) -> Iterator[InProcessServer]:
    folders = {name: user_folder / name for name in ("models", "processes", "routes")}
    with serving(**folders) as started:
        yield started


def test_the_process_of_the_guide_runs(server: InProcessServer) -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    result = server.run("contrast", image, strength=2.0)
    assert isinstance(result, dict)
    np.testing.assert_allclose(result["image"], 5.5 + 2 * (image - 5.5), rtol=1e-6)
    np.testing.assert_allclose(result["spread"], image.std(), rtol=1e-6)


def test_the_process_of_the_guide_takes_a_whole_batch(server: InProcessServer) -> None:
    result = server.run("contrast", np.zeros((5, 3, 4), np.uint8))
    assert isinstance(result, dict)
    assert result["spread"].tolist() == [0] * 5


def test_the_model_of_the_guide_runs_with_the_options_of_its_file(server: InProcessServer) -> None:
    result = server.run("amplify", np.ones((2, 3), np.float32))
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [[1, 2, 3]] * 2
    (version,) = server.http.get("/models/amplify").json()
    assert version["state"] == "READY"
    assert version["batching"]["mode"] == "on"
    assert version["batching"]["max_batch_size"] == 64
    assert version["batching"]["max_wait_ms"] == 2


def test_the_route_of_the_guide_answers(server: InProcessServer) -> None:
    assert server.http.post("/loudest", json=[3, 2, 0]).json() == {"loudest": 1}


def test_a_wrong_input_to_the_route_of_the_guide_is_a_problem(server: InProcessServer) -> None:
    answer = server.http.post("/loudest", json=[3, 2])
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_input"


def test_the_tests_of_the_guide_pass(user_folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "my"]
    done = subprocess.run(
        command, cwd=user_folder.parent, env=clean_environment(), capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_every_block_of_the_guide_is_a_file_or_a_command_that_is_covered() -> None:
    assert {block.text for block in commands_of(EXTENDING)} == COVERED
    others = [str(block) for block in blocks_of(EXTENDING) if block.file is None and block.language != "sh"]
    assert others == []

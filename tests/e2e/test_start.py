"""Starting the server as the README says, its command line, and what it says when it cannot start."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ndserve import __version__
from ndserve.devices import open_device
from ndserve.errors import StartupError
from tests.e2e.client import Answer
from tests.e2e.running import COMMAND, MODELS, ROOT, USER_CODE, RunningServer, finished, started


def has_gpu() -> bool:
    try:
        open_device("cuda")
    except StartupError:
        return False
    return True


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The README's command, on a free port and with its data elsewhere."""
    data = tmp_path_factory.mktemp("data")
    with started([str(ROOT / "scripts" / "serve"), "--port", "0", "--data-dir", str(data)], EXTRA="cpu") as running:
        yield running


def test_the_script_says_what_is_served_and_where(script: RunningServer) -> None:
    text = "".join(script.lines)
    assert "device: " in text
    assert "models: digits/1" in text
    assert "normalize" in text.partition("processes: ")[2]
    assert f"ready: {script.url} (documentation at /docs)" in text


def test_the_first_task_of_the_readme_reads_a_seven(script: RunningServer) -> None:
    body = (MODELS / "digits" / "samples" / "digit_7.npy").read_bytes()
    submit = urllib.request.Request(f"{script.url}/process_np_array?model=digits", data=body)
    with urllib.request.urlopen(submit, timeout=20) as answer:
        assert answer.status == 202
        task_id = json.load(answer)["task_id"]
    with urllib.request.urlopen(f"{script.url}/result/{task_id}?wait=20", timeout=30) as answer:
        assert int(np.argmax(Answer(answer.status, answer.read()).array)) == 7


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_help_ends_well(arguments: list[str]) -> None:
    done = finished(COMMAND, *arguments)
    assert done.returncode == 0
    assert "usage: ndserve" in done.stdout


def test_the_module_gives_the_version() -> None:
    done = finished(sys.executable, "-m", "ndserve", "--version")
    assert (done.returncode, done.stdout) == (0, f"ndserve {__version__}\n")


def test_an_unknown_option_ends_with_code_2() -> None:
    done = finished(COMMAND, "serve", "--prot", "1")
    assert done.returncode == 2
    assert "--prot" in done.stderr


def test_a_value_that_cannot_be_ends_with_code_2_and_one_line() -> None:
    done = finished(COMMAND, "serve", "--log-level", "loud")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--log-level" in line
    assert "loud" in line


def test_a_broken_process_file_ends_with_code_2_and_its_file_and_line(tmp_path: Path) -> None:
    shutil.copy(USER_CODE / "broken" / "raises_on_import.py", tmp_path)
    done = finished(COMMAND, "serve", "--device", "cpu", "--processes", str(tmp_path))
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("ndserve: ")]
    assert errors == [f"ndserve: {tmp_path / 'raises_on_import.py'}:5: ValueError: math domain error"]
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_ends_with_code_2_and_one_line() -> None:
    done = finished(COMMAND, "serve", "--device", "cuda")
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if line.startswith("ndserve: ")]) == 1
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_ends_with_code_3_and_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = finished(COMMAND, "serve", "--device", "cpu", "--port", port)
    assert done.returncode == 3
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_to_preload_that_does_not_load_ends_with_code_3(tmp_path: Path) -> None:
    from tests import onnx_models

    onnx_models.save(onnx_models.double(), tmp_path, "double")
    options = ["--device", "cpu", "--models", str(tmp_path), "--model-memory", "1", "--preload", "double"]
    done = finished(COMMAND, "serve", "--port", "0", *options)
    assert done.returncode == 3
    assert "double" in done.stderr

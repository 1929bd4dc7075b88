"""How the repository is made: the length of files, what an import needs, and what the extras install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 350
FOLDERS = ("src", "tests", "benchmarks", "scripts")

IMPORT_ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("ndserve", "numpy"):
            raise ModuleNotFoundError(f"ndserve has imported {name}")

sys.meta_path.insert(0, Refuse())
import ndserve

@ndserve.process("double", batched=True)
def double(xp, x):
    return x * 2

import numpy as np
assert double(np, np.ones(3)).tolist() == [2, 2, 2]
"""


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_longer_than_350_lines(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    lengths = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in files}
    assert lengths
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_a_process_is_written_and_called_with_numpy_alone() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALONE], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr


def _extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    return extras


def _version(extra: str, package: str) -> str:
    """What follows the package's name, and its own extras, in one of ndserve's extras."""
    (line,) = [line for line in _extras()[extra] if line.partition(">")[0].partition("[")[0] == package]
    return line[line.index(">") :]


def test_numpy_is_the_only_package_that_ndserve_always_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [line.partition(">")[0] for line in project["dependencies"]] == ["numpy"]


def test_the_cpu_extra_has_the_runtime_without_cuda() -> None:
    assert _version("cpu", "onnxruntime")
    assert not [line for line in _extras()["cpu"] if "gpu" in line or "cupy" in line]


def test_cuda_12_takes_the_onnxruntime_and_the_cupy_built_for_it() -> None:
    assert _version("cuda12", "onnxruntime-gpu") == ">=1.24,<1.27"
    assert _version("cuda12", "cupy-cuda12x")


def test_cuda_13_takes_the_onnxruntime_and_the_cupy_built_for_it() -> None:
    assert _version("cuda13", "onnxruntime-gpu") == ">=1.28"
    assert _version("cuda13", "cupy-cuda13x")


def test_cuda_alone_means_cuda_12() -> None:
    assert _extras()["cuda"] == ["ndserve[cuda12]"]


@pytest.mark.parametrize("extra", ["cuda12", "cuda13"])
def test_every_cuda_extra_can_ask_the_driver_for_its_memory(extra: str) -> None:
    assert _version(extra, "nvidia-ml-py")

"""What the tests of the routes share: folders, bodies, and how to read answers."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ndserve.types import HostArray

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
SAMPLES = MODELS / "digits" / "samples"
USER_CODE = ROOT / "tests" / "user_code"
PROCESSES = USER_CODE / "processes"
ROUTES = USER_CODE / "routes"

NPY = "application/x-npy"
NPZ = "application/x-npz"
JSON = "application/json"
PROBLEM = "application/problem+json"


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, np.asarray(array), allow_pickle=False)
    return body.getvalue()


def npz(**arrays: Any) -> bytes:
    body = io.BytesIO()
    np.savez(body, allow_pickle=False, **arrays)
    return body.getvalue()


def array_of(content: bytes) -> HostArray:
    array = np.load(io.BytesIO(content), allow_pickle=False)
    assert isinstance(array, np.ndarray)
    return array


def arrays_of(content: bytes) -> dict[str, HostArray]:
    return dict(np.load(io.BytesIO(content), allow_pickle=False))


def floats(*shape: int) -> HostArray:
    """0, 1, 2, … in that shape."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def digit(number: int) -> HostArray:
    array: HostArray = np.load(SAMPLES / f"digit_{number}.npy")
    return array


def broken(name: str, folder: Path) -> Path:
    """A folder that holds that one broken file, and the file."""
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(USER_CODE / "broken" / f"{name}.py", folder))


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer that must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    document: dict[str, Any] = answer.json()
    assert document.keys() >= {"type", "title", "status", "code", "detail"}
    assert document["type"] == "about:blank"
    assert (document["status"], document["code"]) == (status, code)
    return document

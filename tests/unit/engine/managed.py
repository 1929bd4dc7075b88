"""A service under management, with a repository on disk and models that a test can see and steer.

A model multiplies by its revision plus one: what has been loaded instead of the first gives other results.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from ndserve.engine.management import Entry, Management
from ndserve.engine.service import InferenceService
from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk import repository
from ndserve.model_cache.session import Session
from ndserve.model_info import ModelInfo
from ndserve.processes.base import Process
from ndserve.types import Array
from tests import onnx_models
from tests.unit.engine.rig import FakeSession, Gate, Shelf, all_closed, item, serving

X = item(1, 2, 3, 4)
HELD = item(99, 0, 0, 0)
"""What stands at the gate."""

BAD = item(-99, 0, 0, 0)
"""What fails the batch that it is in."""

ALONE = 'batching = "off"'
"""The model.toml of a model that is not probed, so that it loads while the lane is busy."""


class Revisions(Shelf):
    """Opens any file; the gate holds a run that has HELD in it."""

    def __init__(self, gate: Gate | None = None) -> None:
        super().__init__()
        self.gate = gate or Gate()
        self.revisions: list[int] = []

    def open(self, info: ModelInfo) -> Session:
        self.opened.append(info.name)
        self.revisions.append(info.revision)
        self.on_open(info)
        return cast(Session, FakeSession(info, partial(self._run, info.revision + 1)))

    def _run(self, factor: int, array: Array) -> Array:
        if bool((array[:, 0] == HELD[0]).any()):
            self.gate.hold()
        if bool((array[:, 0] == BAD[0]).any()):
            raise ValueError("bad")
        return array * np.float32(factor)


def lay(root: Path, name: str = "m", version: int = 1, options: str = "", axes: Any = ("batch", 4)) -> Path:
    """Put a model into the repository, in the place of the one that is there; gives its file."""
    path = root / name / str(version) / "model.onnx"
    path.unlink(missing_ok=True)
    for folder in (path.parent, path.parent.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if path.parent.is_dir():
        path.parent.rmdir()
    return onnx_models.save(onnx_models.double(axes), root, name, version, options)


def sent(axes: Any = ("batch", 4)) -> dict[str, bytes]:
    """The files of a model as a client sends them."""
    content: bytes = onnx_models.double(axes).SerializeToString()
    return {"1/model.onnx": content}


@asynccontextmanager
async def managing(
    root: Path, *processes: Process, shelf: Revisions | None = None, **options: Any
) -> AsyncIterator[tuple[Management, InferenceService]]:
    """A started service for what lies in the repository, and its management; `options` are those of `rig.serving`."""
    shelf = shelf or Revisions()
    options = {"models": repository.scan(root), "shelf": shelf, "budget": 1 << 20, "gates": [shelf.gate], **options}
    async with serving(*processes, **options) as service:
        management = Management(service, root)
        try:
            yield management, service
        finally:
            shelf.gate.open()
            await management.close()


async def factor(service: InferenceService, name: str = "m") -> float:
    """What the model that answers now multiplies by."""
    return float((await service.infer(name, X))["y"][0])


async def let_go(management: Management) -> None:
    """Wait until everything that is retired has been forgotten."""
    await management.retiring.all_gone()
    await all_closed(management.service)


async def states(management: Management) -> list[tuple[str, str, str]]:
    return [(entry.name, entry.version, entry.state) for entry in await management.index()]


async def entry(management: Management, name: str) -> Entry:
    (found,) = [entry for entry in await management.index() if entry.name == name]
    return found


def versions(service: InferenceService) -> list[str]:
    """Which of m's there are."""
    return [target.version for target in service.targets.versions("m")]


def default(service: InferenceService) -> str:
    """Which of m's answers."""
    found = service.targets.default("m")
    assert found is not None
    return found.version


def breaks(*numbers: str) -> Revisions:
    """A shelf on which these versions do not load."""

    def open_or_not(info: ModelInfo) -> None:
        if info.version in numbers:
            raise ModelLoadError(f"{info.name}/{info.version} is torn")

    shelf = Revisions()
    shelf.on_open = open_or_not
    return shelf


async def refresh(management: Management, root: Path) -> None:
    """Have m follow its folder."""
    await management.takeover.refresh("m", root)

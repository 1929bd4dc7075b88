"""What is known of a model before it is loaded: plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ndserve.types import TensorSpec

ModelKey: TypeAlias = tuple[str, str, int]
"""A model's name, version and revision."""


@dataclass(frozen=True, slots=True)
class Batching:
    """Whether a target's tasks may be stacked, and why.

    `untested` means that the probe waits for the first real request; until then tasks run alone.
    """

    mode: Literal["on", "off", "untested"]
    reason: str


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """A model's own `model.toml`; None leaves the server's default in force."""

    max_batch_size: int | None = None
    max_wait_ms: float | None = None
    batching: Literal["auto", "off"] = "auto"
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One version of a model as it lies on disk. `nbytes` counts the file and its external data.

    `problem` says why it cannot be served; it is empty for a model that looks right. `stamp` tells whether its files
    have changed, and `revision` which of several that the server has had under this name and version it is. `change`
    names what a client has changed about it; it is empty for a model as it lies in the repository.
    """

    name: str
    version: str
    path: Path
    nbytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: ModelOptions = ModelOptions()
    problem: str = ""
    stamp: tuple[int, ...] = field(default=(), compare=False)
    revision: int = 0
    change: str = ""

    @property
    def key(self) -> ModelKey:
        return self.name, self.version, self.revision

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


Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""A shape for each input, by name."""

ProviderOptions: TypeAlias = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""Options of onnxruntime's execution providers, as onnxruntime takes them: texts, by the provider's short name."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """A model's own `model.toml`; None leaves the server's default in force.

    `warmup` are the inputs' shapes to run before the model is ready; the empty tuple asks for none. `providers` are
    the execution providers to use, best first, by their short names; those that the device does not have are left out.
    """

    max_batch_size: int | None = None
    max_wait_ms: float | None = None
    batching: Literal["auto", "off"] = "auto"
    pinned: bool = False
    warmup: tuple[Shapes, ...] | None = None
    providers: tuple[str, ...] | None = None
    provider_options: ProviderOptions = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One version of a model as it lies on disk. `nbytes` counts the file and its external data.

    `largest` is the size of its largest weight: so much more may be needed while it is loaded. `external` are the
    files of its external data. `problem` says why it cannot be served; it is empty for a model that looks right.
    `stamp` tells whether its files have changed, and `revision` which of several that the server has had under this
    name and version it is. `change` names what a client has changed about it; it is empty for a model as it lies in
    the repository.
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
    largest: int = 0
    external: tuple[Path, ...] = ()

    @property
    def key(self) -> ModelKey:
        return self.name, self.version, self.revision

"""Models and processes as the management routes tell of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from ndserve.engine.management import Management
from ndserve.engine.target import Target
from ndserve.model_cache.costs import OVERHEAD
from ndserve.model_cache.residency import State
from ndserve.model_info import ModelInfo
from ndserve.types import Parameter, TensorSpec, name_of


class Tensor(BaseModel):
    """An input or output. A null dtype or shape takes any; a null axis is free."""

    name: str
    dtype: str | None
    shape: list[int | None] | None

    @classmethod
    def of(cls, spec: TensorSpec) -> Tensor:
        shape = None if spec.shape is None else list(spec.shape)
        return cls(name=spec.name, dtype=spec.dtype and name_of(spec.dtype), shape=shape)


class BatchingView(BaseModel):
    """Whether tasks may share a batch, and why."""

    mode: Literal["on", "off", "untested"]
    reason: str
    max_batch_size: int
    max_wait_ms: float

    @classmethod
    def of(cls, target: Target) -> BatchingView:
        return cls(
            mode=target.batching.mode,
            reason=target.batching.reason,
            max_batch_size=target.max_batch_size,
            max_wait_ms=target.max_wait * 1000,
        )


class BytesView(BaseModel):
    """What a version takes: its files, what it is expected to take in memory, and what it was measured to take."""

    file: int
    predicted: int
    measured: int | None


class ModelView(BaseModel):
    """One version of a model. Figures are since it was found; times are UTC."""

    name: str
    version: str
    default: bool
    state: State
    reason: str | None
    device: str
    bytes: BytesView
    leases: int
    pinned: bool
    last_used: str | None
    hits: int
    loads: int
    evictions: int
    load_seconds: float | None
    digest: str | None
    inputs: list[Tensor]
    outputs: list[Tensor]
    batching: BatchingView | None


class ProcessView(BaseModel):
    """A process. Its outputs are known only when it has run."""

    name: str
    description: str
    inputs: list[Tensor]
    parameters: dict[str, Parameter]
    models: list[str]
    batching: BatchingView

    @classmethod
    def of(cls, target: Target) -> ProcessView:
        assert target.process is not None
        return cls(
            name=target.name,
            description=(target.process.function.__doc__ or "").strip().partition("\n")[0],
            inputs=[Tensor.of(spec) for spec in target.inputs],
            parameters=dict(target.parameters),
            models=[info.name for info in target.models],
            batching=BatchingView.of(target),
        )


class MemoryView(BaseModel):
    """The model cache: its budget, what is booked of it, and what it has done."""

    budget_bytes: int
    bytes: int
    loads: int
    evictions: int


class Catalogue(BaseModel):
    """Everything that tasks can be sent to."""

    models: list[ModelView]
    processes: list[ProcessView]
    memory: MemoryView


def catalogue(management: Management) -> Catalogue:
    """Everything, by name and version."""
    service = management.service
    cache = service.cache
    return Catalogue(
        models=versions(management),
        processes=[ProcessView.of(target) for target in service.targets if target.kind == "process"],
        memory=MemoryView(budget_bytes=cache.budget, bytes=cache.nbytes, loads=cache.loads, evictions=cache.evictions),
    )


def view_of(management: Management, info: ModelInfo) -> ModelView:
    """A version that has just been uploaded, also where something else answers to its name."""
    target = management.service.targets.served(info.name, info.version)
    if target is not None and target.models[0].key == info.key:
        return _view(management, info, target, "")
    return _view(management, info, None, f"it does not answer: {info.name!r} is unloaded, or as a client has sent it")


def versions(management: Management, name: str | None = None) -> list[ModelView]:
    """The versions of all models, or of one: served, withdrawn and of no use."""
    targets = management.service.targets
    found = [
        _view(management, target.models[0], target, management.takeover.faults.get((target.name, target.version), ""))
        for target in targets
        if target.kind == "model" and name in (None, target.name)
    ]
    found += [
        _view(management, target.models[0], target, reason)
        for known, (gone, reason) in targets.withdrawn.items()
        if known not in targets.processes and name in (None, known)
        for target in gone
    ]
    found += [
        _view(management, info, None, info.problem)
        for (known, _), info in targets.broken.items()
        if name in (None, known)
    ]
    return sorted(found, key=lambda model: (model.name, int(model.version)))


def _view(management: Management, info: ModelInfo, target: Target | None, reason: str) -> ModelView:
    service = management.service
    known, cost = service.cache.known(info), service.cache.cost(info)
    default = service.targets.default(info.name)
    state: State = known.state
    if service.cache.loading(info):
        state = "LOADING"
    elif info.problem:
        state = "FAILED"
    elif target is not None and management.retiring.has(target):
        state = "UNLOADING"
    return ModelView(
        name=info.name,
        version=info.version,
        default=target is not None and target is default,
        state=state,
        reason=info.problem or known.problem or reason or None,
        device=service.lane.device.name,
        bytes=BytesView(
            file=info.nbytes,
            predicted=info.nbytes + OVERHEAD,
            measured=cost.resident if cost is not None and cost.measured else None,
        ),
        leases=known.leases,
        pinned=known.pinned,
        last_used=_time(known.last_used),
        hits=known.hits,
        loads=known.loads,
        evictions=known.evictions,
        load_seconds=known.load_seconds if known.loads else None,
        digest=f"sha256:{digest}" if (digest := service.cache.digest(info)) is not None else None,
        inputs=[Tensor.of(spec) for spec in info.inputs],
        outputs=[Tensor.of(spec) for spec in info.outputs],
        batching=None if target is None else BatchingView.of(target),
    )


def _time(seconds: float) -> str | None:
    """Unix seconds as RFC 3339 has them."""
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

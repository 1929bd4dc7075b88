"""What can be asked for: models and processes."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from ndserve.engine.targets import Target
from ndserve.errors import UnknownTargetError
from ndserve.model_info import ModelInfo
from ndserve.routes.base import Service
from ndserve.types import Parameter, TensorSpec, name_of

router = APIRouter(tags=["models"])


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


class ModelView(BaseModel):
    """One version of a model."""

    name: str
    version: str
    state: Literal["unloaded", "loading", "ready", "failed"]
    reason: str | None = None
    bytes: int
    leases: int = 0
    load_seconds: float | None = None
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    batching: BatchingView | None = None


class ProcessView(BaseModel):
    """A process. Its outputs are known only when it has run."""

    name: str
    description: str
    inputs: list[Tensor]
    parameters: dict[str, Parameter]
    models: list[str]
    batching: BatchingView


class Catalogue(BaseModel):
    """Everything that tasks can be sent to."""

    models: list[ModelView]
    processes: list[ProcessView]


@router.get("/models", summary="All models and processes")
async def list_models(service: Service) -> Catalogue:
    targets = list(service.targets)
    models = [_model(service, target.models[0], target) for target in targets if target.kind == "model"]
    broken = [_model(service, info, None) for info in service.targets.broken.values()]
    withdrawn = [
        _model(service, target.models[0], target).model_copy(update={"reason": reason})
        for name, (gone, reason) in service.targets.withdrawn.items()
        if name not in service.targets.processes
        for target in gone
    ]
    return Catalogue(
        models=sorted([*models, *broken, *withdrawn], key=lambda model: (model.name, int(model.version))),
        processes=[_process(target) for target in targets if target.kind == "process"],
    )


@router.get("/models/{name}", summary="The versions of one model")
async def get_model(service: Service, name: str) -> list[ModelView]:
    versions = [model for model in (await list_models(service)).models if model.name == name]
    if not versions:
        raise UnknownTargetError(f"no model is called {name!r}; GET /models lists what there is")
    return versions


def _model(service: Service, info: ModelInfo, target: Target | None) -> ModelView:
    resident = service.cache.resident(info)
    problem = info.problem or service.cache.problem(info)
    loading = service.cache.loading(info)
    return ModelView(
        name=info.name,
        version=info.version,
        state="ready" if resident else "loading" if loading else "failed" if problem else "unloaded",
        reason=problem or None,
        bytes=info.nbytes,
        leases=resident.leases if resident else 0,
        load_seconds=resident.load_seconds if resident else None,
        inputs=[Tensor.of(spec) for spec in info.inputs],
        outputs=[Tensor.of(spec) for spec in info.outputs],
        batching=_batching(target) if target else None,
    )


def _process(target: Target) -> ProcessView:
    assert target.process is not None
    return ProcessView(
        name=target.name,
        description=(target.process.function.__doc__ or "").strip().partition("\n")[0],
        inputs=[Tensor.of(spec) for spec in target.inputs],
        parameters=dict(target.parameters),
        models=[info.name for info in target.models],
        batching=_batching(target),
    )


def _batching(target: Target) -> BatchingView:
    return BatchingView(
        mode=target.batching.mode,
        reason=target.batching.reason,
        max_batch_size=target.max_batch_size,
        max_wait_ms=target.max_wait * 1000,
    )

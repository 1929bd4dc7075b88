"""Is it alive, is it ready, and what is it?"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from ndserve import __version__
from ndserve.routes.base import Known, Service

router = APIRouter(tags=["system"])


@router.get("/", summary="What this is and where to go on")
async def index() -> dict[str, str]:
    return {
        "name": "ndserve",
        "version": __version__,
        "docs": "/docs",
        "models": "/models",
        "health": "/health",
        "submit": "POST /process_np_array?model=NAME",
        "result": "GET /result/{task_id}?wait=SECONDS",
    }


@router.get("/health", summary="State, device and figures since the start")
async def health(service: Service, known: Known, response: Response) -> dict[str, Any]:
    state = _state(service)
    response.status_code = 200 if state == "ready" else 503
    # A load balancer needs no more; what the machine is and how busy is for those who may use it.
    if not known:
        return {"status": state, "version": __version__}
    device = service.lane.device
    memory = device.memory()
    return {
        "status": state,
        "reason": service.dead or None,
        "version": __version__,
        "device": {"name": device.name, "free_bytes": memory.free, "total_bytes": memory.total},
        **service.stats(),
    }


@router.get("/health/live", summary="200 while the process answers")
async def live() -> dict[str, bool]:
    return {"live": True}


@router.get("/health/ready", summary="200 while new tasks are taken, else 503")
async def ready(service: Service, response: Response) -> dict[str, bool]:
    is_ready = _state(service) == "ready"
    response.status_code = 200 if is_ready else 503
    return {"ready": is_ready}


for path, probe in (("/health", health), ("/health/live", live), ("/health/ready", ready)):
    router.head(path, include_in_schema=False)(probe)  # as load balancers ask


def _state(service: Service) -> str:
    return "dead" if service.dead else "closing" if service.closing else "ready"

"""What a route is.

To add one: write one file in the folder that `--routes` names, with an `APIRouter` called `router`::

    import numpy as np
    from fastapi import APIRouter
    from ndserve.routes import Service

    router = APIRouter()

    @router.post("/digit")
    async def digit(service: Service, pixels: list[list[float]]) -> dict[str, int]:
        outputs = await service.infer("digits", np.array(pixels, np.float32))
        return {"digit": int(outputs["probabilities"].argmax())}

Its paths must not be ndserve's own. Routes of ndserve itself are files in this folder, which `main.py` includes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from ndserve.engine.management import Management
from ndserve.engine.publishing import Publishing
from ndserve.engine.service import InferenceService
from ndserve.engine.tasks import Tasks
from ndserve.errors import StartupError
from ndserve.processes.base import import_folder
from ndserve.routes.gate import Gate


def _service(request: Request) -> InferenceService:
    service: InferenceService = request.app.state.service
    return service


def _tasks(request: Request) -> Tasks:
    tasks: Tasks = request.app.state.tasks
    return tasks


def _management(request: Request) -> Management:
    management: Management = request.app.state.management
    return management


def _publishing(request: Request) -> Publishing:
    publishing: Publishing = request.app.state.publishing
    return publishing


def _is_known(request: Request) -> bool:
    gate: Gate = request.app.state.gate
    return gate.knows(request.scope)


Service = Annotated[InferenceService, Depends(_service)]
"""The running InferenceService, as a parameter of a route."""

TasksOf = Annotated[Tasks, Depends(_tasks)]
"""Its tasks."""

ManagementOf = Annotated[Management, Depends(_management)]
"""What is served, and changes of it."""

PublishingOf = Annotated[Publishing, Depends(_publishing)]
"""What lies in the repository, and changes of it."""

Known = Annotated[bool, Depends(_is_known)]
"""Whether the caller of an open route has a key in force, or none is asked for."""


def load_routers(folder: Path) -> list[APIRouter]:
    """The routers of a user's folder: every `*.py` in it that does not begin with `_`.

    Raises:
        StartupError: the folder is missing, or a file cannot be imported or has no router; names the file.
    """
    routers = []
    for module in import_folder(folder, "ndserve_user_routes"):
        router = getattr(module, "router", None)
        if not isinstance(router, APIRouter):
            raise StartupError(f"{module.__file__}: no fastapi.APIRouter called router")
        routers.append(router)
    return routers

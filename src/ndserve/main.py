"""The composition root: everything is made and wired here, and nowhere else.

`uvicorn ndserve.main:app` works; `ndserve serve` adds draining on SIGTERM and its own exit codes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import APIRouter

from ndserve import __version__
from ndserve.devices import open_device
from ndserve.devices.base import Device, DeviceUnavailableError
from ndserve.engine.courier import Courier
from ndserve.engine.following import Follower
from ndserve.engine.lane import Lane
from ndserve.engine.ledger import Ledger
from ndserve.engine.management import Management
from ndserve.engine.publishing import Publishing
from ndserve.engine.service import InferenceService, QueueBounds
from ndserve.engine.target import BatchDefaults, Target
from ndserve.engine.targets import Targets
from ndserve.engine.tasks import Tasks
from ndserve.errors import InvalidParameterError, NdserveError, StartupError
from ndserve.model_cache.budget import budget_of
from ndserve.model_cache.cache import ModelCache, Patience
from ndserve.model_cache.costs import Costs
from ndserve.model_cache.disk import repository
from ndserve.model_cache.disk.digests import AllowedDigests
from ndserve.model_cache.disk.sent import remove_left_over
from ndserve.model_cache.disk.uploads import clean_up
from ndserve.model_cache.disk.watching import changed_names
from ndserve.model_cache.loader import Loader
from ndserve.model_cache.optimized import OptimizedModels
from ndserve.model_cache.session import RUNTIME, Session, check_runtime
from ndserve.model_info import ModelInfo
from ndserve.processes.base import Process, builtin_processes, load_processes
from ndserve.routes import models, system
from ndserve.routes import tasks as task_routes
from ndserve.routes.app import App
from ndserve.routes.asgi import Intake
from ndserve.routes.base import load_routers
from ndserve.routes.front import Front
from ndserve.routes.gate import open_gate
from ndserve.routes.hot import HotRoutes
from ndserve.routes.open_inference import OpenInferenceRoutes
from ndserve.routes.options import RESERVED
from ndserve.settings import Settings
from ndserve.stores import open_store
from ndserve.types import join_names
from ndserve.webhooks import Guard, Secret, Sender

logger = logging.getLogger("ndserve")


def create_app(settings: Settings, on_dead: Callable[[str], None] | None = None) -> App:
    """The whole application, ready to be started by its lifespan.

    Args:
        on_dead: called with the reason when the device no longer answers; by default the process is told to
            end, so that a supervisor starts it again.

    Raises:
        StartupError: it cannot be served as configured; the message says what to change.
    """
    device, why = open_checked(settings.device)
    logger.info("device: %s (%s)", device.name, why)
    logger.info("tasks: %s", settings.describe_store())
    targets = _targets(settings)
    routers = load_routers(settings.routes) if settings.routes else []
    clock = _clock()
    guard = Guard(settings.webhook_allow)
    courier = _courier(settings, guard, clock)
    gate = open_gate(settings.api_keys_file, settings.host, open_management=settings.open_management, routers=routers)
    logger.info("management: %s", gate.describe())
    service = _service(settings, targets, device, clock, courier, on_dead or _end_process)
    preload = _preload(settings.preload, targets)
    management = Management(service, settings.models if settings.models.is_dir() else None)
    tasks = Tasks(service)
    intake = Intake(settings.max_body_bytes, service.check_room)
    front = Front(
        HotRoutes(tasks, intake, settings.default_process, guard.check_url if courier else _no_webhooks),
        OpenInferenceRoutes(service, management, intake),
        service.store.delivered,
    )
    app = App(
        gate,
        front,
        title="ndserve",
        version=__version__,
        description="Post an array, get a task id, fetch the result.",
        lifespan=partial(
            _lifespan,
            service=service,
            management=management,
            follower=_follower(settings, management, clock),
            courier=courier,
            preload=preload,
            drain_seconds=settings.drain_seconds,
        ),
    )
    app.state.gate, app.state.service, app.state.tasks = gate, service, tasks
    app.state.management, app.state.publishing = management, Publishing(management, settings.max_model_bytes)
    for router in (system.router, models.router, task_routes.router):
        app.include_router(router)
    _include_user_routers(app, routers)
    return app


def open_checked(name: str) -> tuple[Device, str]:
    """The device for a name, after onnxruntime has really used it, and why it was chosen.

    Raises:
        StartupError: that device cannot be used.
    """
    device, why = open_device(name)
    try:
        check_runtime(device)
    except DeviceUnavailableError as missing:
        if name != "auto" or device.name == "cpu":
            raise
        return open_device("cpu")[0], f"no GPU can be used: {missing.message}"
    return device, why


def _targets(settings: Settings) -> Targets:
    infos: list[ModelInfo] = []
    if settings.models.is_dir():
        infos = repository.scan(settings.models)
    elif "models" in settings.model_fields_set:
        raise StartupError(f"the model folder {settings.models} does not exist (--models)")
    processes = [*builtin_processes(), *(load_processes(settings.processes) if settings.processes else [])]
    for process in processes:
        _check_parameters(process)
    names = {info.name for info in infos}
    # The example that shows how a process calls a model is there when its model is.
    usable = [p for p in processes if names.issuperset(p.models) or p.name != "classify_digit"]
    targets = Targets(infos, usable, BatchDefaults(settings.max_batch_size, settings.max_wait_ms / 1000))
    _find(targets, settings.default_process, "--default-process")
    return targets


def _find(targets: Targets, name: str, option: str) -> Target:
    try:
        return targets.find(name)
    except NdserveError as error:
        raise StartupError(f"{option}: {error.message}") from None


def _check_parameters(process: Process) -> None:
    taken = sorted(RESERVED.intersection(process.parameters))
    if taken:
        raise StartupError(
            f"process {process.name!r} ({process.source}) has the parameter {join_names(taken)}, which is the"
            " server's own; rename it"
        )


def _preload(names: Iterable[str], targets: Targets) -> list[Target]:
    models = [target for target in targets if target.kind == "model"]
    if "all" in names:
        return models
    return [_find(targets, name, "--preload") for name in names]


def _clock() -> Callable[[], float]:
    """Unix seconds that never step back while the process lives."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


def _service(
    settings: Settings,
    targets: Targets,
    device: Device,
    clock: Callable[[], float],
    courier: Courier | None,
    on_dead: Callable[[str], None],
) -> InferenceService:
    store = open_store(
        settings.store,
        folder=settings.data_dir,
        durability=settings.durability,
        max_tasks=settings.store_tasks,
        max_bytes=settings.store_limit,
    )
    return InferenceService(
        targets=targets,
        ledger=Ledger(store, clock, settings.result_ttl, courier),
        cache=_cache(settings, device, clock),
        lane=Lane(device),
        bounds=QueueBounds(settings.max_queue_tasks, settings.max_queue_bytes),
        clock=clock,
        on_dead=on_dead,
        max_attempts=settings.max_attempts,
    )


def _follower(settings: Settings, management: Management, clock: Callable[[], float]) -> Follower | None:
    """Who follows the model folder; None where it is not to be followed."""
    root = management.root
    if root is None or not settings.watch:
        return None
    return Follower(management.takeover, root, partial(changed_names, root.resolve()), clock)


def _cache(settings: Settings, device: Device, clock: Callable[[], float]) -> ModelCache:
    """The model cache, and how it has its models loaded.

    Raises:
        StartupError: its budget or the file of allowed digests is of no use.
    """
    budget = budget_of(settings.model_memory, device.memory(), is_gpu=device.name != "cpu")
    logger.info("models: at most %d bytes loaded (--model-memory %s)", budget, settings.model_memory)
    kind, kept = device.name.partition(":")[0], settings.cache_optimized
    optimized = OptimizedModels(settings.data_dir / "optimized", kept) if kept else None
    loader = Loader(
        device,
        partial(Session.open, device=device, threads=settings.cpu_threads, optimized=optimized),
        Costs(settings.costs_file, f"{kind} {RUNTIME}", budget, on_host=kind == "cpu"),
        AllowedDigests.read(settings.allow_digests) if settings.allow_digests else None,
        settings.max_batch_size,
    )
    return ModelCache(loader, budget, clock, Patience(settings.load_wait, settings.load_retry))


def _courier(settings: Settings, guard: Guard, clock: Callable[[], float]) -> Courier | None:
    """Who sends webhooks; None where they are off.

    Raises:
        StartupError: the secret is of no use.
    """
    if settings.webhook_secret is None:
        return None
    secret = Secret(settings.webhook_secret.get_secret_value())
    return Courier(Sender(guard, secret, version=__version__), clock, random.random)


def _no_webhooks(url: str) -> None:
    raise InvalidParameterError("webhooks are off; the server has to be started with --webhook-secret")


@asynccontextmanager
async def _lifespan(
    app: App,
    *,
    service: InferenceService,
    management: Management,
    follower: Follower | None,
    courier: Courier | None,
    preload: list[Target],
    drain_seconds: float,
) -> AsyncIterator[None]:
    try:
        await asyncio.to_thread(remove_left_over)
        if management.root is not None:
            await asyncio.to_thread(clean_up, management.root)
        await service.start(preload)
        if follower is not None:
            follower.start()
        if courier is not None:
            courier.start(service.store.outbox)
        yield
        await service.drain(drain_seconds)
    except NdserveError as error:
        app.refused = error
        raise
    finally:
        if courier is not None:
            await courier.close()
        if follower is not None:
            await follower.close()
        await management.close()
        await service.close()


def _end_process(reason: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _include_user_routers(app: App, routers: list[APIRouter]) -> None:
    """Add a user's routes; one with ndserve's own path and method would never be reached.

    Raises:
        StartupError: there is such a route.
    """
    own = {(_anonymous(path), method) for path, operations in app.openapi()["paths"].items() for method in operations}
    app.openapi_schema = None
    for router in routers:
        app.include_router(router)
        for route in router.routes:
            path = getattr(route, "path", "")
            for method in getattr(route, "methods", None) or ():
                if (_anonymous(path), method.lower()) in own:
                    raise StartupError(f"the route {method} {path} is ndserve's own; choose another path")


def _anonymous(path: str) -> str:
    """The path without the names of its parameters, which do not tell two routes apart."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def __getattr__(name: str) -> App:
    """`app`, made from the environment when a server asks for it by name."""
    if name == "app":
        return create_app(Settings())
    raise AttributeError(name)

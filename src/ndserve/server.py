"""The server process: uvicorn with draining, one exit code a reason, and a word on where to go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from types import FrameType

import uvicorn

from ndserve.access import KeyFile
from ndserve.burst import burst_protocol
from ndserve.engine.service import InferenceService
from ndserve.errors import StartupError
from ndserve.main import create_app
from ndserve.routes.app import App
from ndserve.settings import Settings

logger = logging.getLogger("ndserve")

KEEP_ALIVE_SECONDS = 75
"""Longer than clients and proxies keep idle connections, so that they close them and no request meets a closed one."""


def run(settings: Settings) -> int:
    """Serve until a signal or a dead device ends it; gives the process's exit code.

    Raises:
        StartupError: it cannot be served as configured.
    """
    configure_logging(settings.log_level)
    app = create_app(settings)
    service: InferenceService = app.state.service
    server = Server(_config(app, settings), service, settings.drain_seconds, app.gate.keys)
    # What exists now stays: the collector need not look at it again. And with thousands of tasks in flight and kept,
    # its default of every 700 new objects cost a twentieth of a request.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with contextlib.suppress(SystemExit):  # uvicorn's way to say that it could not start
        server.run()
    if service.dead:
        # A device that no longer answers may also hang the interpreter's own clean-up.
        logging.shutdown()
        os._exit(1)
    if isinstance(app.refused, StartupError):
        return 2
    return 0 if server.started else 3


def configure_logging(level: str) -> None:
    """One format for ndserve and uvicorn, on stderr."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-8s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logging.getLogger().level))
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    # It warns of every broken body, which is the client's to know and would let it fill the log.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _config(app: App, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=burst_protocol(app.begin),
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=settings.access_log,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_seconds) + 5,
    )


class Server(uvicorn.Server):
    """Starts to drain with the signal, while connections still wait for their results. SIGHUP reads the keys again."""

    def __init__(
        self, config: uvicorn.Config, service: InferenceService, drain_seconds: float, keys: KeyFile | None
    ) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._keys = keys

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._keys is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._keys.reload)
        await super().startup(sockets)
        if self.started:
            for line in banner(self._service):
                logger.info(line)
            for server in self.servers:
                for listening in server.sockets:
                    host, port = listening.getsockname()[:2]
                    host = f"[{host}]" if ":" in host else host
                    logger.info("ready: http://%s:%d (documentation at /docs)", host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logger.info("shutting down: no new tasks; the accepted ones have %g s", self._drain_seconds)
        drain = asyncio.create_task(self._service.drain(self._drain_seconds))
        await super().shutdown(sockets)
        await drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not recorded as uvicorn would: it raises the signal again at the end, and a drained server has ended well.
        if self.should_exit:
            logger.warning("a second signal: ending at once, without the accepted tasks")
            logging.shutdown()
            os._exit(1)
        self.should_exit = True


def banner(service: InferenceService) -> list[str]:
    """What is served, in lines for a person."""
    targets = list(service.targets)
    models = [f"{target.name}/{target.version}" for target in targets if target.kind == "model"]
    processes = [target.name for target in targets if target.kind == "process"]
    broken = [f"not served: {info.name}/{info.version}: {info.problem}" for info in service.targets.broken.values()]
    return [f"models: {', '.join(models) or 'none'}", f"processes: {', '.join(processes)}", *broken]

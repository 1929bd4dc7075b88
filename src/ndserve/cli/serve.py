"""`ndserve serve`. It needs the extra `server`."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

import ndserve
from ndserve.errors import StartupError
from ndserve.server import run
from ndserve.settings import Settings


def serve(arguments: Sequence[str]) -> int:
    """Serve until the end; gives the exit code."""
    try:
        settings = CliApp.run(Settings, cli_args=list(arguments))
        return _reload(settings) if settings.reload else run(settings)
    except ValidationError as error:
        for fault in error.errors():
            option = "--" + ".".join(str(part).replace("_", "-") for part in fault["loc"])
            print(f"ndserve: {option}: {fault['msg']} (given: {fault['input']!r})", file=sys.stderr)
        return 2
    except SettingsError as error:
        print(f"ndserve: {error}; a list is written as JSON", file=sys.stderr)
        return 2
    except tomllib.TOMLDecodeError as error:
        print(f"ndserve: ndserve.toml: {error}", file=sys.stderr)
        return 2
    except StartupError as error:
        print(f"ndserve: {error.message}", file=sys.stderr)
        return 2


def _reload(settings: Settings) -> int:
    """The reloader of uvicorn starts the application in a process of its own, which reads the environment."""
    os.environ.update(settings.as_environment())
    package = Path(ndserve.__file__).parent
    watched = [package, *(folder for folder in (settings.processes, settings.routes) if folder)]
    uvicorn.run(
        "ndserve.main:app",
        host=settings.host,
        port=settings.port,
        reload=True,
        reload_dirs=[str(folder) for folder in watched],
        log_level=settings.log_level,
    )
    return 0

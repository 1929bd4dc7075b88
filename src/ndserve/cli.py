"""The command line."""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from ndserve import __version__
from ndserve.errors import StartupError
from ndserve.server import run
from ndserve.settings import Settings

EXIT_CODES = """exit codes:
  0  ended well, after SIGTERM or Ctrl-C
  1  the device stopped answering, or a second signal cut the draining short
  2  an option is wrong, or the server cannot be started as configured
  3  the server could not start listening, or a model to preload did not load
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    parser = argparse.ArgumentParser(
        prog="ndserve",
        description="Puts array code behind HTTP: post a NumPy array, get a task id, fetch the result.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ndserve {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("serve", add_help=False, help="serve models and processes over HTTP (serve --help for options)")
    known, rest = parser.parse_known_args(arguments)
    assert known.command == "serve"
    return serve(rest)


def serve(arguments: Sequence[str]) -> int:
    """`ndserve serve`."""
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
    watched = [Path(__file__).parent, *(folder for folder in (settings.processes, settings.routes) if folder)]
    uvicorn.run(
        "ndserve.main:app",
        host=settings.host,
        port=settings.port,
        reload=True,
        reload_dirs=[str(folder) for folder in watched],
        log_level=settings.log_level,
    )
    return 0

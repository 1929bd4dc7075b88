"""The command line: `ndserve serve` starts a server, and most of the other commands talk to one."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ndserve.cli.exits import INTERRUPTED, NOT_DONE, USAGE
from ndserve.cli.key import make_key
from ndserve.cli.parser import build_parser

_SERVER = "pip install 'ndserve[cpu]', or 'ndserve[cuda]' for an NVIDIA GPU"
_CLIENT = "pip install 'ndserve[client]'"
_OF_CLIENT = ("httpx2", "rich")
"""Packages of the extra `client`; the others are the server's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # The options of serve are those of its settings, which have a parser of their own.
    if words[:1] == ["serve"]:
        return _serve(words[1:])
    options = build_parser().parse_args(words)
    try:
        code = _run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("ndserve: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # What reads our output has ended, as `head` does; Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_DONE


def _serve(words: Sequence[str]) -> int:
    try:
        from ndserve.cli.serve import serve
    except ModuleNotFoundError as error:
        return _missing(error)
    return serve(words)


def _run(options: argparse.Namespace) -> int:
    if options.command == "key":
        return make_key(options)
    try:
        if options.command == "inspect":
            from ndserve.cli.inspect import inspect

            return inspect(options)
        if options.command == "models" and options.folder is not None:
            from ndserve.cli.folder import manage_folder

            return manage_folder(options)
        from ndserve.cli.commands import run

        return run(options)
    except ModuleNotFoundError as error:  # of rich also later: only tables need it
        return _missing(error)


def _missing(error: ModuleNotFoundError) -> int:
    """Say which extra a command lacks; a missing module of our own is no extra."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "ndserve"):
        raise error
    print(f"ndserve: this command needs {error.name}: {_CLIENT if package in _OF_CLIENT else _SERVER}", file=sys.stderr)
    return USAGE

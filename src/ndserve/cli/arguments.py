"""What the commands have in common: help that teaches, where the server is, and the kinds of values."""

from __future__ import annotations

import argparse
import math
import os
import re
from typing import Any, NamedTuple

from ndserve.cli.exits import CLIENT_CODES
from ndserve.types import NAME

DEFAULT_URL = "http://127.0.0.1:8076"

ENVIRONMENT = """environment:
  NDSERVE_URL      where the server is
  NDSERVE_API_KEY  the key for a server that asks for one; there is no option for it, since every user of the machine
                   can read the command lines of the others"""

_VERSION = re.compile(r"0|[1-9][0-9]{0,17}")


class ModelName(NamedTuple):
    """A model, or one version of it."""

    name: str
    version: str | None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}/{self.version}"


Commands = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for what it gives


def add_command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    text: str,
    examples: str,
    notes: str = "",
    *,
    nested: bool = False,
) -> argparse.ArgumentParser:
    """A command with what all of them have that talk to a server.

    A `nested` one is an action of another command, and has that one's values where it is given none of its own.
    """
    codes = CLIENT_CODES.replace(" of the other commands", "")
    command = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="\n\n".join(filter(None, (f"examples:\n{examples}", notes, ENVIRONMENT, codes))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    url = os.environ.get("NDSERVE_URL") or DEFAULT_URL
    defaults: dict[str, Any] = {"url": url, "header": [], "patience": None, "json": False}
    if nested:
        defaults = dict.fromkeys(defaults, argparse.SUPPRESS)
    server = command.add_argument_group("server")
    server.add_argument(
        "--url", default=defaults["url"], help=f"where it is (NDSERVE_URL; now {url})".replace("%", "%%")
    )
    server.add_argument(
        "--header",
        action="append",
        default=defaults["header"],
        metavar="NAME=VALUE",
        help="send this header, as a proxy that asks for a login needs; may be repeated",
    )
    server.add_argument(
        "--patience",
        type=span,
        default=defaults["patience"],
        metavar="SECONDS",
        help="how long to go on trying when it is full or cannot be reached (60 for map and with --wait, else 5)",
    )
    command.add_argument(
        "--json", action="store_true", default=defaults["json"], help="print one JSON document, for scripts"
    )
    return command


def span(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def wait(text: str) -> float:
    try:
        return span(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; write --wait behind everything else, or --wait=SECONDS") from None


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def model_name(text: str) -> ModelName:
    """`NAME` or `NAME/VERSION`."""
    name, slash, version = text.partition("/")
    if not NAME.fullmatch(name) or (slash and not _VERSION.fullmatch(version)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither NAME nor NAME/VERSION: a name has letters, digits, '.', '_' and '-', and a version is"
            " a whole number"
        )
    return ModelName(name, version if slash else None)


def whole_model(text: str) -> ModelName:
    """`NAME` alone."""
    model = model_name(text)
    if model.version is not None:
        raise argparse.ArgumentTypeError(f"{text!r}: all versions of a model are unloaded together; write {model.name}")
    return model

"""`ndserve key`. It needs neither a server nor an extra."""

from __future__ import annotations

import argparse
import sys

from ndserve.access import Role, new_key
from ndserve.cli.exits import DONE, USAGE
from ndserve.errors import InvalidParameterError


def make_key(options: argparse.Namespace) -> int:
    """Print the line of a key file to stdout and the secret to stderr, so that `>>` takes the line alone."""
    try:
        secret, line = new_key(options.name, Role(options.role))
    except InvalidParameterError as error:
        print(f"ndserve: {error.message}", file=sys.stderr)
        return USAGE
    print(line)
    sys.stdout.flush()
    print(f"the key of {options.name}, which is shown only now: {secret}", file=sys.stderr)
    return DONE

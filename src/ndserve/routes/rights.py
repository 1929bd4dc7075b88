"""What each path asks of a caller: the one table, which every request is looked up in before any route sees it.

A path that is in no row is no path of ndserve's. So whoever adds a route adds a row; a test walks all routes and says
which has none.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from ndserve.access import Role

OPEN: Final = None
"""No key is needed."""
INFER: Final = Role.INFER
MANAGE: Final = Role.MANAGE


class Rights(NamedTuple):
    """The role that reading and that changing needs; OPEN for none."""

    reading: Role | None
    changing: Role | None

    def of(self, method: str) -> Role | None:
        """What this method needs. One that nobody knows changes."""
        return self.reading if method in READING else self.changing


READING = frozenset({"GET", "HEAD", "OPTIONS"})

_HEALTH = Rights(OPEN, INFER)
USE = Rights(INFER, INFER)
"""What a user's own routes need, too."""
_MODELS = Rights(INFER, MANAGE)
_REPOSITORY = Rights(MANAGE, MANAGE)

_TABLE: tuple[tuple[str, Rights], ...] = (
    # `*` is one segment, and `**` whatever follows. Those that are asked for most come first.
    ("/v2/models/*/infer", USE),
    ("/v2/models/*/versions/*/infer", USE),
    ("/process_np_array", USE),
    ("/result/*", USE),
    ("/tasks/*", USE),
    ("/tasks/*/*", USE),
    ("/tasks", USE),
    ("/health", _HEALTH),
    ("/health/live", _HEALTH),
    ("/health/ready", _HEALTH),
    ("/v2/health/live", _HEALTH),
    ("/v2/health/ready", _HEALTH),
    ("/", USE),
    ("/docs", USE),
    ("/docs/oauth2-redirect", USE),
    ("/redoc", USE),
    ("/openapi.json", USE),
    ("/models", _MODELS),
    ("/models/*", _MODELS),
    ("/models/*/**", _MODELS),
    ("/v2", USE),
    ("/v2/models/stats", USE),
    ("/v2/models/*", USE),
    ("/v2/models/*/ready", USE),
    ("/v2/models/*/config", USE),
    ("/v2/models/*/stats", USE),
    ("/v2/models/*/versions/*", USE),
    ("/v2/models/*/versions/*/ready", USE),
    ("/v2/models/*/versions/*/config", USE),
    ("/v2/models/*/versions/*/stats", USE),
    ("/v2/repository/index", _REPOSITORY),
    ("/v2/repository/models/*/load", _REPOSITORY),
    ("/v2/repository/models/*/unload", _REPOSITORY),
    ("/v2/repository/*/index", _REPOSITORY),
    ("/v2/repository/*/models/*/load", _REPOSITORY),
    ("/v2/repository/*/models/*/unload", _REPOSITORY),
)


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*|\*)", pattern)
    return "".join({"**": ".*", "*": "[^/]+"}.get(part) or re.escape(part) for part in parts)


_EXACT = {path: rights for path, rights in _TABLE if "*" not in path}
_OTHERS = [(pattern, rights) for pattern, rights in _TABLE if "*" in pattern]
_ROWS = [rights for _, rights in _OTHERS]
_MATCH = re.compile("|".join(f"({_regex(pattern)})" for pattern, _ in _OTHERS), re.DOTALL).fullmatch


def rights_of(path: str) -> Rights | None:
    """What a path needs, decoded as the routes see it; None where it is in no row."""
    return _known(path) if len(path) <= REMEMBERED else _look_up(path)


REMEMBERED = 256
"""Characters of a path up to which its rights are remembered."""


def _look_up(path: str) -> Rights | None:
    rights = _EXACT.get(path)
    if rights is not None:
        return rights
    found = _MATCH(path)
    return None if found is None else _ROWS[(found.lastindex or 0) - 1]


_known = lru_cache(maxsize=1024)(_look_up)

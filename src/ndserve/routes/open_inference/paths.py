"""What a path of the protocol names."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([0-9]+))?(?:/(infer|ready|config|stats))?")
_INDEX = re.compile(r"/v2/repository(?:/([^/]+))?/index")
_CONTROL = re.compile(r"/v2/repository(?:/([^/]+))?/models/([^/]+)/(load|unload)")

LONGEST = 512
"""Characters of a path; a model's name, a version and a verb take fewer."""


class Named(NamedTuple):
    """What is asked for, and of which model, version or repository; empty where the path names none."""

    action: str
    model: str = ""
    version: str = ""
    repository: str = ""


def read_path(path: str) -> Named | None:
    """What the path names; None where it is none of the protocol's."""
    return _read(path) if len(path) <= LONGEST else None


@lru_cache(maxsize=1024)
def _read(path: str) -> Named | None:
    if path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"):
        return Named(path[1:])
    if found := _MODEL.fullmatch(path):
        model, version, action = found.groups("")
        return Named(action or "metadata", model, version)
    if found := _INDEX.fullmatch(path):
        return Named("index", repository=found[1] or "")
    if found := _CONTROL.fullmatch(path):
        repository, model, action = found.groups("")
        return Named(action, model, repository=repository)
    return None

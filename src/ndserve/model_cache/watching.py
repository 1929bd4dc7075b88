"""Tells which models have changed in the repository, by the file system's own notice of it (watchfiles)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from watchfiles import Change, awatch

from ndserve.model_cache.repository import MODEL_FILE, OPTIONS_FILE
from ndserve.types import NAME

TICK_MS = 250
"""How often something is given although nothing has changed, so that who follows can look at the time."""


async def changed_names(root: Path) -> AsyncGenerator[set[str], None]:
    """The names of models under which files have come, gone or changed; an empty set now and then.

    `root` has no links in it. From the first set that is given on, nothing is missed.

    Raises:
        OSError, RuntimeError: the folder is gone, or the system watches no more files.
    """

    def concerns_models(change: Change, path: str) -> bool:
        return _name_of(Path(path), root) is not None

    async for changes in awatch(
        root, watch_filter=concerns_models, debounce=TICK_MS, rust_timeout=TICK_MS, yield_on_timeout=True
    ):
        yield {name for _, path in changes if (name := _name_of(Path(path), root)) is not None}


def _name_of(path: Path, root: Path) -> str | None:
    """The model that a file or folder belongs to; None for what is nobody's, such as uploads under way."""
    if not path.is_relative_to(root):
        return None
    first, *_ = path.relative_to(root).parts or ("",)
    name = first.removesuffix(Path(MODEL_FILE).suffix).removesuffix(Path(OPTIONS_FILE).suffix)
    return name if NAME.fullmatch(name) else None

"""Tells which models have changed in the repository, by the file system's own notice of it (watchfiles)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from watchfiles import Change, awatch

from ndserve.model_cache.disk.repository import MODEL_FILE, OPTIONS_FILE
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
        return bool(_names_of(Path(path), root))

    async for changes in awatch(
        root, watch_filter=concerns_models, debounce=TICK_MS, rust_timeout=TICK_MS, yield_on_timeout=True
    ):
        yield {name for _, path in changes for name in _names_of(Path(path), root)}


def _names_of(path: Path, root: Path) -> set[str]:
    """The models that a file or folder may belong to; none where it is nobody's, such as an upload under way."""
    if not path.is_relative_to(root):
        return set()
    first, *_ = path.relative_to(root).parts or ("",)
    names = {first, first.removesuffix(Path(MODEL_FILE).suffix), first.removesuffix(Path(OPTIONS_FILE).suffix)}
    return {name for name in names if NAME.fullmatch(name)}

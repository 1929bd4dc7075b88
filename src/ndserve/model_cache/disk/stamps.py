"""What tells that a file has changed, without a look into it."""

from __future__ import annotations

from pathlib import Path

STAMP = 3
"""The numbers that `stamp_of` gives."""


def stamp_of(path: Path) -> tuple[int, ...]:
    """What a file system changes when a file's content does. A file that is renamed keeps it."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino

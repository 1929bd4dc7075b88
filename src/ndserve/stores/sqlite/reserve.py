"""Room on the disk that is held back for what must not be refused.

Removing a task takes room, too: the log of the database grows before anything shrinks. So a disk that the store itself
has filled would stay full for ever. A file that holds nothing keeps some of it free; when a change that must be written
finds no room, the file goes, and nothing new is taken in until it is there again.
"""

from __future__ import annotations

import os
from pathlib import Path

BYTES = 8 * 1024**2
"""Enough for the removal of thousands of tasks."""


class Reserve:
    """The file; used on the writer's thread alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = False

    def hold(self) -> bool:
        """Have the room, or try to get it back; False where the disk has not that much."""
        if self._held:
            return True
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, BYTES)
            finally:
                os.close(descriptor)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        self._held = True
        return True

    def release(self) -> None:
        """Give the room to whoever writes next."""
        self._path.unlink(missing_ok=True)
        self._held = False

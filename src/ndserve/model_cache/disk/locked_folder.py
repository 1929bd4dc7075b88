"""Temporary folders that are locked while their process lives, so that the next one can tell what is left over."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

from ndserve.errors import StoreFullError

LOCK = ".lock"

_ATTEMPTS = 5


class LockedFolder:
    """A folder that goes when it is cleaned up, or when `remove_left_over` finds its process gone."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str], lock: int) -> None:
        """Takes over `folder` and the descriptor `lock`, which holds the lock; `make` makes both."""
        self.path = Path(folder.name)
        self._folder = folder
        self._lock = lock

    @classmethod
    def make(cls, parent: Path, prefix: str) -> Self:
        """A new folder in `parent`, for this user alone, whose name begins with `prefix`.

        Raises:
            OSError: it cannot be made.
        """
        for _ in range(_ATTEMPTS):
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
            try:
                return cls(folder, _locked(Path(folder.name, LOCK)))
            except FileNotFoundError:  # another process has taken it for left over, before it had a lock
                folder.cleanup()
            except OSError:
                folder.cleanup()
                raise
        raise OSError(0, "other processes remove what is made there")

    def cleanup(self) -> None:
        """Remove it with all that is in it; a second call does nothing."""
        lock, self._lock = self._lock, -1  # first, since two threads may come
        if lock >= 0:
            _empty(self.path)
            self._folder.cleanup()
            os.close(lock)


def remove_left_over(parent: Path, prefix: str) -> None:
    """Remove the folders in `parent` whose processes were killed. What cannot be removed stays."""
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another process is removing it, or it is another user's
            if not any(folder.iterdir()):
                folder.rmdir()  # its process was killed before it had a lock
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(folder)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def no_room(error: OSError) -> StoreFullError:
    """The same without a path, for a client."""
    return StoreFullError(f"the model's files cannot be written: {error.strerror}")


def _locked(path: Path) -> int:
    lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.stat().st_ino != os.fstat(lock).st_ino:
            raise FileNotFoundError
    except OSError:
        os.close(lock)
        raise
    return lock


def _empty(folder: Path) -> None:
    """Remove all but the lock: a process that is killed in between leaves what the next one may remove."""
    for entry in folder.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)  # which leaves links alone
        else:
            with contextlib.suppress(OSError):
                entry.unlink()

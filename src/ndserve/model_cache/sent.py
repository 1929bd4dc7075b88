"""A model that a client has sent: its files, in a folder of its own that is laid out as a repository.

Nothing in it can lie elsewhere. Triton's own check of these paths was bypassed (CVE-2023-31036); here a path is made of
plain names alone, and every file is new in a folder that is new.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ndserve.errors import InvalidInputError, StoreFullError

PREFIX = "ndserve-model-"
LOCK = ".lock"
MAX_FILES = 256
MAX_DEPTH = 8

_PART = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,255}")


class SentFolder:
    """A temporary folder, locked for as long as its process lives, so that the next one can tell what is left over."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)
        self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        """Remove it with all that is in it; a second call does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._folder.cleanup()


def remove_left_over() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another process is removing it, or it is another user's
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def check_path(path: str) -> None:
    """Refuse a file's path that is anything but plain names with `/` between them.

    Raises:
        InvalidInputError: it is absolute, leads upwards, is hidden, or has other characters than names have.
    """
    parts = path.split("/")
    if len(parts) > MAX_DEPTH or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidInputError(
            f"the file {path[:100]!r} must lie inside the model's folder: at most {MAX_DEPTH} names of letters, digits,"
            " '.', '_' and '-', with '/' between them and none that begins with '.'"
        )


def write_files(name: str, files: Mapping[str, bytes]) -> SentFolder:
    """The folder that holds the model `name` made of `files`; it goes when it is cleaned up, or with the process.

    Raises:
        InvalidInputError: too many files, or a path that is none.
        StoreFullError: the disk has no room for them.
    """
    if len(files) > MAX_FILES:
        raise InvalidInputError(f"{len(files)} files were sent; at most {MAX_FILES} are taken")
    for path in files:
        check_path(path)
    try:
        folder = SentFolder()
    except OSError as error:
        raise _no_room(error) from None
    try:
        for path, content in files.items():
            file = folder.path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as opened:
                opened.write(content)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        folder.cleanup()
        raise InvalidInputError("a file that was sent is at the same time the folder of another") from None
    except OSError as error:
        folder.cleanup()
        raise _no_room(error) from None
    return folder


def _no_room(error: OSError) -> StoreFullError:
    return StoreFullError(f"the model's files cannot be written: {error.strerror}")

"""A model that a client has sent: its files, in a folder of its own that is laid out as a repository.

Nothing in it can lie elsewhere. Triton's own check of these paths was bypassed (CVE-2023-31036); here a path is made of
plain names alone, and every file is new in a folder that is new.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from ndserve.errors import InvalidInputError
from ndserve.model_cache.disk import locked_folder
from ndserve.model_cache.disk.locked_folder import LockedFolder, no_room

PREFIX = "ndserve-model-"
MAX_FILES = 256
MAX_DEPTH = 8

_PART = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,255}")


SentFolder: TypeAlias = LockedFolder
"""A temporary folder with a model that a client has sent."""


def remove_left_over() -> None:
    """Remove the folders of processes that were killed."""
    locked_folder.remove_left_over(Path(tempfile.gettempdir()), PREFIX)


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
        folder = SentFolder.make(Path(tempfile.gettempdir()), PREFIX)
    except OSError as error:
        raise no_room(error) from None
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
        raise no_room(error) from None
    return folder

"""Keeps a model's external data inside its folder.

The paths in a model file are its author's. That they may lead out of the folder has been found and half mended again
and again: in the `onnx` package (CVE-2022-25882, CVE-2024-27318, CVE-2026-34446 by a hard link, CVE-2026-34447 by a
symbolic one), and in onnxruntime for models that come from memory. So they are checked here, before a session is made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ndserve.errors import ModelLoadError
from ndserve.model_info import ModelInfo


def external_files(model: Path, locations: Iterable[str]) -> tuple[Path, ...]:
    """The files of a model's external data, in the order of their names.

    Each location must be a plain relative path to a file in or below the model's folder, on which no link lies, be it a
    symbolic or a hard one.

    Raises:
        ModelLoadError: one is something else; says which, and why.
    """
    return tuple(_inside(model.parent, location) for location in sorted(set(locations)))


def check_external(info: ModelInfo) -> None:
    """Make sure that a model's external data is still what it was found to be.

    Raises:
        ModelLoadError: it is not.
    """
    folder = info.path.parent
    for file in info.external:
        _inside(folder, file.relative_to(folder).as_posix())


def _inside(folder: Path, location: str) -> Path:
    path = PurePosixPath(location)
    # onnxruntime has markers of its own for data in memory, which begin with "*".
    odd = not path.parts or location != path.as_posix() or any(mark in location for mark in ("\0", "\\", ":", "*"))
    if odd or path.is_absolute() or ".." in path.parts:
        raise _refusal(location, "it must be a plain relative path inside the model's folder")
    found = folder
    for part in path.parts:
        found = found / part
        try:
            status = os.lstat(found)
        except OSError as error:
            raise _refusal(location, f"the file is not there ({error.strerror})") from None
        if stat.S_ISLNK(status.st_mode):
            raise _refusal(location, f"{part!r} is a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(location, "it is not a file")
    if status.st_nlink > 1:
        raise _refusal(location, f"the file has {status.st_nlink} names (hard links), one of which may lie elsewhere")
    return found


def _refusal(location: str, reason: str) -> ModelLoadError:
    return ModelLoadError(f"the external data {location[:200]!r} is not read: {reason}")

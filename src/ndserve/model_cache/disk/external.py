"""Weights outside the model file: they are plain files in the model's folder, or the model is refused.

A model's text says where they lie, and whoever made the model wrote it. onnxruntime would follow links, and takes some
locations for addresses in its own memory. So each location is checked here before a session is made
(https://onnx.ai/onnx/repo-docs/ExternalData.html; CVE-2024-27318 and CVE-2025-51480 are what happened elsewhere).
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from ndserve.errors import ModelLoadError
from ndserve.model_cache.disk.onnx_file import read_signature
from ndserve.model_cache.disk.stamps import STAMP, stamp_of
from ndserve.model_info import ModelInfo

_REFUSED = frozenset("\0\\*")
"""NUL ends a path for the kernel, a backslash may be taken for a separator, and onnxruntime's own marks of addresses in
memory have asterisks (`*/_ORT_MEM_ADDR_/*`)."""

_SHOWN = 100
"""Characters of a location in a message."""


def external_files(model: Path, locations: Iterable[str]) -> tuple[Path, ...]:
    """The files at these locations of the model file `model`, each once, sorted by location.

    Raises:
        ModelLoadError: one is not a plain relative path, leads over a link, is a link or has further names (hard
            links), is no regular file, or is missing.
    """
    return tuple(dict.fromkeys(_checked(model.parent, location) for location in sorted(set(locations))))


def check_external(info: ModelInfo) -> None:
    """Check anew what the model file says now; a session may be made right after.

    Raises:
        ModelLoadError: as `external_files` says, or the files are not those that `info` was read with.
    """
    try:
        files = external_files(info.path, read_signature(info.path).external)
        stamps = tuple(number for file in files for number in stamp_of(file))
    except OSError as error:
        raise ModelLoadError(f"the model's files cannot be read: {error.strerror}") from None
    known = info.stamp[len(info.stamp) - STAMP * len(info.external) :]
    if info.stamp and stamps != known:
        raise ModelLoadError("its external data has changed since it was read; load the model anew")


def check_location(location: str) -> PurePosixPath:
    """The location as a path below the model's folder.

    Raises:
        ModelLoadError: it is empty or absolute, leads upwards, or has characters that do not belong there.
    """
    path = PurePosixPath(location)
    if not path.parts or path.is_absolute() or ".." in path.parts or not _REFUSED.isdisjoint(location):
        raise ModelLoadError(f"external data {_shown(location)} is not a plain relative path inside the model's folder")
    return path


def _checked(folder: Path, location: str) -> Path:
    shown = _shown(location)
    file = folder
    try:
        for part in check_location(location).parts:
            file /= part
            status = file.lstat()
            if stat.S_ISLNK(status.st_mode):
                raise ModelLoadError(
                    f"external data {shown} is a symbolic link or lies behind one; put the file itself into the"
                    " model's folder"
                )
    except (FileNotFoundError, NotADirectoryError):
        raise ModelLoadError(f"external data {shown} is missing from the model's folder") from None
    except OSError as error:
        raise ModelLoadError(f"external data {shown} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ModelLoadError(f"external data {shown} is not a regular file")
    if status.st_nlink != 1:
        raise ModelLoadError(
            f"external data {shown} has {status.st_nlink} names (hard links), so it may belong elsewhere; put a copy"
            " of its own into the model's folder"
        )
    return file


def _shown(location: str) -> str:
    return repr(location if len(location) <= _SHOWN else f"{location[:_SHOWN]}…")

"""Uploads into the model repository and removals from it, which a crash at any moment leaves whole.

An upload arrives in a folder of its own inside the repository, whose name no model can have. There it is checked, and
from there it is renamed into its place, which a file system does at once or not at all. A removal is a rename the other
way. What a killed process leaves behind, the next start removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ndserve.errors import (
    BodyTooLargeError,
    ConflictError,
    DigestMismatchError,
    InvalidModelError,
    InvalidParameterError,
    StoreFullError,
)
from ndserve.model_cache.locked_folder import LockedFolder, remove_left_over
from ndserve.model_cache.repository import MODEL_FILE, OPTIONS_FILE, scan
from ndserve.model_info import ModelInfo
from ndserve.types import NAME

UPLOAD = ".ndserve-upload-"
GONE = ".ndserve-gone-"

MAX_VERSION_DIGITS = 18


class Upload:
    """A model file on its way into the repository. Its methods block; `abandon` comes at the end in any case."""

    def __init__(self, root: Path, name: str, version: str, max_bytes: int, folder: LockedFolder) -> None:
        self.name = name
        self.version = version
        self._root = root
        self._max_bytes = max_bytes
        self._folder = folder
        self._nbytes = 0
        self._sha256 = hashlib.sha256()
        self._path = folder.path / name / version / MODEL_FILE
        self._file: BinaryIO | None = None

    @classmethod
    def begin(cls, root: Path, name: str, version: str, max_bytes: int) -> Self:
        """Make room for a model file of up to `max_bytes`.

        Raises:
            InvalidParameterError: no model can have that name or version.
            StoreFullError: the disk has no room, or the repository cannot be written to.
        """
        check_name(name, version)
        with _full_disk():
            upload = cls(root, name, version, max_bytes, LockedFolder(UPLOAD, root))
        try:
            with _full_disk():
                upload._path.parent.mkdir(parents=True)
                upload._file = upload._path.open("xb", buffering=0)
        except BaseException:
            upload.abandon()
            raise
        return upload

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Add to the file.

        Raises:
            BodyTooLargeError: it is too large now.
            StoreFullError: the disk is full.
        """
        assert self._file is not None
        self._nbytes += len(chunk)
        if self._nbytes > self._max_bytes:
            raise BodyTooLargeError(
                f"the model has more than {self._max_bytes} bytes, the most that are taken (--max-model-bytes)",
                limit=self._max_bytes,
            )
        self._sha256.update(chunk)
        rest = memoryview(chunk)
        with _full_disk():
            while rest:
                rest = rest[self._file.write(rest) :]

    def finish(self, expected: bytes | None) -> ModelInfo:
        """Check what has come, and read what it says of itself, from where it lies now.

        Args:
            expected: its SHA-256, where that is known.

        Raises:
            DigestMismatchError: it is something else.
            InvalidModelError: it is no model that can be served; says why.
            StoreFullError: the disk is full.
        """
        assert self._file is not None
        if expected is not None and self._sha256.digest() != expected:
            raise DigestMismatchError(
                f"the body has the SHA-256 {self._sha256.hexdigest()}, but its digest says {expected.hex()};"
                f" {self._nbytes} bytes have come"
            )
        with _full_disk():
            os.fsync(self._file.fileno())
            self._file.close()
            options = self._root / self.name / OPTIONS_FILE
            if options.is_file():
                shutil.copyfile(options, self._folder.path / self.name / OPTIONS_FILE)
        (info,) = scan(self._folder.path, self.name)
        # It came alone, so that there is nothing beside it.
        if "external data" in info.problem:
            raise InvalidModelError(
                f"{info.problem}; an upload is one file: put its weights into it, or copy the model into the folder"
            )
        if info.problem:
            raise InvalidModelError(info.problem)
        return info

    def commit(self, *, replace: bool) -> bool:
        """Put the file into its place, at once and for good; says whether the version is new.

        Raises:
            ConflictError: the version is there, and is not to be replaced.
            StoreFullError: the disk is full.
        """
        former = next((info for info in scan(self._root, self.name) if info.version == self.version), None)
        if former is not None and not replace:
            raise already_there(self.name, self.version)
        home = self._root / self.name
        _check_inside(self._root, home / self.version)
        with _full_disk():
            if former is not None:
                self._path.replace(former.path)
                _sync(former.path.parent)
                for file in former.external:
                    file.unlink(missing_ok=True)
                return False
            home.mkdir(exist_ok=True)
            place = home / self.version
            if place.is_dir():  # without a model in it, else it were the former
                self._path.replace(place / MODEL_FILE)
                _sync(place)
            else:
                self._path.parent.replace(place)
            _sync(home)
            _sync(self._root)
        return True

    def abandon(self) -> None:
        """Leave nothing of it but what was committed; a second call does nothing."""
        if self._file is not None:
            self._file.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()


def remove_version(root: Path, info: ModelInfo) -> None:
    """Remove a version from the repository: at once for whoever looks, and then from the disk.

    Raises:
        ConflictError: it is reached by a link that leads out of the repository.
        StoreFullError: it cannot be removed.
    """
    _check_inside(root, info.path)
    with _full_disk():
        trash = LockedFolder(GONE, root)
    try:
        with _full_disk():
            if info.path.parent == root:
                info.path.replace(trash.path / info.path.name)
                options = info.path.with_suffix(".toml")
                with contextlib.suppress(FileNotFoundError):
                    options.replace(trash.path / options.name)
            else:
                home = info.path.parent.parent
                info.path.parent.replace(trash.path / info.version)
                if {entry.name for entry in home.iterdir()} <= {OPTIONS_FILE}:  # nothing that it could be an option of
                    home.replace(trash.path / info.name)
            _sync(root)
    finally:
        trash.cleanup()


def clean_up(root: Path) -> None:
    """Remove what killed processes have left of uploads and removals."""
    for prefix in (UPLOAD, GONE):
        remove_left_over(prefix, root)


def check_name(name: str, version: str) -> None:
    """Raises InvalidParameterError where no model can have that name or version."""
    if not NAME.fullmatch(name):
        raise InvalidParameterError(
            f"a model cannot be called {name[:100]!r}: use letters, digits, '.', '_' and '-', and begin with a letter"
            " or digit"
        )
    canonical = version.isascii() and version.isdecimal() and str(int(version[:MAX_VERSION_DIGITS])) == version
    if not canonical:
        raise InvalidParameterError(
            f"a version is a whole number of at most {MAX_VERSION_DIGITS} digits, such as 1, not {version[:40]!r}"
        )


def _check_inside(root: Path, path: Path) -> None:
    """Refuse to write where a link leads out of the repository."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise ConflictError(f"{path.relative_to(root)} is reached by a link that leads out of the model folder")


def already_there(name: str, version: str) -> ConflictError:
    return ConflictError(f"model {name!r} version {version} is there already; add ?replace=true to replace it")


def _sync(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    """Tells of a disk that takes no more, without the folders of this machine."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be written"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += "; delete versions that nobody needs"
        raise StoreFullError(f"the model folder takes no more: {reason}") from None

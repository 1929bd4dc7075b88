"""Models that clients put into the repository or take out of it: the disk side.

Whatever happens in between, a repository is sound. A model arrives in a hidden folder beside the others, and is renamed
into place once it is whole and checked; what is deleted is renamed away before it is taken apart. Both kinds of folders
are locked, so that the next start removes those of a process that was killed (`clean_up`).
All functions block: call them on a thread.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from ndserve.errors import (
    BodyTooLargeError,
    ConflictError,
    DigestMismatchError,
    InvalidInputError,
    InvalidModelError,
    ModelLoadError,
    UnknownTargetError,
)
from ndserve.model_cache.disk.external import check_location, external_files
from ndserve.model_cache.disk.locked_folder import LockedFolder, no_room, remove_left_over
from ndserve.model_cache.disk.onnx_file import read_signature
from ndserve.model_cache.disk.repository import (
    VERSION,
    Place,
    folder_place,
    leaves,
    read,
    single_place,
)
from ndserve.model_info import ModelInfo
from ndserve.types import NAME

UPLOAD = ".ndserve-upload-"
GONE = ".ndserve-gone-"
MAX_NAME = 200

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
"""What a rename of a folder says where something else has its name."""


class Upload:
    """One model file on its way into the repository, under a name that nobody sees; leaving it removes what is left."""

    def __init__(self, root: Path, staged: Place, max_bytes: int, folder: LockedFolder, file: FileIO) -> None:
        """`begin` makes one: `folder` lies in `root`, `staged` in that, and `file` is the model file there."""
        self._root = root
        self._name = staged.name
        self._version = staged.version
        self._max_bytes = max_bytes
        self._folder = folder
        self._staged = staged
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0
        self._finished = False
        # A request that is cancelled is abandoned while a thread may still write.
        self._busy = threading.Lock()

    @classmethod
    def begin(cls, root: Path, name: str, version: str, max_bytes: int) -> Self:
        """Make room for a file of at most `max_bytes` bytes, which is to be this version of the model.

        Raises:
            InvalidInputError: the name or the version cannot be one.
            ConflictError: the model's place lies outside of `root`.
            StoreFullError: nothing can be written there.
        """
        if not NAME.fullmatch(name) or len(name) > MAX_NAME:
            raise InvalidInputError(
                f"a model cannot be called {name[:100]!r}: use at most {MAX_NAME} letters, digits, '.', '_' and '-',"
                " and begin with a letter or digit"
            )
        if not VERSION.fullmatch(version):
            raise InvalidInputError(
                f"a version cannot be called {version[:100]!r}: use a whole number of at most 18 digits, without"
                " zeros before it"
            )
        if leaves(root, folder_place(root, name, version).path.parent):
            raise ConflictError(f"the folder of {name!r} is a link out of the model folder; nothing is written there")
        try:
            folder = LockedFolder.make(root, UPLOAD)
        except OSError as error:
            raise no_room(error) from None
        staged = folder_place(folder.path, name, version)
        try:
            staged.path.parent.mkdir(parents=True)
            return cls(root, staged, max_bytes, folder, staged.path.open("xb", buffering=0))
        except OSError as error:
            folder.cleanup()
            raise no_room(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def write(self, chunk: bytes | memoryview) -> None:
        """Add bytes to the file's end.

        Raises:
            BodyTooLargeError: with them the file would be larger than it may be.
            StoreFullError: the disk is full.
            ValueError: the upload was abandoned.
        """
        with self._busy:
            if self._size + len(chunk) > self._max_bytes:
                raise BodyTooLargeError(f"the model is larger than {self._max_bytes} bytes (--max-model-bytes)")
            rest = memoryview(chunk)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError as error:
                raise no_room(error) from None
            self._digest.update(chunk)
            self._size += len(chunk)

    def finish(self, expected: bytes | None = None) -> ModelInfo:
        """See that all has arrived, and that it is a model. Gives what is known of it; it is not in place yet.

        Args:
            expected: the SHA-256 of the file as its sender has it, 32 bytes.

        Raises:
            DigestMismatchError: another file has arrived.
            InvalidModelError: it is no ONNX model, or not one that is served; says why.
            StoreFullError: the disk is full.
        """
        with self._busy:
            found = self._digest.digest()
            if expected is not None and found != expected:
                raise DigestMismatchError(
                    f"the SHA-256 digest of the {self._size} bytes that arrived is {found.hex()}, not {expected.hex()};"
                    " send the file anew"
                )
            try:
                os.fsync(self._file)
                self._file.close()
            except OSError as error:
                raise no_room(error) from None
            try:
                _check_alone(self._staged.path)
            except ModelLoadError as error:
                raise InvalidModelError(error.message) from None
        _sync(self._staged.path.parent)
        former = self._former()
        options = folder_place(self._root, self._name, self._version).options if former is None else former.options
        info = read(Place(self._name, self._version, self._staged.path, options), self._root)
        if info.problem:
            raise InvalidModelError(info.problem)
        self._finished = True
        return info

    def commit(self, replace: bool = False) -> Path:
        """Put the file, once it is finished, into its place, and give that. Its `ModelInfo.stamp` stays.

        Raises:
            ConflictError: that version is there, and is not to be replaced; or something else has its place.
            StoreFullError: nothing can be written there.
        """
        with self._busy:
            assert self._finished
            former = self._former()
            if former is not None and not replace:
                raise ConflictError(
                    f"model {self._name!r} has a version {self._version}; replace it with ?replace=true, or give this"
                    " one another number"
                )
            try:
                return self._put_in_place() if former is None else self._replace(former)
            except FileNotFoundError:
                raise ConflictError(f"model {self._name!r} was deleted meanwhile; send it anew") from None
            except OSError as error:
                raise no_room(error) from None

    def abandon(self) -> None:
        """Remove whatever is not in place. It waits for a write that is under way; a second call does nothing."""
        with self._busy:
            self._file.close()
            self._folder.cleanup()

    def _former(self) -> Place | None:
        """Where the version lies already."""
        places = [folder_place(self._root, self._name, self._version)]
        if self._version == "1":
            places.append(single_place(self._root, self._name))
        return next((place for place in places if place.path.is_file() or place.path.is_symlink()), None)

    def _put_in_place(self) -> Path:
        place = folder_place(self._root, self._name, self._version)
        version, model = place.path.parent, place.options.parent
        try:
            if os.path.lexists(model):
                self._staged.path.parent.rename(version)
            else:  # both folders in one step
                self._staged.options.parent.rename(model)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            raise ConflictError(
                f"something else has the place of model {self._name!r} version {self._version} in the model folder;"
                " remove it, or give this one another number"
            ) from None
        _sync(model)
        _sync(self._root)
        return place.path

    def _replace(self, former: Place) -> Path:
        left = list(_own_external(self._root, former))
        self._staged.path.replace(former.path)
        _sync(former.path.parent)
        for file in left:
            with contextlib.suppress(OSError):  # what stays only takes room
                file.unlink()
        return former.path


def remove_version(root: Path, info: ModelInfo) -> None:
    """Take a version of a model out of the repository, and the model's folder if nothing else is left in it.

    Raises:
        UnknownTargetError: it is not there.
        ConflictError: it does not lie in the repository, or lies behind a link out of it.
        StoreFullError: nothing can be written there.
    """
    name, version = info.name, info.version
    place = next(
        (p for p in (folder_place(root, name, version), single_place(root, name)) if p.path == info.path), None
    )
    if place is None or leaves(root, info.path.parent):
        raise ConflictError(f"model {name!r} version {version} does not lie in the model folder; it cannot be deleted")
    if (root / name).is_symlink() or info.path.parent.is_symlink():
        raise ConflictError(f"model {name!r} version {version} is a link; delete what it leads to, or the link")
    try:
        folder = LockedFolder.make(root, GONE)
        try:
            _take_out(root, place, folder.path)
            _sync(root)
        finally:
            folder.cleanup()
    except FileNotFoundError:
        raise UnknownTargetError(f"model {name!r} version {version} is no longer in the model folder") from None
    except OSError as error:
        raise no_room(error) from None


def check_writable(root: Path) -> None:
    """Raises StoreFullError where nothing can be taken out of the repository."""
    try:
        LockedFolder.make(root, GONE).cleanup()
    except OSError as error:
        raise no_room(error) from None


def clean_up(root: Path) -> None:
    """Remove what uploads and deletions of processes that were killed have left."""
    for prefix in (UPLOAD, GONE):
        remove_left_over(root, prefix)


def _take_out(root: Path, place: Place, gone: Path) -> None:
    """Move what belongs to a version into the folder `gone`. The first move makes the version disappear."""
    if place == single_place(root, place.name):
        left = list(_own_external(root, place))
        place.path.rename(gone / place.path.name)
        for path in (place.options, *left):
            _move(path, gone)
        return
    version, model = place.path.parent, place.options.parent
    version.rename(gone / version.name)
    if not any(VERSION.fullmatch(entry.name) for entry in model.iterdir()):
        _move(place.options, gone)  # without a version it is of no use
        with contextlib.suppress(OSError):  # somebody keeps something else there
            model.rmdir()


def _move(path: Path, folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.rename(folder / path.name)


def _check_alone(path: Path) -> None:
    """Refuse a file that is no model, or not all of one.

    Raises:
        ModelLoadError: says why.
    """
    locations = sorted(read_signature(path).external)
    for location in locations:
        check_location(location)
    if locations:
        raise ModelLoadError(
            f"the model has external data ({locations[0][:100]!r}), which one uploaded file cannot bring; copy such a"
            " model into the model folder instead, or save it with its weights inside"
        )


def _own_external(root: Path, place: Place) -> Iterator[Path]:
    """The external data of a model that no other file beside it uses, and that is nothing else by its name."""
    folder = place.path.parent
    try:
        files = external_files(place.path, read_signature(place.path).external)
        used = {
            file
            for other in folder.glob("*.onnx")
            if other != place.path
            for file in external_files(other, read_signature(other).external)
        }
    except (ModelLoadError, OSError):  # no telling what belongs to whom
        return
    for file in files:
        shared = folder == root and file.parent != root  # where it may belong to the model of that folder
        if file not in used and not shared and file.suffix not in (".onnx", ".toml"):
            yield file


def _sync(folder: Path) -> None:
    """Have a folder's names survive a power cut, where the file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""`ndserve models --models DIR`: a model folder without a server. It needs the extra `server`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ndserve.cli import show
from ndserve.cli.arguments import ModelName
from ndserve.cli.exits import REFUSED, USAGE, UsageError
from ndserve.cli.models import Version, manage
from ndserve.cli.specs import spec_documents
from ndserve.errors import NdserveError, UnknownTargetError
from ndserve.model_cache.disk.repository import scan
from ndserve.model_cache.disk.uploads import Upload, remove_version
from ndserve.model_info import ModelInfo

BLOCK = 1 << 20


class InFolder:
    """The models in a folder. What is put there is checked as a server checks it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.shown = str(root)

    def versions(self, name: str | None) -> Sequence[Version]:
        return [_document(info) for info in self._infos(name)]

    def memory(self) -> Mapping[str, Any] | None:
        return None

    def act(self, action: str, model: ModelName, timeout: float | None) -> Sequence[Version]:
        raise UsageError(f"{action} needs a server, and --models asks none; leave --models out, or say --url")

    def upload(self, name: str, version: str, file: str, replace: bool, timeout: float) -> Version:
        # The folder's owner may put there what fits onto the disk; the limit is for those who come through the server.
        with (
            _reading(file),
            Path(file).open("rb") as opened,
            Upload.begin(self._root, name, version, sys.maxsize) as upload,
        ):
            while chunk := opened.read(BLOCK):
                upload.write(chunk)
            info = upload.finish(None)
            upload.commit(replace)
            return _document(info)

    def delete(self, model: ModelName) -> None:
        infos = [info for info in self._infos(model.name) if model.version in (None, info.version)]
        if not infos:
            raise UnknownTargetError(f"there is no {model} in {self._root}")
        for info in infos:
            remove_version(self._root, info)

    def _infos(self, name: str | None) -> list[ModelInfo]:
        with _reading(str(self._root)):
            infos = scan(self._root, name)
        if name is not None and not infos:
            raise UnknownTargetError(f"there is no {name} in {self._root}")
        return infos


def manage_folder(options: argparse.Namespace) -> int:
    """Run `ndserve models` on a folder; gives the exit code."""
    try:
        root = Path(options.folder)
        if not root.is_dir():
            raise UsageError(f"{root}: there is no such folder")
        return manage(InFolder(root), options)
    except UsageError as error:
        show.note(str(error))
        return USAGE
    except NdserveError as error:
        show.fault(error.code, error.message, options.json)
        return REFUSED


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from None


def _document(info: ModelInfo) -> Version:
    """As much of a server's document as lies on the disk."""
    return {
        "name": info.name,
        "version": info.version,
        "state": "FAILED" if info.problem else "UNLOADED",
        "reason": info.problem or None,
        "bytes": {"file": info.nbytes},
        "pinned": info.options.pinned,
        "inputs": spec_documents(info.inputs),
        "outputs": spec_documents(info.outputs),
    }

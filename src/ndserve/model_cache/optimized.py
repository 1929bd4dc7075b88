"""A folder of graphs that onnxruntime has optimised before, so that a model's next load skips that work.

Optimising takes most of the time of loading a graph of many nodes. What it gives depends on the model, the runtime, the
providers and the processor (https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html,
"Layout Optimizations"), so all of them are in a graph's name.

A graph is a folder with the graph and its weights. The weights lie beside it because a graph that held them itself
would be bound to 2 GB, takes twice as long to load, and would still point to the files of a model that has its own
weights outside. A folder is made under another name and moved into place when it is whole and on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import secrets
import shutil
from pathlib import Path
from typing import Protocol, TypeVar

from ndserve.model_info import ModelInfo

logger = logging.getLogger(__name__)

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

GRAPH = "model.onnx"
WEIGHTS = "weights.bin"

_SPARE = 256 << 20
"""Bytes that stay free on the disk, which others use, too."""


class Opener(Protocol[T_co]):
    """Makes a session of a model."""

    def __call__(self, *, ready: Path | None = None, save: Path | None = None) -> T_co:
        """Of the model's own file, or of `ready`, an optimised graph; leaves one at `save`, with `WEIGHTS` beside it.

        Raises:
            Exception: it could not be done.
        """
        ...


class OptimizedModels:
    """The folder. It takes up to `max_bytes`; what was used least recently goes."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._given_up: set[Path] = set()  # else each load would write what the next one cannot use

    def path_for(self, digest: str, *made_with: str) -> Path:
        """Where the graph of a model is kept that was optimised on this machine.

        Args:
            digest: of all that the model consists of: its file and its external data.
            made_with: what else the graph depends on, such as the version of the runtime.
        """
        key = json.dumps([digest, _processor(), *made_with])
        return self._folder / hashlib.sha256(key.encode()).hexdigest()[:40]

    def open(self, info: ModelInfo, path: Path, opener: Opener[T]) -> T:
        """A session of the graph at `path`, or else of the model itself, whose graph is kept there if it can be.

        Raises:
            Exception: what `opener` raises for the model's own file. A graph that does not load is removed, and one
                that cannot be kept is given up; both are logged.
        """
        if path in self._given_up:
            return opener()
        if not path.is_dir():
            return self._made(info, path, opener) if self._has_room(info) else opener()
        try:
            session = opener(ready=path / GRAPH)
        except Exception as error:  # onnxruntime's errors have no common base class
            logger.warning("the optimised graph of model %s/%s does not load: %s", info.name, info.version, error)
            self._given_up.add(path)
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.utime(path)  # used last now
            return session
        return opener()

    def _has_room(self, info: ModelInfo) -> bool:
        """Whether a graph of about the model's size may be written. A disk that is nearly full is left to others."""
        if info.nbytes > self._max_bytes:
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            logger.warning("%s cannot keep optimised graphs: %s", self._folder, error.strerror)
            return False
        if free < info.nbytes + _SPARE:
            logger.warning(
                "the optimised graph of model %s/%s is not kept: %d bytes are free on the disk of %s, which needs %d",
                info.name,
                info.version,
                free,
                self._folder,
                info.nbytes + _SPARE,
            )
            return False
        return True

    def _made(self, info: ModelInfo, path: Path, opener: Opener[T]) -> T:
        part = self._folder / f".{path.name}.{secrets.token_hex(4)}"
        before = _stamps(info)
        try:
            try:
                part.mkdir(mode=0o700)
                session = opener(save=part / GRAPH)
            except Exception as error:  # onnxruntime's errors have no common base class
                reason = str(error)
            else:
                self._keep(info, part, path, before)
                return session
            session = opener()  # outside of `except`, which would keep the first one's memory
            logger.warning("the optimised graph of model %s/%s is not kept: %s", info.name, info.version, reason)
            self._given_up.add(path)
            return session
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _keep(self, info: ModelInfo, part: Path, path: Path, before: list[tuple[int, ...]]) -> None:
        """Move a graph into place, unless it may be that of other files than those whose digest is known."""
        try:
            if _stamps(info) != before:
                return
            if _nbytes(part) > self._max_bytes:
                self._given_up.add(path)
                return
            for each in (*part.iterdir(), part):
                _sync(each)
            part.rename(path)
            _sync(self._folder)
            self._trim()
        except OSError as error:
            logger.warning(
                "the optimised graph of model %s/%s is not kept: %s", info.name, info.version, error.strerror
            )

    def _trim(self) -> None:
        """Remove what was used least recently until the rest fits, leftovers of a crash included."""
        kept: list[tuple[int, Path, int]] = []
        for entry in self._folder.iterdir():
            with contextlib.suppress(OSError):  # removed meanwhile
                kept.append((entry.stat().st_mtime_ns, entry, _nbytes(entry)))
        excess = sum(size for *_, size in kept) - self._max_bytes
        for _, entry, size in sorted(kept):
            if excess <= 0:
                return
            shutil.rmtree(entry, ignore_errors=True)
            excess -= size


def _stamps(info: ModelInfo) -> list[tuple[int, ...]]:
    """What changes when one of the model's files does; empty where one has gone."""
    try:
        states = [path.stat() for path in (info.path, *info.external)]
    except OSError:
        return []
    return [(state.st_mtime_ns, state.st_size, state.st_ino) for state in states]


def _nbytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _sync(path: Path) -> None:
    """Have the disk hold what was written. A rename that outlives a power cut without it leads to zeros for weights."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _processor() -> str:
    """The instructions that this machine has, by which onnxruntime picks the layout of a convolution's weights.

    proc_cpuinfo(5) has a line of them for each core: `flags` on x86, `Features` on ARM.
    """
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as lines:
        for line in lines:
            if line.startswith(("flags", "Features")):
                return f"{platform.machine()} {line.strip()}"
    return f"{platform.machine()} {platform.processor()}"

"""What models take in memory: expected from their files, or known from the last time they were loaded.

What was measured is kept on disk by the digest of the content, so that a restart, another name or another version
changes nothing about it.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import NamedTuple

from ndserve.model_info import ModelInfo

logger = logging.getLogger(__name__)

OVERHEAD = 256 * 1024
"""Bytes of a session beside its weights. Measured with onnxruntime 1.32 on the CPU: 110 to 190 KB for small graphs."""

MAX_KNOWN = 10_000
"""Most contents whose size is remembered; the ones that were measured longest ago are forgotten."""


class Cost(NamedTuple):
    """Bytes that a model takes once it is loaded, and while it is being loaded; whether that has been measured."""

    resident: int
    loading: int
    measured: bool

    def least_more(self, info: ModelInfo) -> int:
        """The least that it takes beyond that while it is being loaded: its largest weight is there twice."""
        return min(info.largest, self.loading - self.resident)


class Costs:
    """The book of what was measured. Called by the loaders' threads."""

    def __init__(self, path: Path | None, runtime: str, limit: int, *, on_host: bool = False) -> None:
        """`path` is the file that keeps it, or None; `runtime` names the device and what runs there.

        More than `limit` bytes is not believed: a model that were refused for it would never be measured again.
        `on_host` says that the memory is that of the process, where the kernels' forms of the weights are made.
        """
        self._path = path
        self._runtime = runtime
        self._limit = limit
        self._on_host = on_host
        self._writing = threading.Lock()
        self._lock = threading.Lock()
        self._known: dict[str, int] = _read(path)

    def cost(self, info: ModelInfo, digest: str) -> Cost:
        """What the model with that digest takes.

        During the load a weight may be there twice, while it is brought into the form that the kernels want. On the
        host all of them may be, since the former ones go at the end: 1.97 times the file for a model of convolutions,
        1.02 for one of plain products (onnxruntime 1.32, with `Allocator.loading`).
        """
        with self._lock:
            known = self._known.get(self._key(info, digest))
        resident = info.nbytes + OVERHEAD if known is None else known
        more = max(info.nbytes, info.largest) if self._on_host else info.largest
        return Cost(resident, resident + more, known is not None)

    def note(self, info: ModelInfo, digest: str, nbytes: int) -> None:
        """Remember what the model took; of several times the least, since others may have taken memory meanwhile."""
        if nbytes > self._limit:
            return
        key = self._key(info, digest)
        with self._lock:
            if nbytes >= self._known.get(key, self._limit + 1):
                return
            self._known.pop(key, None)
            self._known[key] = nbytes
            while len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
        self._write()

    def _key(self, info: ModelInfo, digest: str) -> str:
        providers = ",".join(info.options.providers or ())
        return f"{self._runtime} {providers} {digest}"

    def _write(self) -> None:
        """Replace the file as a whole. That it could not be written costs nothing but the knowledge."""
        if self._path is None:
            return
        new = self._path.with_suffix(".new")
        with self._writing:
            with self._lock:  # which the event loop takes as well, so it is not held while the disk takes its time
                known = dict(self._known)
            try:
                new.write_text(json.dumps(known))
                new.replace(self._path)
            except OSError as error:
                logger.warning("what models take in memory cannot be kept: %s", error)


def _read(path: Path | None) -> dict[str, int]:
    if path is None or not path.is_file():
        return {}
    try:
        known = json.loads(path.read_text())
        return {str(key): int(nbytes) for key, nbytes in known.items() if int(nbytes) > 0}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("what was known of the memory that models take is lost: %s", error)
        return {}

"""Loads models: checked, opened, warmed up, tried and measured. Its methods run on the loaders' threads.

Nothing of it runs on the lane, which goes on with the models that are there. On a GPU the loader's threads give their
work to the lane's own stream, which CUDA allows to any thread
(https://docs.nvidia.com/cuda/cuda-runtime-api/stream-sync-behavior.html).
"""

from __future__ import annotations

import threading
from typing import Protocol

from ndserve.devices.base import Device
from ndserve.errors import ModelChangedError
from ndserve.model_cache import batch_safety
from ndserve.model_cache.allocator import allocator
from ndserve.model_cache.costs import Cost, Costs
from ndserve.model_cache.disk.digests import AllowedDigests, ContentDigest, digest_of
from ndserve.model_cache.disk.external import check_external
from ndserve.model_cache.disk.stamps import STAMP, stamp_of
from ndserve.model_cache.meter import Meter, Reading
from ndserve.model_cache.on_host import host_run
from ndserve.model_cache.residency import Loaded
from ndserve.model_cache.session import Session
from ndserve.model_cache.warm_up import warm_up
from ndserve.model_info import Batching, ModelInfo

MAX_DIGESTS = 10_000
"""Most files whose digests are remembered."""


class OpenSession(Protocol):
    """`Session.open` with all that is the same for every model."""

    def __call__(self, info: ModelInfo, *, digest: str) -> Session: ...


class Loader:
    """What the cache has its models loaded by (`residency.Loads`)."""

    def __init__(
        self,
        device: Device,
        open_session: OpenSession,
        costs: Costs,
        allowed: AllowedDigests | None = None,
        max_batch_size: int = 1,
    ) -> None:
        """`max_batch_size` is the server's, for models whose model.toml says nothing else."""
        self._device = device
        self._open_session = open_session
        self._costs = costs
        self._allowed = allowed
        self._max_batch_size = max_batch_size
        self._meter = Meter(self._used)
        self._lock = threading.Lock()
        self._digests: dict[tuple[int, ...], ContentDigest] = {}

    def known_cost(self, info: ModelInfo) -> Cost | None:
        digest = self._digests.get(info.stamp)
        return None if digest is None else self._costs.cost(info, digest.whole)

    def cost(self, info: ModelInfo) -> Cost:
        return self._costs.cost(info, self.digest(info).whole)

    def digest(self, info: ModelInfo) -> ContentDigest:
        """The digest of the model's files as they were when `info` was read.

        Raises:
            ModelLoadError: they cannot be read, or have changed since.
        """
        with self._lock:
            found = self._digests.get(info.stamp)
        return self._read(info) if found is None else found

    def _read(self, info: ModelInfo) -> ContentDigest:
        found = digest_of(info)
        _check_unchanged(info)
        with self._lock:
            self._digests[info.stamp] = found
            while len(self._digests) > MAX_DIGESTS:
                del self._digests[next(iter(self._digests))]
        return found

    def known_digest(self, info: ModelInfo) -> str | None:
        """The SHA-256 of the model's files in hex, where they have been read."""
        found = self._digests.get(info.stamp)
        return None if found is None else found.whole

    def load(self, info: ModelInfo, cost: Cost, *, judge: bool) -> Loaded:
        _check_unchanged(info)
        # What is allowed is the content, so it is read each time: times can be set by whoever may write the file.
        digest = self.digest(info) if self._allowed is None else self._read(info)
        if self._allowed is not None:
            self._allowed.check(digest)
        check_external(info)
        self._meter.begin()
        try:
            with allocator.loading():
                session = self._open_session(info, digest=digest.whole)
                check_external(info)  # again, since it may have been another file while it was opened
                with self._device:
                    verdict = self._try(info, session, judge=judge)
        except BaseException:
            self._meter.fail()
            raise
        reading = self._meter.end(info.key, cost.resident)
        if reading.alone is not None:
            # Memory that others gave back meanwhile, or that was free before, must not make it look smaller than it is.
            alone = max(reading.alone, info.nbytes)
            self._costs.note(info, digest.whole, alone)
            reading = Reading(alone)
        return Loaded(session, reading, verdict)

    def gone(self, nbytes: int) -> None:
        allocator.give_back()
        self._meter.gone(nbytes)

    def _try(self, info: ModelInfo, session: Session, *, judge: bool) -> Batching | None:
        """Run the session before anybody else does: what is slow at the first time is not theirs to wait for."""
        run = host_run(self._device, session.run)
        stacks = batch_safety.before_loading(info).mode != "off"
        warm_up(run, info, info.options.max_batch_size or self._max_batch_size, stacks)
        return batch_safety.at_load(run, info) if judge else None

    def _used(self) -> int:
        """Bytes in use, without those that the allocator merely keeps."""
        allocator.give_back()
        return self._device.memory().used


def _check_unchanged(info: ModelInfo) -> None:
    try:
        unchanged = not info.stamp or stamp_of(info.path) == info.stamp[:STAMP]
    except OSError:
        unchanged = False
    if not unchanged:
        raise ModelChangedError(f"the file of model {info.name!r} version {info.version} has changed since it was read")

"""What changes the repository itself while it is served: uploads and deletes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from ndserve.engine.management import Management
from ndserve.engine.takeover import read_repository
from ndserve.engine.target import moved
from ndserve.errors import (
    ConflictError,
    InvalidModelError,
    ModelLoadError,
    NdserveError,
    UnknownTargetError,
    UnsupportedError,
)
from ndserve.model_cache.disk.uploads import Upload, check_writable, remove_version
from ndserve.model_info import ModelInfo

logger = logging.getLogger(__name__)

CHUNK = 1024**2
"""Bytes that are gathered before they are written."""


class Publishing:
    """Puts models into the repository, and takes them out. All methods are for the event loop's thread."""

    def __init__(self, management: Management, max_bytes: int) -> None:
        """`max_bytes` is the most that a model file may have."""
        self.max_bytes = max_bytes
        self._management = management
        self._targets = management.service.targets

    async def check(self, name: str, version: str, *, replaces: bool) -> bool:
        """Refuse early what `upload` would refuse for its name; says whether the version is new.

        Raises:
            ConflictError: the name is a process's, or the version is there and is not to be replaced.
            UnsupportedError: the server has no model repository.
        """
        if name in self._targets.processes:
            raise ConflictError(f"{name!r} is a process; choose another name for the model")
        there = await asyncio.to_thread(read_repository, self._root, name)
        is_new = all(info.version != version for info in there)
        if not (is_new or replaces):
            raise ConflictError(f"model {name!r} has a version {version}; replace it with ?replace=true")
        return is_new

    async def upload(
        self, name: str, version: str, content: AsyncIterator[bytes], *, digest: bytes | None, replaces: bool
    ) -> tuple[bool, ModelInfo]:
        """Take a model file in, see that it loads, and put it into the repository.

        It takes over as any new version does. A name that a client has unloaded stays unloaded. Gives whether the
        version is new, and the version.

        Args:
            content: the ONNX file.
            digest: its SHA-256, where the client has sent it.

        Raises:
            InvalidInputError: no model can have that name or version.
            InvalidModelError, DigestMismatchError, BodyTooLargeError: it is no model that can be served, or not the
                one that was meant.
            ConflictError: as for `check`.
            StoreFullError, ModelTooLargeError, ModelMemoryFullError: there is no room for it.
        """
        await self.check(name, version, replaces=replaces)
        upload = await asyncio.to_thread(Upload.begin, self._root, name, version, self.max_bytes)
        try:
            await _receive(upload, content)
            info = await asyncio.to_thread(upload.finish, digest)
            async with self._management.takeover.once.hold(name):
                return await self._publish(upload, info, replaces=replaces)
        finally:
            await asyncio.to_thread(upload.abandon)

    async def delete(self, name: str, version: str | None = None) -> None:
        """Remove a version of a model from the repository, or all of them, once the tasks that they have are done.

        Raises:
            UnknownTargetError: there is none.
        """
        management = self._management
        async with management.takeover.once.hold(name):
            there = await asyncio.to_thread(read_repository, self._root, name)
            doomed = [info for info in there if version in (None, info.version)]
            if not doomed:
                what = f"model {name!r} version {version}" if version else f"model {name!r}"
                raise UnknownTargetError(f"the model repository has no {what}; GET /models lists what there is")
            left = [info for info in there if info not in doomed]
            unloaded = name in self._targets.withdrawn
            adopts = management.takeover.follows(name) or (unloaded and not left)
            try:
                await asyncio.to_thread(check_writable, self._root)  # before anything is taken out of service
                await self._adopt(name, left if adopts else None)
                # The files stay as long as tasks may need them, which were promised that version.
                await management.retiring.gone(name)
                for info in doomed:
                    await asyncio.to_thread(remove_version, self._root, info)
            except BaseException:
                there = await asyncio.to_thread(read_repository, self._root, name)
                await self._adopt(name, there if adopts and not unloaded else None)
                raise
        logger.info("%s: deleted version %s", name, ", ".join(info.version for info in doomed))

    async def _adopt(self, name: str, infos: list[ModelInfo] | None) -> None:
        """Have these versions answer to the name, as far as they load; None leaves what answers."""
        if infos is not None:
            try:
                await self._management.takeover.adopt(name, infos)
            except NdserveError as error:
                logger.warning("%s: %s", name, error)

    @property
    def _root(self) -> Path:
        if self._management.root is None:
            raise UnsupportedError("the server was started without a model folder (--models)")
        return self._management.root

    async def _publish(self, upload: Upload, info: ModelInfo, *, replaces: bool) -> tuple[bool, ModelInfo]:
        """Have the model loaded from where it lies now, and only then put it into its place."""
        name, takeover, cache = info.name, self._management.takeover, self._management.service.cache
        is_new = await self.check(name, info.version, replaces=replaces)
        target = self._targets.prepare(info)
        assert target is not None  # one that cannot be served has been refused
        default = self._targets.default(name)
        replaced = [
            each
            for each in self._targets.versions(name)
            if each.version == info.version or (each is default and int(each.version) < int(info.version))
        ]
        try:
            await takeover.warm(target, replaced)
            await asyncio.to_thread(upload.commit, replaces)
            there = await asyncio.to_thread(read_repository, self._root, name)
            placed = next((each for each in there if each.version == info.version), None)
            if placed is None:
                raise ConflictError(f"model {name!r} version {info.version} was removed from the folder meanwhile")
        except ModelLoadError as error:
            takeover.drop([target])
            raise InvalidModelError(error.message) from None
        except BaseException:
            takeover.drop([target])
            raise
        # The same file under another path: what is loaded stays loaded.
        ready = moved(target, replace(placed, revision=target.revision))
        cache.move(ready.models[0])
        if takeover.follows(name) and placed.options == info.options:
            try:
                await takeover.adopt(name, there, ready=ready)
            except NdserveError as error:
                logger.warning("%s: %s", name, error)
        else:
            takeover.drop([ready])
        logger.info("%s/%s: uploaded, %d bytes", name, info.version, placed.nbytes)
        return is_new, ready.models[0]


async def _receive(upload: Upload, content: AsyncIterator[bytes]) -> None:
    """Write what arrives, a good deal at a time."""
    gathered = bytearray()
    async for part in content:
        gathered += part
        if len(gathered) >= CHUNK:
            await asyncio.to_thread(upload.write, memoryview(gathered))
            gathered = bytearray()
    await asyncio.to_thread(upload.write, memoryview(gathered))

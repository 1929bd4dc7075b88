"""The models of a server, as methods: `Client.models` and `AsyncClient.models`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

from ndserve.client.body import Body
from ndserve.client.flows import Flow, Flows
from ndserve.client.model_flows import DRAIN_TIMEOUT, LOAD_TIMEOUT, ModelFlows, Version, Versions
from ndserve.client.progress import transfer_bar

T = TypeVar("T")


class _Drive(Protocol):
    def __call__(self, flow: Flow[T]) -> T: ...


class _AsyncDrive(Protocol):
    def __call__(self, flow: Flow[T]) -> Awaitable[T]: ...


class Models:
    """The models of a server. A version of one is a document, as `GET /models/{name}/versions/{version}` gives it.

    All but `list` and `memory` need a key that may manage, where the server has keys.

    Each method may raise ConnectionFailedError: no answer, for as long as the client's patience; ServerError: the
    server refused it, for reasons that have no class of their own; and ValueError: no model can have this name.
    """

    def __init__(self, flows: Flows, drive: _Drive) -> None:
        self._flows = ModelFlows(flows)
        self._drive = drive

    def list(self, name: str | None = None) -> Versions:
        """Every version of every model, or of the model `name`.

        Raises:
            UnknownTargetError: there is no such model.
        """
        return self._drive(self._flows.versions(name))

    def memory(self) -> dict[str, Any]:
        """How full the server's model memory is: `budget_bytes`, `bytes`, `loads` and `evictions`."""
        return self._drive(self._flows.memory())

    def load(self, name: str, version: str | None = None, *, timeout: float = LOAD_TIMEOUT) -> Versions:
        """Load a model and wait until it is ready, for up to `timeout` seconds; gives the versions loaded.

        It may be repeated: a model that is ready stays as it is, and one that is being loaded is waited for. A load
        that is not waited for goes on.

        Raises:
            UnknownTargetError: there is no such model.
            InvalidModelError: it does not load; says why.
            ModelTooLargeError: it is larger than all of the model memory.
            ModelMemoryFullError: other models are in use or pinned, and leave no room for it now.
        """
        return self._drive(self._flows.act("load", name, version, timeout))

    def unload(self, name: str) -> Versions:
        """Take all versions of a model out of service, and free their memory. It may be repeated.

        Raises:
            UnknownTargetError: there is no such model.
        """
        return self._drive(self._flows.act("unload", name, None, DRAIN_TIMEOUT))

    def pin(self, name: str, version: str | None = None) -> Versions:
        """Keep a model in memory once it is loaded, whatever else needs room. It may be repeated.

        Raises:
            UnknownTargetError: there is no such model.
        """
        return self._drive(self._flows.act("pin", name, version))

    def unpin(self, name: str, version: str | None = None) -> Versions:
        """Let a model be evicted again when it is idle. It may be repeated.

        Raises:
            UnknownTargetError: there is no such model.
        """
        return self._drive(self._flows.act("unpin", name, version))

    def upload(
        self,
        name: str,
        version: str,
        file: str | os.PathLike[str] | bytes,
        *,
        replace: bool = False,
        progress: bool | None = None,
        timeout: float = LOAD_TIMEOUT,
    ) -> Version:
        """Put an ONNX file, from a path or as bytes, on the server as a version of a model; gives what it became.

        The file is hashed first, so that the server can tell whether all of it has arrived, and then streamed; it is
        never held in memory. The server has `timeout` seconds to check it. On a terminal a bar on stderr shows how far
        a large file is; `progress` True or False overrides that.

        A broken connection makes the client send all of it again. Where the version is there by then, and its content
        is this file's, an earlier attempt has put it there, and the upload has succeeded. With `replace` the same file
        may be sent as often as one likes. Without it, a second upload of a version is a conflict.

        Raises:
            OSError: the file cannot be read, or has become shorter meanwhile.
            ConflictError: the version is there, and `replace` was not asked for.
            InvalidModelError: the file is no model that can be served; says why.
            DigestMismatchError: something else has arrived than was sent.
            StoreFullError: the server's disk is full.
            ModelTooLargeError, ModelMemoryFullError: as `load`; what it was to replace stays.
        """
        body = Body.of(file)
        with transfer_bar(f"{name}/{version}", body.length, progress) as body.sent:
            return self._drive(self._flows.upload(name, version, body, replace, timeout))

    def delete(self, name: str, version: str | None = None) -> None:
        """Remove a version of a model from the server's disk, or all of them, once the tasks that they have are done.

        Raises:
            UnknownTargetError: there is no such model. Not after a broken connection, where the first attempt may have
                removed it.
        """
        self._drive(self._flows.delete(name, version))


class AsyncModels:
    """The methods of `Models`, as coroutines. They raise what those raise."""

    def __init__(self, flows: Flows, drive: _AsyncDrive) -> None:
        self._flows = ModelFlows(flows)
        self._drive = drive

    async def list(self, name: str | None = None) -> Versions:
        """As `Models.list`."""
        return await self._drive(self._flows.versions(name))

    async def memory(self) -> dict[str, Any]:
        """As `Models.memory`."""
        return await self._drive(self._flows.memory())

    async def load(
        self,
        name: str,
        version: str | None = None,
        *,
        timeout: float = LOAD_TIMEOUT,  # noqa: ASYNC109 - the server is told nothing of it, and the load goes on
    ) -> Versions:
        """As `Models.load`."""
        return await self._drive(self._flows.act("load", name, version, timeout))

    async def unload(self, name: str) -> Versions:
        """As `Models.unload`."""
        return await self._drive(self._flows.act("unload", name, None, DRAIN_TIMEOUT))

    async def pin(self, name: str, version: str | None = None) -> Versions:
        """As `Models.pin`."""
        return await self._drive(self._flows.act("pin", name, version))

    async def unpin(self, name: str, version: str | None = None) -> Versions:
        """As `Models.unpin`."""
        return await self._drive(self._flows.act("unpin", name, version))

    async def upload(
        self,
        name: str,
        version: str,
        file: str | os.PathLike[str] | bytes,
        *,
        replace: bool = False,
        progress: bool | None = None,
        timeout: float = LOAD_TIMEOUT,  # noqa: ASYNC109 - it begins when all is sent
    ) -> Version:
        """As `Models.upload`. The disk is read on a thread."""
        body = await asyncio.to_thread(Body.of, file)
        with transfer_bar(f"{name}/{version}", body.length, progress) as body.sent:
            return await self._drive(self._flows.upload(name, version, body, replace, timeout))

    async def delete(self, name: str, version: str | None = None) -> None:
        """As `Models.delete`."""
        await self._drive(self._flows.delete(name, version))

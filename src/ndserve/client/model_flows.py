"""The calls of model management, as flows."""

from __future__ import annotations

from typing import Any, TypeAlias

import httpx2 as httpx

from ndserve.client import wire
from ndserve.client.body import Body
from ndserve.client.flows import Flow, Flows
from ndserve.client.wire import Call
from ndserve.types import NAME

LOAD_TIMEOUT = 600.0
"""Seconds that a server has by default to load a model, or to check and take over one that was sent."""

DRAIN_TIMEOUT = 600.0
"""Seconds that a server has to end the tasks of a model that is unloaded or deleted."""

Version: TypeAlias = dict[str, Any]
"""The document of one version of a model: `name`, `version`, `state`, `bytes`, …"""

Versions: TypeAlias = list[Version]


class ModelFlows:
    """The calls to one server that are about its models."""

    def __init__(self, flows: Flows) -> None:
        self._flows = flows

    def versions(self, name: str | None) -> Flow[Versions]:
        """The versions of one model, or of all."""
        if name is None:
            response, found = yield from self._catalogue("models")
        else:
            response, _ = yield from self._flows.ask(Call("GET", self._url(name)))
            _check(response, 200)
            found = wire.json_of(response)
        return _versions(response, found)

    def memory(self) -> Flow[dict[str, Any]]:
        """What of the budget is used."""
        response, found = yield from self._catalogue("memory")
        if not isinstance(found, dict):
            raise wire.unexpected(response, "no account of its memory")
        return found

    def act(self, verb: str, name: str, version: str | None, timeout: float | None = None) -> Flow[Versions]:
        """Have something done to a model, or to one version, which may take `timeout` seconds; gives what it became."""
        url = self._url(name, verb) + wire.query({"version": version})
        until = None if timeout is None else self._flows.timing.clock() + timeout
        response, _ = yield from self._flows.ask(Call("POST", url, wait=timeout or 0.0), until)
        _check(response, 200)
        return _versions(response, wire.json_of(response))

    def upload(self, name: str, version: str, body: Body, replace: bool, timeout: float) -> Flow[Version]:
        """Send a model file; the server has `timeout` seconds for it once it is there."""
        url = self._url(name, "versions", version)
        headers = {"Content-Type": "application/octet-stream", **body.headers}
        call = Call("PUT", url + wire.query({"replace": replace or None}), headers, body, timeout)
        response, lost = yield from self._flows.ask(call)
        if lost and response.status_code == 409:
            # What is in the way may be what an earlier attempt has put there, whose answer never came.
            there, _ = yield from self._flows.ask(Call("GET", url))
            found = wire.document(there) if there.status_code == 200 else {}
            if found.get("digest") == f"sha256:{body.digest.hex()}":
                return found
        _check(response, 200, 201)
        return wire.document(response)

    def delete(self, name: str, version: str | None) -> Flow[None]:
        """Remove a version, or all of them, once their tasks are done."""
        url = self._url(name) if version is None else self._url(name, "versions", version)
        response, lost = yield from self._flows.ask(Call("DELETE", url, wait=DRAIN_TIMEOUT))
        if not (lost and wire.code_of(response) == "unknown_target"):  # else an earlier attempt has done it
            _check(response, 204)

    def _catalogue(self, member: str) -> Flow[tuple[httpx.Response, Any]]:
        response, _ = yield from self._flows.ask(Call("GET", self._flows.url + "/models"))
        _check(response, 200)
        return response, wire.document(response).get(member)

    def _url(self, name: str, *rest: str) -> str:
        """The address of a model. A name such as `..` would make another path of it."""
        if not NAME.fullmatch(name):
            raise ValueError(
                f"no model can be called {name!r}: a name has letters, digits, '.', '_' and '-', and begins with a"
                " letter or digit"
            )
        return self._flows.url + wire.path("models", name, *rest)


def _check(response: httpx.Response, *statuses: int) -> None:
    if response.status_code not in statuses:
        raise wire.error_of(response, of_models=True)


def _versions(response: httpx.Response, found: Any) -> Versions:
    if not isinstance(found, list):
        raise wire.unexpected(response, "no list of models")
    return found

"""The model repository extension: index, load and unload.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from functools import partial
from typing import Any

import orjson

from ndserve.codecs.base import excerpt
from ndserve.engine.management import READY, UNCHANGED, Change, Management
from ndserve.errors import InvalidInputError, MalformedBodyError, ModelLoadError, UnsupportedError
from ndserve.routes.asgi import Answer, Call, Intake
from ndserve.routes.open_inference.config import read_config
from ndserve.routes.open_inference.paths import Named

_JSON = b"application/json"
_FILE = "file:"


class Repository:
    """The handlers."""

    def __init__(self, management: Management, intake: Intake) -> None:
        self._management = management
        self._intake = intake

    async def index(self, call: Call, named: Named) -> Answer:
        """POST /v2/repository/index"""
        _refuse_repository(named)
        wanted = await self._read(call)
        ready = wanted.get("ready", False)
        if not isinstance(ready, bool):
            raise MalformedBodyError('"ready" must be true or false')
        entries = [entry for entry in await self._management.index() if not ready or entry.state == READY]
        # A member without a value is left out, as Triton does it.
        lines = [{key: value for key, value in entry._asdict().items() if value} for entry in entries]
        return 200, _JSON, (orjson.dumps(lines),), [], None

    async def load(self, call: Call, named: Named) -> Answer:
        """POST /v2/repository/models/{model}/load"""
        _refuse_repository(named)
        parameters = _parameters(await self._read(call))
        change = await asyncio.to_thread(read_change, parameters, named.model) if parameters else UNCHANGED
        try:
            await self._management.load(named.model, change)
        except ModelLoadError as error:
            # As an inference it would be 503; here the request itself cannot be done.
            raise InvalidInputError(f"failed to load {named.model!r}: {error.message}") from None
        return 200, _JSON, (b"",), [], None

    async def unload(self, call: Call, named: Named) -> Answer:
        """POST /v2/repository/models/{model}/unload"""
        _refuse_repository(named)
        dependents = _parameters(await self._read(call)).get("unload_dependents", False)
        if not isinstance(dependents, bool):
            raise MalformedBodyError("unload_dependents must be true or false")
        await self._management.unload(named.model, dependents=dependents)
        return 200, _JSON, (b"",), [], None

    async def _read(self, call: Call) -> dict[str, Any]:
        """The body as a JSON object; it may be empty."""
        body = await self._intake.read(call)
        if not body or body.isspace():
            return {}
        try:
            document = await asyncio.to_thread(partial(orjson.loads, body))
        except orjson.JSONDecodeError as error:
            raise MalformedBodyError(f"the body is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise MalformedBodyError("the body is not a JSON object")
        return document


def read_change(parameters: dict[str, Any], name: str) -> Change:
    """What the parameters of a load ask for: a `config` as JSON in a text, and files as `file:PATH` in base64.

    Raises:
        InvalidInputError: they are something else, or there are files without a config.
    """
    files: dict[str, bytes] = {}
    config: str | None = None
    for key, value in parameters.items():
        if not isinstance(value, str):
            raise InvalidInputError(f"the parameter {excerpt(key)} must be a text")
        if key == "config":
            config = value
        elif key.startswith(_FILE):
            try:
                files[key.removeprefix(_FILE)] = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise InvalidInputError(f"the parameter {excerpt(key)} is not base64") from None
        else:
            raise InvalidInputError(
                f"the parameter {excerpt(key)} is unknown; use config, or file:PATH beside a config"
            )
    if config is None:
        raise InvalidInputError("files need a config beside them; {} will do")
    mark = hashlib.sha256(orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
    return Change(read_config(config, name), files or None, mark)


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise MalformedBodyError("parameters must be an object")
    return parameters


def _refuse_repository(named: Named) -> None:
    if named.repository:
        raise UnsupportedError(f"there is one repository, without a name; {excerpt(named.repository)} is not supported")

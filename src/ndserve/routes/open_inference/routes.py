"""The choice among the handlers of the protocol, and the short ones."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from ndserve.engine.management import Management
from ndserve.engine.service import InferenceService
from ndserve.engine.target import Target
from ndserve.errors import NdserveError, NotFoundError
from ndserve.routes.asgi import Answer, Call, Found, Handler, Intake
from ndserve.routes.open_inference import documents
from ndserve.routes.open_inference.infer import Inference, find_target
from ndserve.routes.open_inference.paths import Named, read_path
from ndserve.routes.open_inference.repository import Repository

_JSON = b"application/json"


class OpenInferenceRoutes:
    """Everything under `/v2`."""

    def __init__(self, service: InferenceService, management: Management, intake: Intake) -> None:
        self._service = service
        repository = Repository(management, intake)
        self.inference = Inference(service, intake)
        self._handlers: dict[str, Mapping[str, Handler]] = {
            "infer": {"POST": self.inference},
            "v2": {"GET": self._server},
            # HEAD as load balancers ask.
            "v2/health/live": {"GET": self._live, "HEAD": self._live},
            "v2/health/ready": {"GET": self._ready, "HEAD": self._ready},
            "v2/models/stats": {"GET": self._all_statistics},
            "metadata": {"GET": self._metadata},
            "ready": {"GET": self._model_ready},
            "config": {"GET": self._config},
            "stats": {"GET": self._statistics},
            "index": {"POST": repository.index},
            "load": {"POST": repository.load},
            "unload": {"POST": repository.unload},
        }

    def match(self, path: str, method: str) -> Found:
        """The handlers of a path; of one that the protocol does not have, those that say so."""
        named = read_path(path)
        if named is None:
            return {method: _unknown}, path
        return self._handlers[named.action], named

    async def _server(self, call: Call, named: Named) -> Answer:
        return _answer(documents.server_metadata())

    async def _live(self, call: Call, named: Named) -> Answer:
        return _answer({"live": True})

    async def _ready(self, call: Call, named: Named) -> Answer:
        ready = not (self._service.dead or self._service.closing)
        return _answer({"ready": ready}, 200 if ready else 400)

    async def _metadata(self, call: Call, named: Named) -> Answer:
        target = find_target(self._service, named)
        versions = [documents.version_of(version) for version in self._service.targets.versions(target.name)]
        return _answer(documents.model_metadata(target, versions))

    async def _model_ready(self, call: Call, named: Named) -> Answer:
        """400 for a model that is not ready, and 404 for one that is unknown."""
        service = self._service
        try:
            target = find_target(service, named)
        except NdserveError as error:
            if error.status == 404:
                raise
            return _answer({"name": named.model, "ready": False, "error": error.message}, 400)
        problems = [service.dead, *(service.cache.known(info).problem for info in target.models)]
        problem = "the server is shutting down" if service.closing else next(filter(None, problems), "")
        if problem:
            return _answer({"name": named.model, "ready": False, "error": problem}, 400)
        return _answer({"name": named.model, "ready": True})

    async def _config(self, call: Call, named: Named) -> Answer:
        return _answer(documents.model_config(find_target(self._service, named), self._service.lane.device.name))

    async def _statistics(self, call: Call, named: Named) -> Answer:
        if named.version:
            return self._tell([find_target(self._service, named)])
        find_target(self._service, named)
        return self._tell(self._service.targets.versions(named.model))

    async def _all_statistics(self, call: Call, named: Named) -> Answer:
        return self._tell(list(self._service.targets))

    def _tell(self, targets: list[Target]) -> Answer:
        device = self._service.lane.device.name
        entries = []
        for target in targets:
            resident = self._service.cache.resident(target.models[0]) if target.kind == "model" else None
            entries.append(documents.statistics(target, resident.nbytes if resident else 0, device))
        return _answer({"model_stats": entries})


def _answer(document: object, status: int = 200) -> Answer:
    return status, _JSON, (orjson.dumps(document),), [], None


async def _unknown(call: Call, path: str) -> Answer:
    raise NotFoundError(f"the protocol has no path {path[:200]!r} here")

"""Applications behind a gate, with routes for management that say when they have been reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter

from ndserve.access import Role, new_key
from ndserve.main import create_app
from ndserve.routes.app import App
from ndserve.routes.asgi import Answer, Call, Found
from ndserve.routes.open_inference.paths import read_path
from ndserve.settings import Settings
from tests.routes.bodies import ROUTES

MANAGED = {
    "/models": "/models",
    "/models/{name}": "/models/m",
    "/models/{name}/load": "/models/m/load",
    "/models/{name}/versions/{version}": "/models/m/versions/1",
    "/models/{name}/versions/{version}/pin": "/models/m/versions/1/pin",
    "/v2/repository/index": "/v2/repository/index",
    "/v2/repository/models/{name}/load": "/v2/repository/models/m/load",
    "/v2/repository/models/{name}/unload": "/v2/repository/models/m/unload",
    "/v2/repository/{repository}/index": "/v2/repository/r/index",
    "/v2/repository/{repository}/models/{name}/load": "/v2/repository/r/models/m/load",
    "/v2/repository/{repository}/models/{name}/unload": "/v2/repository/r/models/m/unload",
}
"""Routes that only those may use who manage, and a path of each."""

REACHED = b"a managing route was reached"

CHANGING = ["POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW"]


def gated_app(**options: Any) -> App:
    """The application with the user's sample routes, not started, and every managing route."""
    app = create_app(Settings(**{"device": "cpu", "store": "memory", "routes": ROUTES, **options}))
    router = APIRouter()
    for path in MANAGED:
        if path.startswith("/models"):  # reading them is for everybody with a key
            router.api_route(path, include_in_schema=False, methods=CHANGING)(_managing)
    app.router.routes[:0] = router.routes  # before the real ones
    protocol = app.front._open_inference
    match = protocol.match

    def noting(path: str, method: str) -> Found:
        named = read_path(path)
        managing = named is not None and named.action in ("index", "load", "unload")
        return ({method: _reached}, path) if managing else match(path, method)

    setattr(protocol, "match", noting)  # noqa: B010 - mypy takes no assignment to a method
    return app


async def _managing() -> str:
    return REACHED.decode()


async def _reached(call: Call, path: str) -> Answer:
    return 200, b"text/plain", (REACHED,), [], None


class Keys:
    """A key file with one key of each role, and the headers that present them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.txt"
        made = {role: new_key(role.value, role) for role in Role}
        self.path.write_text("".join(f"{line}\n" for _, line in made.values()))
        self.infer, self.manage = (self.header(made[role][0]) for role in Role)

    @staticmethod
    def header(secret: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {secret}")]

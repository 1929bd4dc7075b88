"""No spelling of a path, no method and no header gets past the gate: neither without a key nor with one too few."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ndserve.routes.app import App
from tests.routes.gated import MANAGED, REACHED, Keys, gated_app
from tests.routes.raw import Headers, ask, scope_of
from tests.routes.spellings import METHODS, OVERRIDES, spellings

USED = {
    *("/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/models", "/models/digits"),
    *("/process_np_array", "/result/t1", "/tasks", "/tasks/identity", "/tasks/t1/result", "/tasks/t1/events"),
    *("/tasks/t1/retry", "/tasks/identity/own", "/v2", "/v2/models/stats", "/v2/models/m/infer", "/digit", "/square/3"),
    *("/v2/models/m/versions/1/ready", "/crash", "/no/such/path"),
}
ANYTHING = """
from fastapi import APIRouter

router = APIRouter()


@router.api_route("/{rest:path}", methods=["PUT", "PATCH"])
async def anything(rest: str) -> str:
    return "anything"
"""
HEALTH = ("/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def app(keys: Keys) -> App:
    return gated_app(api_keys_file=keys.path)


@pytest.fixture(scope="module")
def closed() -> App:
    """Without keys, listening on every interface."""
    return gated_app(host="0.0.0.0")


def attempts(path: str) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Every method on every spelling, and every override of method and path beside the path itself."""
    for target in spellings(path):
        for method in METHODS:
            yield method, target, []
    for name, value in OVERRIDES:
        for method in ("GET", "POST"):
            for other in ("/health", "/tasks/identity", path):
                for meant in ("POST", "GET"):
                    yield method, other, [(name, value.format(method=meant, path=path))]


def reaching(app: App, path: str, headers: Headers, local: str = "127.0.0.1") -> list[tuple[str, str]]:
    """The attempts at a managing path that reach a managing route."""
    found = []
    for method, target, further in attempts(path):
        if REACHED in ask(app, scope_of(method, target, [*headers, *further], local)).body:
            found.append((method, target))
    return found


@pytest.mark.parametrize("path", MANAGED.values())
def test_nothing_reaches_management_with_a_key_that_may_only_infer(app: App, keys: Keys, path: str) -> None:
    assert reaching(app, path, keys.infer) == []


@pytest.mark.parametrize("path", MANAGED.values())
def test_nothing_reaches_management_where_it_is_closed(closed: App, path: str) -> None:
    assert reaching(closed, path, [("host", "127.0.0.1:8076")]) == []


@pytest.mark.parametrize("path", MANAGED.values())
def test_the_plain_path_reaches_management_with_a_key_that_may_manage(app: App, keys: Keys, path: str) -> None:
    assert ("POST", path) in reaching(app, path, keys.manage)


@pytest.mark.parametrize("path", sorted({*MANAGED.values(), *USED}))
@pytest.mark.parametrize("headers", [[], Keys.header("nds_unknown")], ids=["none", "unknown"])
def test_without_a_key_everything_but_health_is_unauthorized(app: App, path: str, headers: Headers) -> None:
    answered = set()
    for method, target, further in attempts(path):
        scope = scope_of(method, target, [*headers, *further])
        if not (scope["path"] in HEALTH and method in ("GET", "HEAD", "OPTIONS")):
            answered.add(ask(app, scope).status)
    assert answered == {401}


@pytest.mark.parametrize("path", HEALTH)
def test_no_other_spelling_of_health_is_open(app: App, path: str) -> None:
    for target in spellings(path):
        for method in METHODS:
            scope = scope_of(method, target)
            if not (scope["path"] == path and method in ("GET", "HEAD", "OPTIONS")):
                assert scope["path"] in HEALTH or ask(app, scope).status == 401, (method, target)


@pytest.mark.parametrize("path", MANAGED.values())
def test_a_users_route_for_every_path_opens_no_management(tmp_path: Path, keys: Keys, path: str) -> None:
    (tmp_path / "anything.py").write_text(ANYTHING)
    app = gated_app(api_keys_file=keys.path, routes=tmp_path)
    # The user's come last, so that what the gate takes for them would find ndserve's own route first.
    app.router.routes.sort(key=lambda route: any("rest" in str(inner) for inner in inner_routes(route)))
    assert ask(app, scope_of("PATCH", "/of/the/user", keys.infer)).body == b'"anything"'
    assert reaching(app, path, keys.infer) == []


def inner_routes(route: Any) -> list[Any]:
    """The routes of a router, of which FastAPI makes one."""
    router = getattr(route, "original_router", None)
    return [] if router is None else list(router.routes)

"""The table of rights: it knows every route, and gives each what it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from ndserve.access import Role
from ndserve.main import create_app
from ndserve.routes.openapi import HOT_PATHS
from ndserve.routes.rights import INFER, MANAGE, OPEN, READING, rights_of
from ndserve.settings import Settings

CHANGING = ("POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "get", "")

EXPECTED: dict[str, tuple[Role | None, Role | None]] = {
    **dict.fromkeys(("/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"), (OPEN, INFER)),
    **dict.fromkeys(("/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"), (INFER, INFER)),
    **dict.fromkeys(("/process_np_array", "/result/t1", "/tasks", "/tasks/digits", "/tasks/t1/result"), (INFER, INFER)),
    **dict.fromkeys(("/tasks/t1/events", "/tasks/t1/retry", "/tasks/digits/own-id"), (INFER, INFER)),
    **dict.fromkeys(("/v2", "/v2/models/stats"), (INFER, INFER)),
    **{
        f"/v2/models/m{version}{verb}": (INFER, INFER)
        for version in ("", "/versions/1")
        for verb in ("", "/infer", "/ready", "/config", "/stats")
    },
    **dict.fromkeys(("/models", "/models/m", "/models/m/", "/models/m/load", "/models/m/versions/1"), (INFER, MANAGE)),
    **dict.fromkeys(("/models/m/versions/1/pin", "/models/m/a/b"), (INFER, MANAGE)),
    **{
        f"/v2/repository{repository}{rest}": (MANAGE, MANAGE)
        for repository in ("", "/mine")
        for rest in ("/index", "/models/m/load", "/models/m/unload")
    },
}

UNKNOWN = (
    *("", "*", "models", "/health/", "/Health", "/HEALTH/live", "/health/live/", "/health\n", "/docs/", "/models/"),
    *(
        "/models//load",
        "//models",
        "/models\n",
        "/tasks/",
        "/tasks//",
        "/tasks/a/b/c",
        "/result/",
        "/result/a/b",
        "/result",
    ),
    *(
        "/v2/",
        "/v2/models",
        "/v2/models/",
        "/v2/models/m/",
        "/v2/models/m/load",
        "/v2/models/m/versions",
        "/V2/models/m",
    ),
    *("/v2/models/m/versions/1/load", "/v2/models/m/infer/", "/v2/repository", "/v2/repository/index/", "/v2/health"),
    *("/v2/repository/models/m", "/v2/repository/models/m/load/", "/v2/repository/models/m/load\n", "/metrics", "/."),
)


def routes_of(routes: Iterable[Any]) -> Iterator[Any]:
    """All routes, also those within routers."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        yield from routes_of(inner.routes) if inner is not None else (route,)


def own_paths() -> set[str]:
    """Every path that FastAPI or a hot route answers."""
    app = create_app(Settings(device="cpu", store="memory"))
    return {route.path for route in routes_of(app.routes)} | set(app.openapi()["paths"]) | set(HOT_PATHS)


def test_the_table_knows_every_route() -> None:
    paths = own_paths()
    assert paths >= {"/docs", "/models/{name}", "/process_np_array", "/tasks/{task_id}/events"}
    assert {path for path in paths if rights_of(re.sub(r"\{\w+\}", "x", path)) is None} == set()


@pytest.mark.parametrize("path", EXPECTED)
def test_a_path_gives_reading_what_it_needs(path: str) -> None:
    rights = rights_of(path)
    assert rights is not None
    assert {rights.of(method) for method in READING} == {EXPECTED[path][0]}


@pytest.mark.parametrize("path", EXPECTED)
def test_a_path_gives_every_other_method_what_changing_needs(path: str) -> None:
    rights = rights_of(path)
    assert rights is not None
    assert {rights.of(method) for method in CHANGING} == {EXPECTED[path][1]}


@pytest.mark.parametrize("path", UNKNOWN)
def test_a_path_that_only_looks_like_one_is_not_known(path: str) -> None:
    assert rights_of(path) is None


def test_nothing_but_health_is_open() -> None:
    opened = {path for path, (reading, _) in EXPECTED.items() if reading is OPEN}
    assert opened == {path for path in EXPECTED if path.rpartition("health")[1]}

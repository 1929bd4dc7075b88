"""The gate with a key file: who is refused, how that is told, and what strangers hear of the server's health."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndserve.errors import StartupError
from ndserve.main import create_app
from ndserve.routes.app import App
from ndserve.routes.asgi import Message
from ndserve.settings import Settings
from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import floats, npy, problem
from tests.routes.gated import REACHED, Keys, gated_app
from tests.routes.raw import ask, scope_of

NEEDS_KEY = 'Bearer realm="ndserve"'
INVALID = 'Bearer realm="ndserve", error="invalid_token"'
INSUFFICIENT = 'Bearer realm="ndserve", error="insufficient_scope"'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def server(keys: Keys) -> Iterator[InProcessServer]:
    with serving(api_keys_file=keys.path) as started:
        yield started


@pytest.fixture(scope="module")
def app(keys: Keys) -> App:
    return gated_app(api_keys_file=keys.path)


def test_a_request_without_a_key_is_told_to_send_one(server: InProcessServer) -> None:
    answer = server.http.get("/models")
    assert "Authorization: Bearer KEY" in problem(answer, 401, "unauthorized")["detail"]
    assert answer.headers["www-authenticate"] == NEEDS_KEY


@pytest.mark.parametrize("value", ["Bearer nds_unknown", "Bearer", "Basic YTpi", ""])
def test_a_key_that_is_not_in_force_is_invalid_and_not_repeated(server: InProcessServer, value: str) -> None:
    answer = server.http.get("/models", headers={"authorization": value})
    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == INVALID
    assert "nds_unknown" not in answer.text


def test_two_keys_are_none(app: App, keys: Keys) -> None:
    answer = ask(app, scope_of("GET", "/models", [*keys.infer, *keys.manage]))
    assert (answer.status, answer.headers["www-authenticate"]) == (401, INVALID)


def test_a_key_for_inference_submits_and_fetches(server: InProcessServer, keys: Keys) -> None:
    answer = server.http.post("/tasks/identity?wait=20", content=npy(floats(2)), headers=dict(keys.infer))
    assert answer.status_code == 200


def test_a_body_without_a_key_is_refused_before_it_is_read(server: InProcessServer) -> None:
    problem(server.http.post("/tasks/identity?wait=20", content=npy(floats(2))), 401, "unauthorized")
    assert server.service.stats()["queue"]["live"] == 0


def test_a_key_for_inference_may_not_manage_and_is_told_which_role_does(app: App, keys: Keys) -> None:
    answer = ask(app, scope_of("POST", "/models/m/load", keys.infer))
    assert (answer.status, answer.document["code"]) == (403, "forbidden")
    assert answer.document["detail"] == "the key 'infer' has the role infer; this needs manage"
    assert answer.headers["www-authenticate"] == INSUFFICIENT


def test_a_key_for_management_manages_and_infers(app: App, keys: Keys) -> None:
    assert REACHED in ask(app, scope_of("POST", "/models/m/load", keys.manage)).body
    assert ask(app, scope_of("GET", "/square/3", keys.manage)).body == b"9"


def test_a_key_for_management_manages_from_anywhere(app: App, keys: Keys) -> None:
    headers = [*keys.manage, ("host", "models.example"), ("origin", "https://elsewhere.example")]
    assert REACHED in ask(app, scope_of("POST", "/models/m/load", headers, local="192.0.2.7")).body


def test_a_users_own_route_needs_a_key(app: App, keys: Keys) -> None:
    assert ask(app, scope_of("GET", "/square/3")).status == 401
    assert ask(app, scope_of("GET", "/square/3", keys.infer)).body == b"9"


def test_a_path_that_is_none_is_not_found_with_a_key_alone(app: App, keys: Keys) -> None:
    assert ask(app, scope_of("GET", "/no/such/path")).status == 401
    assert ask(app, scope_of("GET", "/no/such/path", keys.infer)).status == 404


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/v2/models/m/infer", [], 401), ("/v2/repository/index", ["infer"], 403), ("/v2/nothing", ["infer"], 404)],
)
def test_below_v2_a_refusal_has_the_form_of_the_open_inference_protocol(
    app: App, keys: Keys, path: str, headers: list[str], status: int
) -> None:
    answer = ask(app, scope_of("POST", path, keys.infer if headers else []))
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert list(answer.document) == ["error"]
    assert answer.document["error"]


def test_a_root_path_is_no_part_of_what_is_looked_up(app: App, keys: Keys) -> None:
    assert ask(app, scope_of("GET", "/health/live", root="/inference")).status == 200
    assert ask(app, scope_of("GET", "/models", root="/inference")).status == 401
    assert ask(app, scope_of("POST", "/models/m/load", keys.infer, root="/inference")).status == 403


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer nds_unknown"}], ids=["none", "unknown"])
def test_health_needs_no_key(server: InProcessServer, path: str, headers: dict[str, str]) -> None:
    assert server.http.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer nds_unknown"}], ids=["none", "unknown"])
def test_a_stranger_hears_whether_it_is_well_and_no_figures(server: InProcessServer, headers: dict[str, str]) -> None:
    assert server.http.get("/health", headers=headers).json().keys() == {"status", "version"}


def test_a_caller_with_a_key_hears_the_figures(server: InProcessServer, keys: Keys) -> None:
    assert server.http.get("/health", headers=dict(keys.infer)).json().keys() >= {"device", "queue", "store"}


def test_without_a_key_file_everybody_hears_the_figures() -> None:
    with serving() as server:
        assert "device" in server.http.get("/health").json()


def test_a_stranger_is_not_told_why_a_server_is_dead(keys: Keys) -> None:
    with serving(api_keys_file=keys.path) as server:
        server.service.dead = "the device has gone"
        answer = server.http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "dead")
        assert "gone" not in answer.text


def test_a_websocket_without_a_key_is_closed_before_it_opens(app: App) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {**scope_of("GET", "/square/3"), "type": "websocket", "subprotocols": []}
    del scope["method"]
    asyncio.run(app(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_key_file_together_with_open_management_is_refused_at_start(keys: Keys) -> None:
    with pytest.raises(StartupError, match=r"--open-management .* --api-keys-file"):
        create_app(Settings(device="cpu", api_keys_file=keys.path, open_management=True))


def test_a_key_file_with_a_fault_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("alice\n")
    with pytest.raises(StartupError, match=r"keys\.txt:1: "):
        create_app(Settings(device="cpu", api_keys_file=tmp_path / "keys.txt"))

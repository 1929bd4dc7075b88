"""Management without a key file: for this machine's user on the loopback, and closed to everybody else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ndserve.routes.app import App
from ndserve.routes.gate import open_gate
from ndserve.routes.local import is_loopback
from tests.routes.gated import REACHED, gated_app
from tests.routes.raw import Answer, Headers, ask, scope_of

HOST = [("host", "127.0.0.1:8076")]
REMEDY = "start the server with --api-keys-file or --open-management"


@pytest.fixture(scope="module")
def app() -> App:
    return gated_app()


def manage(app: App, headers: Headers, local: str | None = "127.0.0.1", path: str = "/models/m/load") -> Answer:
    return ask(app, scope_of("POST", path, headers, local))


def refused(answer: Answer) -> str:
    """The reason of a refusal, which says what to do."""
    assert (answer.status, answer.document["code"]) == (403, "forbidden")
    detail: str = answer.document["detail"]
    assert detail.endswith(REMEDY)
    assert "www-authenticate" not in answer.headers  # no key would help
    return detail


@pytest.mark.parametrize(
    ("local", "host"),
    [
        ("127.0.0.1", "127.0.0.1:8076"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost:8076"),
        ("127.0.0.1", "LocalHost"),
        ("127.8.9.10", "127.8.9.10:1"),
        ("::1", "[::1]:8076"),
        ("::ffff:127.0.0.1", "127.0.0.1:8076"),
        ("127.0.0.1", "[::ffff:127.0.0.1]:8076"),
    ],
)
def test_this_machines_user_manages_over_the_loopback(app: App, local: str, host: str) -> None:
    assert REACHED in manage(app, [("host", host)], local).body


@pytest.mark.parametrize("bind", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_management_is_open_where_the_server_listens_on_the_loopback(bind: str) -> None:
    assert REACHED in manage(gated_app(host=bind), HOST).body


@pytest.mark.parametrize("bind", ["0.0.0.0", "::", "", "192.0.2.7", "example.org", "localhost.example.org"])
def test_management_is_closed_where_the_server_listens_elsewhere(bind: str) -> None:
    detail = refused(manage(gated_app(host=bind), HOST))
    assert detail == f"management is closed on {bind}; {REMEDY}"


@pytest.mark.parametrize(
    "local", ["192.0.2.7", "0.0.0.0", "10.0.0.1", "fe80::1", "2001:db8::1", "/run/ndserve.sock", None]
)
def test_management_is_closed_to_a_connection_at_another_address_whatever_was_configured(
    app: App, local: str | None
) -> None:
    assert "not a loopback address" in refused(manage(app, HOST, local))


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [""],
        ["evil.example"],
        ["evil.example:8076"],
        ["127.0.0.1.evil.example:8076"],
        ["localhost.evil.example"],
        ["evil.localhost"],
        ["192.0.2.7:8076"],
        ["0.0.0.0:8076"],
        ["127.1"],
        ["2130706433"],
        ["127.0.0.1:8076:1"],
        ["127.0.0.1:"],
        ["user@127.0.0.1"],
        ["127.0.0.1@evil.example"],
        ["::1"],
        ["[::1"],
        ["[::2]:8076"],
        ["127.0.0.1", "evil.example"],
    ],
    ids=repr,
)
def test_a_host_that_is_not_the_loopback_manages_nothing(app: App, hosts: list[str]) -> None:
    assert "its Host is " in refused(manage(app, [("host", host) for host in hosts]))


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8076", "HTTP://127.0.0.1:8076", "https://127.0.0.1:8076"])
def test_a_page_of_the_server_itself_manages(app: App, origin: str) -> None:
    assert REACHED in manage(app, [*HOST, ("origin", origin), ("sec-fetch-site", "same-origin")]).body


@pytest.mark.parametrize(
    "origins",
    [
        ["https://evil.example"],
        ["http://127.0.0.1"],
        ["http://127.0.0.1:3000"],
        ["http://localhost:8076"],
        ["http://127.0.0.1:8076.evil.example"],
        ["http://127.0.0.1:8076/"],
        ["127.0.0.1:8076"],
        ["file://127.0.0.1:8076"],
        ["null"],
        [""],
        ["http://127.0.0.1:8076", "https://evil.example"],
    ],
    ids=repr,
)
def test_a_page_of_another_origin_manages_nothing(app: App, origins: list[str]) -> None:
    assert "of another origin" in refused(manage(app, [*HOST, *(("origin", origin) for origin in origins)]))


@pytest.mark.parametrize("site", ["cross-site", "same-site", ""])
def test_a_page_of_another_site_manages_nothing(app: App, site: str) -> None:
    assert "of another site" in refused(manage(app, [*HOST, ("sec-fetch-site", site)]))


@pytest.mark.parametrize("name", ["x-forwarded-for", "x-real-ip", "x-forwarded-host", "forwarded", "via"])
def test_what_a_proxy_has_passed_on_manages_nothing(app: App, name: str) -> None:
    assert f"a proxy has passed it on ({name})" in refused(manage(app, [*HOST, (name, "127.0.0.1")]))


def test_a_long_host_is_not_repeated_whole(app: App) -> None:
    assert len(refused(manage(app, [("host", "a" * 10_000)]))) < 400


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_open_management_is_open_to_everyone(host: str) -> None:
    app = gated_app(host=host, open_management=True)
    headers = [("host", "evil.example"), ("origin", "https://evil.example"), ("via", "1.1 proxy")]
    assert REACHED in manage(app, headers, "192.0.2.7").body


def test_where_management_is_closed_everything_else_is_open() -> None:
    app = gated_app(host="0.0.0.0")
    for path in ("/models", "/", "/square/3", "/openapi.json"):
        assert ask(app, scope_of("GET", path, [("host", "models.example")], "192.0.2.7")).status == 200


def test_below_v2_a_closed_management_has_the_form_of_the_open_inference_protocol(app: App) -> None:
    answer = manage(app, [], path="/v2/repository/index")
    assert answer.status == 403
    assert answer.document["error"].endswith(REMEDY)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "management: open to this machine (--host 127.0.0.1, no --api-keys-file)"),
        ({"host": "0.0.0.0"}, f"management: closed on 0.0.0.0; {REMEDY}"),
        ({"host": "0.0.0.0", "open_management": True}, "management: open to everyone who reaches the server"),
    ],
)
def test_the_log_says_at_the_start_who_may_manage_and_why(
    options: dict[str, object], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gated_app(**options)
    assert next(line for line in caplog.messages if line.startswith("management: ")).startswith(words)


def test_the_log_says_how_many_keys_there_are(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text(f"alice sha256:{'0' * 64} manage\n")
    gate = open_gate(tmp_path / "keys.txt", "0.0.0.0", open_management=False)
    assert gate.describe() == "with a key of the role manage (--api-keys-file, keys in force: 1)"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.255.254", "::1", "0:0:0:0:0:0:0:1", "localhost"])
def test_an_address_of_this_machine_alone_is_a_loopback_one(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["128.0.0.1", "0.0.0.0", "::", "10.0.0.1", "localhost.", "", "::ffff:10.0.0.1", "[::1]"]
)
def test_any_other_address_or_name_is_none(host: str) -> None:
    assert not is_loopback(host)

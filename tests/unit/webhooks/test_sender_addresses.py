"""To which address a message goes: the one that was checked, and by the name all the same."""

from __future__ import annotations

import ssl

import pytest

from ndserve.webhooks import Sent
from ndserve.webhooks.sender import resolve
from tests.unit.webhooks.rig import NAME, PUBLIC, Names, a_sender, network, run

OTHER = "8.8.8.8"


def sent(url: str, *allowed: str, names: Names) -> Sent:
    async def main() -> Sent:
        async with a_sender(*allowed, names=names) as sender:
            return await sender.send(url, "msg_1", b"{}", 0.0)

    return run(main())


def test_a_name_is_resolved_once_and_what_it_became_later_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch)
    names = Names([PUBLIC], ["127.0.0.1"])
    assert sent(f"https://{NAME}/", names=names).delivered
    assert names.asked == [(NAME, 443)]
    assert net.connected == [(PUBLIC, 443)]


def test_the_next_message_asks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch)
    names = Names([PUBLIC], ["127.0.0.1"])

    async def main() -> list[Sent]:
        async with a_sender(names=names) as sender:
            return [await sender.send(f"https://{NAME}/", f"msg_{number}", b"{}", 0.0) for number in range(2)]

    first, second = run(main())
    assert first.delivered
    assert second.status is None
    assert net.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00::1"])
def test_a_refused_address_is_not_connected_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    net = network(monkeypatch)
    result = sent(f"https://{NAME}/", names=Names([address]))
    assert result.status is None
    assert NAME in result.error
    assert "not a public address" in result.error
    assert net.connected == []


@pytest.mark.parametrize("addresses", [["10.0.0.1", PUBLIC], [PUBLIC, "10.0.0.1"]])
def test_no_refused_address_is_connected_to_beside_one_that_passes(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    net = network(monkeypatch, PUBLIC)
    assert not sent(f"https://{NAME}/", names=Names(addresses)).delivered
    assert "10.0.0.1" not in [host for host, _ in net.connected]


def test_an_allowed_host_may_lead_to_a_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch)
    assert sent(f"http://{NAME}:8080/", f"{NAME}:8080", names=Names(["10.0.0.1"])).delivered
    assert net.connected == [("10.0.0.1", 8080)]


def test_the_next_address_is_tried_where_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch, PUBLIC)
    assert sent(f"https://{NAME}/", names=Names([PUBLIC, OTHER])).delivered
    assert net.connected == [(PUBLIC, 443), (OTHER, 443)]


def test_it_has_failed_where_no_address_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch, PUBLIC, OTHER)
    result = sent(f"https://{NAME}/", names=Names([PUBLIC, OTHER]))
    assert result == (None, f"{OTHER} does not answer")
    assert net.connected == [(PUBLIC, 443), (OTHER, 443)]


def test_a_name_without_an_address_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    network(monkeypatch)
    assert NAME in sent(f"https://{NAME}/", names=Names([])).error


def test_tls_is_for_the_name_and_not_for_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch)
    sent(f"https://{NAME}/", names=Names([PUBLIC]))
    assert [host for host, _ in net.tls] == [NAME]


def test_the_certificate_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch)
    sent(f"https://{NAME}/", names=Names([PUBLIC]))
    ((_, context),) = net.tls
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_plain_http_has_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch)
    assert sent(f"http://{NAME}/", NAME, names=Names([PUBLIC])).delivered
    assert net.tls == []


def test_a_url_that_is_no_longer_allowed_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(monkeypatch)
    names = Names([PUBLIC])
    result = sent(f"http://{NAME}/", names=names)
    assert result.status is None
    assert "--webhook-allow" in result.error
    assert (names.asked, net.connected) == ([], [])


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_the_system_resolves_an_address_to_itself(host: str, address: str) -> None:
    assert run(resolve(host, 443)) == [address]

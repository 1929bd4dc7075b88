"""Which URLs and addresses a webhook may go to."""

from __future__ import annotations

import pytest

from ndserve.errors import InvalidParameterError, StartupError
from ndserve.webhooks import Guard, RefusedAddressError

PUBLIC = ["8.8.8.8", "93.184.216.34", "192.0.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"]
NOT_PUBLIC = {
    "this network": "0.0.0.0",
    "this network's end": "0.255.255.255",
    "private 10": "10.1.2.3",
    "carrier-grade NAT": "100.64.0.1",
    "carrier-grade NAT's end": "100.127.255.255",
    "loopback": "127.0.0.1",
    "loopback's end": "127.255.255.254",
    "cloud metadata": "169.254.169.254",
    "private 172": "172.16.0.1",
    "private 172's end": "172.31.255.255",
    "protocol assignments": "192.0.0.192",
    "documentation": "192.0.2.1",
    "6to4 relay": "192.88.99.1",
    "private 192": "192.168.1.1",
    "benchmarking": "198.19.255.255",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "unspecified 6": "::",
    "loopback 6": "::1",
    "IPv4-compatible": "::127.0.0.1",
    "IPv4-mapped": "::ffff:127.0.0.1",
    "IPv4-mapped metadata": "::ffff:a9fe:a9fe",
    "IPv4-translated": "::ffff:0:127.0.0.1",
    "NAT64": "64:ff9b::10.0.0.1",
    "local NAT64": "64:ff9b:1::1",
    "discard": "100::1",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "benchmarking 6": "2001:2::1",
    "documentation 6": "2001:db8::1",
    "newer documentation 6": "3fff::1",
    "6to4 of loopback": "2002:7f00:1::",
    "6to4": "2002:808:808::1",
    "segment routing": "5f00::1",
    "unique local": "fc00::1",
    "metadata 6": "fd00:ec2::254",
    "link-local": "fe80::1",
    "link-local with a zone": "fe80::1%eth0",
    "site-local": "fec0::1",
    "multicast 6": "ff02::1",
}


def refusal(url: str, *allowed: str) -> str:
    with pytest.raises(InvalidParameterError) as caught:
        Guard(allowed).check_url(url)
    return caught.value.message


# addresses


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_passes(address: str) -> None:
    Guard([]).check_address("hook.example", 443, address)


@pytest.mark.parametrize("address", ["::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_an_address_that_holds_a_public_one_passes(address: str) -> None:
    Guard([]).check_address("hook.example", 443, address)


@pytest.mark.parametrize("address", NOT_PUBLIC.values(), ids=NOT_PUBLIC.keys())
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(RefusedAddressError, match=r"hook\.example"):
        Guard([]).check_address("hook.example", 443, address)


@pytest.mark.parametrize("address", NOT_PUBLIC.values(), ids=NOT_PUBLIC.keys())
def test_a_host_that_is_allowed_may_have_any_address(address: str) -> None:
    Guard(["hook.example"]).check_address("hook.example", 443, address)


def test_a_host_that_is_allowed_at_one_port_is_not_at_another() -> None:
    guard = Guard(["hook.example:8080"])
    guard.check_address("hook.example", 8080, "10.0.0.1")
    with pytest.raises(RefusedAddressError):
        guard.check_address("hook.example", 8081, "10.0.0.1")


# URLs


def test_a_url_is_taken_apart() -> None:
    assert Guard([]).check_url("https://Hook.Example:8443/a/b?c=d&e=%20") == (
        *(True, "hook.example", 8443),
        "/a/b?c=d&e=%20",
    )


@pytest.mark.parametrize(
    ("url", "port", "target"),
    [
        ("https://hook.example", 443, "/"),
        ("HTTPS://hook.example?a", 443, "/?a"),
        ("https://hook.example:443/", 443, "/"),
        ("https://hook.example./", 443, "/"),
    ],
)
def test_what_a_url_leaves_out_is_filled_in(url: str, port: int, target: str) -> None:
    assert Guard([]).check_url(url) == (True, "hook.example", port, target)


def test_a_name_in_another_script_gets_its_ascii_form() -> None:
    assert Guard([]).check_url("https://BÜCHER.example/").host == "xn--bcher-kva.example"


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]"])
def test_a_public_address_may_stand_in_a_url(host: str) -> None:
    assert Guard([]).check_url(f"https://{host}/").host == host.strip("[]")


def test_plain_http_is_refused() -> None:
    message = refusal("http://hook.example/")
    assert "https://" in message
    assert "--webhook-allow" in message


def test_plain_http_is_taken_where_the_host_is_allowed() -> None:
    assert Guard(["hook.example"]).check_url("http://hook.example/") == (False, "hook.example", 80, "/")


@pytest.mark.parametrize("url", ["http://HOOK.example./", "http://hook.example:80/x"])
def test_an_allowed_host_may_be_written_in_any_way(url: str) -> None:
    assert Guard(["Hook.Example:80"]).check_url(url).host == "hook.example"


def test_an_allowed_name_may_be_in_another_script() -> None:
    assert Guard(["bücher.example"]).check_url("http://xn--bcher-kva.example/").port == 80


@pytest.mark.parametrize("entry", ["[::1]", "[::1]:8080", "[0:0::1]:8080"])
def test_an_allowed_ipv6_address_stands_in_brackets(entry: str) -> None:
    assert Guard([entry]).check_url("http://[::1]:8080/") == (False, "::1", 8080, "/")


def test_what_is_under_an_allowed_name_is_not_allowed_itself() -> None:
    refusal("http://a.hook.example/", "hook.example")
    refusal("http://nothook.example/", "hook.example")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook.example",
        "//hook.example/",
        "/hook",
        "ftp://hook.example/",
        "file:///etc/passwd",
        "gopher://hook.example/",
        "javascript:alert(1)",
        "https:hook.example",
        "https:/hook.example",
    ],
)
def test_another_scheme_is_refused(url: str) -> None:
    refusal(url)


@pytest.mark.parametrize(
    "url",
    ["https://", "https:///path", "https://:443/", "https://?a", "https://#a", "https://[]/", "https://..example/"],
)
def test_a_url_without_a_host_is_refused(url: str) -> None:
    refusal(url)


@pytest.mark.parametrize("authority", ["me@h.example", "me:pw@h.example", "@h.example", ":@h.example", "a@b@h.example"])
def test_a_url_with_a_user_is_refused(authority: str) -> None:
    refusal(f"https://{authority}/")


@pytest.mark.parametrize("port", ["0", "65536", "99999999999", "-1", "8a", "+80", "8_0", "٣"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    refusal(f"https://hook.example:{port}/")


def test_a_fragment_never_reaches_the_target() -> None:
    refusal("https://hook.example/a#b")


@pytest.mark.parametrize("letter", [*" \t\r\n\0\x1f\x7f\\", "\u0085", "\u2028", "\ud800"])
@pytest.mark.parametrize("place", ["{}https://h.example/", "https://h{}x.example/", "https://h.example/{}a"])
def test_white_space_control_characters_and_backslashes_are_refused(place: str, letter: str) -> None:
    refusal(place.format(letter))


@pytest.mark.parametrize("letter", ["é", "\u00a0", "\u3000", "\ufeff"])
def test_a_target_that_is_not_ascii_is_refused(letter: str) -> None:
    refusal(f"https://h.example/{letter}")


def test_a_url_longer_than_2048_characters_is_refused() -> None:
    start = "https://hook.example/"
    Guard([]).check_url(start + "a" * (2048 - len(start)))
    assert "2048" in refusal(start + "a" * (2049 - len(start)))


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254", "0.0.0.0"])
def test_an_address_that_is_not_public_is_refused_when_the_task_is_submitted(host: str) -> None:
    assert "--webhook-allow" in refusal(f"https://{host}/")


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "017700000001", "0x7f000001", "0X7F000001", "127.1", "127.0.1", "0x7f.1", "0177.1", "0"),
        *("0177.0.0.01", "127.0.0.1.", "127.1.", "0xa9fea9fe", "169.254.43518", "１２７.0.0.1", "127。0。0。1"),
    ],
)
def test_an_address_in_an_odd_form_is_refused(host: str) -> None:
    refusal(f"https://{host}/")


@pytest.mark.parametrize("allowed", ["127.0.0.1", "127.0.0.1:8080", "[::ffff:7f00:1]"])
def test_an_allowed_address_may_stand_in_a_url(allowed: str) -> None:
    host = allowed.removesuffix(":8080")
    assert Guard([allowed]).check_url(f"http://{host}:8080/").port == 8080


# the allow-list itself


@pytest.mark.parametrize(
    "entry",
    ["", " ", "http://h", "h/path", "h:", "h:x", "::1", "[::1", "[zz]", "[::1]x", "me@h", "h:1:2", "10.0.0.0/8", "h h"],
)
def test_an_entry_that_is_no_host_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(StartupError, match="--webhook-allow"):
        Guard([entry])

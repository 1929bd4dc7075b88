"""No way of writing an address gets it past the guard, whatever this Python takes for global."""

from __future__ import annotations

import ipaddress

from hypothesis import example, given
from hypothesis import strategies as st

from ndserve.errors import InvalidParameterError
from ndserve.webhooks import Guard, RefusedAddressError
from ndserve.webhooks.guard import MAX_URL, Address, is_public

GUARD = Guard([])
PLAIN_6 = ipaddress.IPv6Network("2000::/3")
NETWORKS_4 = ["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"]
NETWORKS_4 += ["192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"]
NETWORKS_6 = ["::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/23", "2002::/16", "fc00::/7"]
NETWORKS_6 += ["fe80::/10", "fec0::/10", "ff00::/8", "100::/64"]

any_4 = st.one_of(st.ip_addresses(v=4), *(st.ip_addresses(v=4, network=network) for network in NETWORKS_4))
private_4 = st.one_of(*(st.ip_addresses(v=4, network=network) for network in NETWORKS_4))
any_6 = st.one_of(st.ip_addresses(v=6), *(st.ip_addresses(v=6, network=network) for network in NETWORKS_6))


@st.composite
def spellings_4(draw: st.DrawFn) -> str:
    """A private IPv4 address in a form that inet_aton reads: of one to four numbers, each to one of three bases."""
    value = int(draw(private_4))
    count = draw(st.integers(1, 4))
    numbers = [value >> 24 - 8 * place & 0xFF for place in range(count - 1)]
    numbers.append(value & (1 << 8 * (5 - count)) - 1)
    zeros = "0" * draw(st.integers(0, 3))
    written = [draw(st.sampled_from([f"{n}", f"0{zeros}{n:o}", f"0x{zeros}{n:x}", f"0X{n:X}"])) for n in numbers]
    dot = draw(st.sampled_from([".", ".", "。", "．"]))
    host = dot.join(written) + draw(st.sampled_from(["", "."]))
    wide = {ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"}
    return host.translate(wide) if draw(st.booleans()) else host


def taken(host: str) -> str | None:
    """The host that the guard makes of an https URL, None where it refuses it."""
    try:
        return GUARD.check_url(f"https://{host}/").host
    except InvalidParameterError:
        return None


@given(spellings_4())
@example("2130706433")
@example("0x7f.1")
@example("127.1")
def test_no_spelling_of_a_private_ipv4_address_is_taken(host: str) -> None:
    assert taken(host) is None


@given(any_6, st.booleans(), st.booleans())
def test_an_ipv6_address_is_taken_only_if_it_is_public(
    address: ipaddress.IPv6Address, exploded: bool, upper: bool
) -> None:
    text = address.exploded if exploded else address.compressed
    host = taken(f"[{text.upper() if upper else text}]")
    assert host == (str(address) if is_public(address) else None)


@given(any_4)
def test_an_ipv6_address_around_an_ipv4_address_is_as_public_as_that(address: ipaddress.IPv4Address) -> None:
    for around in ("::ffff:0:0", "64:ff9b::"):
        outer = ipaddress.IPv6Address(int(ipaddress.IPv6Address(around)) | int(address))
        assert is_public(outer) == is_public(address)
        assert (taken(f"[{outer}]") is None) != is_public(address)


@given(st.one_of(any_4, any_6))
def test_what_passes_is_nothing_that_the_standard_library_knows_for_special(address: Address) -> None:
    if not is_public(address):
        return
    inner = address
    if isinstance(address, ipaddress.IPv6Address) and address not in PLAIN_6:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)  # Pythons differ over the address around it
    special = [inner.is_private, inner.is_loopback, inner.is_link_local, inner.is_multicast]
    assert not any([*special, inner.is_reserved, inner.is_unspecified])
    assert inner.is_global


@given(st.one_of(any_4, any_6))
def test_a_url_and_a_name_are_held_to_the_same_rule(address: Address) -> None:
    try:
        GUARD.check_address("hook.example", 443, str(address))
        passes = True
    except RefusedAddressError:
        passes = False
    assert passes == is_public(address)


URLS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="htps:/\\@[]?#%.0123456789xX ab-_\t\n\x00é。", max_size=60),
    st.text(alphabet="@[]:?#%.0123456789xab/\\", max_size=40).map("https://".__add__),
)


@given(URLS)
@example("https://[")
@example("https://[::1%25eth0]/")
@example("https://a:b:c/")
def test_whatever_the_text_it_is_taken_apart_or_refused(url: str) -> None:
    try:
        to = GUARD.check_url(url)
    except InvalidParameterError:
        return
    assert to.https
    assert to.host == to.host.lower()
    assert to.host.isascii()
    assert 0 < to.port < 65536
    assert to.target.startswith("/")
    assert to.target.isascii()
    assert to.target.isprintable()
    assert len(to.target) <= MAX_URL
    assert not set(to.target) & set(" #\\")

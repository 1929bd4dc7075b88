"""The header that says what an uploaded model is (RFC 9530)."""

from __future__ import annotations

import base64

import pytest
from starlette.datastructures import Headers

from ndserve.errors import InvalidParameterError
from ndserve.routes.models import digest_of

SHA = bytes(range(32))
GIVEN = f"sha-256=:{base64.b64encode(SHA).decode()}:"


def headers(*fields: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode()) for name, value in fields])


@pytest.mark.parametrize("field", ["content-digest", "repr-digest"])
@pytest.mark.parametrize("value", [GIVEN, f" {GIVEN} ", f"sha-512=:AAAA:, {GIVEN}", f"{GIVEN},sha-512=:AAAA:"])
def test_the_sha_256_is_found_among_others(field: str, value: str) -> None:
    assert digest_of(headers((field, value))) == SHA


def test_without_a_digest_there_is_nothing_to_check() -> None:
    assert digest_of(headers(("content-length", "5"))) is None


def test_the_same_digest_may_come_twice() -> None:
    assert digest_of(headers(("content-digest", GIVEN), ("repr-digest", GIVEN))) == SHA


@pytest.mark.parametrize(
    "value", ["", "x", "sha-512=:AAAA:", "sha-256=AAAA", "sha-256=:A:", "sha-256=:AAAA:", "sha-256=::", GIVEN.upper()]
)
def test_a_digest_that_cannot_be_checked_is_refused(value: str) -> None:
    with pytest.raises(InvalidParameterError):
        digest_of(headers(("content-digest", value)))


def test_two_digests_that_differ_are_refused() -> None:
    other = f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"
    with pytest.raises(InvalidParameterError, match="not one SHA-256"):
        digest_of(headers(("content-digest", GIVEN), ("repr-digest", other)))

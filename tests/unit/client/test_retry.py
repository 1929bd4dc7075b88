"""When a request is sent again, and when the client gives up."""

from __future__ import annotations

import ssl

import httpx2 as httpx
import pytest

from ndserve.client.retry import MAX_DELAY, MAX_RETRY_AFTER, backoff, may_pass, next_delay, retry_after

WALL = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT


def test_delays_double_up_to_a_limit() -> None:
    assert [backoff(attempt, 1.0) for attempt in (0, 1, 2, 3)] == [0.1, 0.2, 0.4, 0.8]
    assert backoff(10_000, 1.0) == MAX_DELAY


def test_half_of_a_delay_is_chance() -> None:
    assert backoff(3, 0.0) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sun, 06 Nov 1994 08:00:00 GMT", 0.0),
        ("-4", 0.0),
        ("1e9", MAX_RETRY_AFTER),
        ("nan", 0.0),
        ("inf", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str | None, seconds: float) -> None:
    assert retry_after(value, WALL) == seconds


def test_the_server_is_given_the_time_it_asks_for() -> None:
    assert next_delay(0, 0.0, 60.0, 7.0, 1.0) == pytest.approx(7.1)


def test_the_last_attempt_is_at_the_end_of_the_patience() -> None:
    assert next_delay(9, 58.0, 60.0, 0.0, 1.0) == pytest.approx(2.0)


def test_no_patience_is_left() -> None:
    assert next_delay(9, 60.0, 60.0, 0.0, 1.0) is None


def test_nothing_is_sent_before_the_server_wants_it() -> None:
    assert next_delay(0, 0.0, 5.0, 6.0, 1.0) is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (httpx.ConnectError("refused"), True),
        (httpx.ReadError("reset"), True),
        (httpx.ReadTimeout("slow"), True),
        (httpx.RemoteProtocolError("disconnected"), True),
        (httpx.LocalProtocolError("bad header"), False),
        (httpx.UnsupportedProtocol("ftp"), False),
        (httpx.DecodingError("gzip"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: httpx.RequestError, again: bool) -> None:
    assert may_pass(error) is again


def test_a_wrong_certificate_stays_wrong() -> None:
    error = httpx.ConnectError("handshake")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    assert not may_pass(error)

"""The signature of a message, against the published example and against another computation."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndserve.errors import StartupError
from ndserve.webhooks import Secret, sign

# The test vector that the libraries of github.com/standard-webhooks/standard-webhooks share ("sign function works").
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIME = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def in_base64(size: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(size))).decode()


def refusal(text: str) -> str:
    with pytest.raises(StartupError) as caught:
        Secret(text)
    return caught.value.message


def test_the_published_example_has_the_published_signature() -> None:
    assert sign(Secret(SECRET), MESSAGE, TIME, BODY) == [
        (b"webhook-id", MESSAGE.encode()),
        (b"webhook-timestamp", b"1614265330"),
        (b"webhook-signature", SIGNATURE),
    ]


def test_the_time_is_cut_to_whole_seconds() -> None:
    assert sign(Secret(SECRET), MESSAGE, TIME + 0.9, BODY) == sign(Secret(SECRET), MESSAGE, TIME, BODY)


@given(st.binary(min_size=24, max_size=64), st.binary(max_size=200), st.integers(0, 2**40))
def test_a_receiver_that_computes_it_anew_comes_to_the_same(key: bytes, body: bytes, now: int) -> None:
    headers = dict(sign(Secret("whsec_" + base64.b64encode(key).decode()), "msg_1", now, body))
    expected = hmac.digest(key, b"msg_1." + headers[b"webhook-timestamp"] + b"." + body, hashlib.sha256)
    version, _, signature = headers[b"webhook-signature"].partition(b",")
    assert (version, base64.b64decode(signature)) == (b"v1", expected)


def test_a_secret_without_the_prefix_is_taken_as_its_own_bytes() -> None:
    text = "a plain text of 24 bytes or more, with an ü"
    signature = dict(sign(Secret(text), "msg_1", 5, b"{}"))[b"webhook-signature"]
    assert base64.b64decode(signature[3:]) == hmac.digest(text.encode(), b"msg_1.5.{}", hashlib.sha256)


@pytest.mark.parametrize("text", [in_base64(24), in_base64(64), "x" * 24, "ü" * 12])
def test_a_secret_of_a_length_within_the_bounds_is_taken(text: str) -> None:
    Secret(text)


@pytest.mark.parametrize(
    "text",
    [
        in_base64(23),
        in_base64(65),
        "x" * 23,
        "",
        "whsec_",
        "whsec_" + "*" * 40,
        "whsec_" + "ü" * 40,
        SECRET + "\n",
        "x" * 24 + "\udcff",
    ],
    ids=["short", "long", "short text", "empty", "prefix alone", "not base64", "not ASCII", "newline", "no text"],
)
def test_a_secret_of_no_use_is_refused(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize("text", [in_base64(23), "x" * 23])
def test_the_refusal_names_the_option_the_length_and_the_way_to_make_one(text: str) -> None:
    message = refusal(text)
    assert "--webhook-secret" in message
    assert "24" in message
    assert "whsec_" in message
    assert "openssl rand -base64 32" in message


@pytest.mark.parametrize("text", ["hunter2hunter2", "whsec_aHVudGVyMg==", "whsec_hunter2*"])
def test_the_refusal_does_not_show_the_secret(text: str) -> None:
    message = refusal(text)
    assert text not in message
    assert "hunter2" not in message
    assert "aHVudGVyMg" not in message


def test_a_secret_shows_nothing_of_itself() -> None:
    secret = Secret("hunter2 hunter2 hunter2 hunter2")
    assert "hunter2" not in f"{secret!r} {secret}"

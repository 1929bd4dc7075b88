"""The signature of a message, after the Standard Webhooks specification.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: the HMAC-SHA256 of
`id.timestamp.body`, in base64, behind `v1,`. The receiver computes the same, and compares.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from ndserve.errors import StartupError

PREFIX = "whsec_"
MIN_BYTES = 24
MAX_BYTES = 64


class Secret:
    """The key that the server and the receivers of its webhooks share. It has no text, so that no log shows it."""

    def __init__(self, text: str) -> None:
        """`text` is `whsec_` and 24 to 64 bytes in base64, or any other text of at least 24 bytes, taken as it is.

        Raises:
            StartupError: it is neither.
        """
        self._key = _key(text)

    def signature(self, signed: bytes) -> str:
        return "v1," + base64.b64encode(hmac.new(self._key, signed, hashlib.sha256).digest()).decode()


def _key(text: str) -> bytes:
    make = "make one with: echo whsec_$(openssl rand -base64 32)"
    if not text.startswith(PREFIX):
        key = text.encode(errors="replace")
        if len(key) < MIN_BYTES or key.decode() != text:  # an environment may hold bytes that are no text
            raise StartupError(
                f"the webhook secret (--webhook-secret) must be a text of {MIN_BYTES} bytes or more; {make}"
            )
        return key
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise StartupError(
            f"the webhook secret (--webhook-secret) must be {PREFIX} and {MIN_BYTES} to {MAX_BYTES} bytes in base64;"
            f" {make}"
        )
    return key


def sign(secret: Secret, message_id: str, now: float, body: bytes) -> list[tuple[bytes, bytes]]:
    """The three headers of a message that is sent at `now`, in Unix seconds."""
    timestamp = int(now)
    signature = secret.signature(f"{message_id}.{timestamp}.".encode() + body)
    return [
        (b"webhook-id", message_id.encode()),
        (b"webhook-timestamp", b"%d" % timestamp),
        (b"webhook-signature", signature.encode()),
    ]

"""Webhook messages on the wire: how they are signed, where they may go, and when they are tried again.

Nothing here knows of tasks. `engine/courier.py` decides what is said, and sees to it that it arrives.
"""

from ndserve.webhooks.backoff import next_try
from ndserve.webhooks.guard import Guard, RefusedAddressError
from ndserve.webhooks.sender import Sender, Sent
from ndserve.webhooks.signing import Secret, sign

__all__ = ["Guard", "RefusedAddressError", "Secret", "Sender", "Sent", "next_try", "sign"]

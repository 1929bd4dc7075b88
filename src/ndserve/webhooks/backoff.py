"""When a message that could not be delivered is tried again. Pure."""

from __future__ import annotations

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 3600.0
MAX_ATTEMPTS = 33
"""With the spans between them, about a day."""

JITTER = 0.2
"""The share of a span by which attempts may be late, so that many messages do not come back at once."""


def next_try(attempts: int, now: float, jitter: float) -> float | None:
    """When to try again after `attempts` failures: 5 s later, then 10 s, 20 s and so on up to an hour.

    Args:
        attempts: failures so far, 1 or more.
        now: Unix seconds.
        jitter: a number from 0 to 1.

    Returns:
        Unix seconds, or None when it is given up, about a day after the first attempt.
    """
    if attempts >= MAX_ATTEMPTS:
        return None
    span = min(FIRST_SECONDS * 2.0 ** (attempts - 1), LONGEST_SECONDS)
    return now + span * (1 + JITTER * jitter)

"""When to send a request again, and when to give up. Functions of what they are given; nothing here waits."""

from __future__ import annotations

import asyncio
import math
import random
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx2 as httpx

FIRST_DELAY = 0.1
MAX_DELAY = 5.0
MAX_RETRY_AFTER = 60.0
"""A server that asks for more is asked again after this long all the same."""


def _wait(stop: threading.Event, seconds: float) -> object:
    return stop.wait(seconds)


@dataclass(frozen=True, slots=True)
class Timing:
    """The clocks, the dice and the ways to wait that a client uses. Tests bring their own."""

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    random: Callable[[], float] = random.random
    wait: Callable[[threading.Event, float], object] = _wait
    """Blocks for so many seconds, or until the event is set."""
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


def backoff(attempt: int, dice: float) -> float:
    """Seconds before attempt number `attempt` + 1: doubling, and spread so that many clients do not come at once.

    `attempt` counts from 0; `dice` is between 0 and 1.
    """
    ceiling: float = min(MAX_DELAY, FIRST_DELAY * 2 ** min(attempt, 16))
    return ceiling * (0.5 + dice / 2)


def retry_after(value: str | None, wall: float) -> float:
    """The seconds that a Retry-After header asks for, as a number or as a date; 0 without a usable one."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - wall
        except (ValueError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if math.isfinite(seconds) else 0.0


def next_delay(attempt: int, failing_for: float, patience: float, asked: float, dice: float) -> float | None:
    """How long to wait before the next attempt; None when it is time to give up.

    `failing_for` is how long ago the first failure after the last success was, and `asked` what the server wants.
    """
    left = patience - failing_for
    if left <= 0 or asked > left:
        return None
    return min(asked + backoff(attempt, dice), left)


def may_pass(error: httpx.RequestError) -> bool:
    """Whether a failed request may succeed when it is sent again."""
    if not isinstance(error, (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return False
        cause = cause.__cause__ or cause.__context__
    return True

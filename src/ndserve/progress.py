"""How a process says how far it is. Only the standard library is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import SupportsFloat, TypeAlias

MAX_MESSAGE = 200
"""Characters of a message that are kept."""

ROUNDING = 1e-6
"""How far outside of 0 to 1 a fraction may be that was summed from steps."""

Listener: TypeAlias = Callable[[float, str], None]
"""Takes the fraction and the message of a report, on the thread that makes it."""

_listener: ContextVar[Listener | None] = ContextVar("ndserve_progress_listener", default=None)


def report_progress(fraction: SupportsFloat, message: str = "") -> None:
    """Say how far the process that calls this is, from 0 to 1, and what it is at.

    A batched process reports for all tasks of its batch at once. Call it on the thread on which the process was
    called: a thread that the process starts has a context of its own, in which nobody listens. Outside of a server
    nobody listens either, so a process can be tested as a plain function.

    Args:
        fraction: a real number; NumPy scalars and arrays without axes will do.
        message: cut after `MAX_MESSAGE` characters.

    Raises:
        TypeError: `fraction` is no real number, or `message` no string.
        ValueError: `fraction` is not within 0 and 1, or NaN.
    """
    if not isinstance(fraction, SupportsFloat):  # float() alone would read a string
        raise TypeError(f"the fraction done must be a real number, not {type(fraction).__name__}")
    if not isinstance(message, str):
        raise TypeError(f"the message must be a string, not {type(message).__name__}")
    done = float(fraction)
    if not -ROUNDING <= done <= 1.0 + ROUNDING:  # which NaN is not either
        raise ValueError(f"the fraction done must be from 0 to 1, not {done}")
    listener = _listener.get()
    if listener is not None:
        listener(min(max(done, 0.0), 1.0), message[:MAX_MESSAGE])


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within this, reports made on this thread go to `listener`, and to no other."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)

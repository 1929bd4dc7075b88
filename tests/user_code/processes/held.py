"""A process that stands still until a test in the same interpreter lets it go."""

from __future__ import annotations

import threading
from types import ModuleType

from ndserve import process
from ndserve.types import Array

REACHED = threading.Event()
OPENED = threading.Event()


@process("held", batched=False)
def held(xp: ModuleType, x: Array) -> Array:
    """The array as it came, once the test has opened the gate."""
    REACHED.set()
    if not OPENED.wait(20):
        raise TimeoutError("the test has not opened the gate")
    return x

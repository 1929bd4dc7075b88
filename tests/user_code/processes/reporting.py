"""A process that says how far it is, and stands still until a test in the same interpreter lets it go."""

from __future__ import annotations

from types import ModuleType

from ndserve import process, report_progress
from ndserve.types import Array

from .held import OPENED, REACHED


@process("reporting", batched=False)
def reporting(xp: ModuleType, x: Array) -> Array:
    """The array as it came, once the test has opened the gate of `held`."""
    report_progress(0.25, "a quarter")
    REACHED.set()
    if not OPENED.wait(20):
        raise TimeoutError("the test has not opened the gate")
    report_progress(1, "all of it")
    return x

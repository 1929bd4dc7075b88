"""Processes for servers that are killed: one takes its time, one fails on what it does not like, one kills."""

import os
import signal
import time
from pathlib import Path
from types import ModuleType

from ndserve import process
from ndserve.types import Array


@process("slow_double", batched=False)
def slow_double(xp: ModuleType, x: Array, *, seconds: float = 0.002) -> Array:
    """Twice the numbers, after a while."""
    time.sleep(seconds)
    return x * 2


@process("positive", batched=True)
def positive(xp: ModuleType, x: Array) -> Array:
    """The numbers, none of which may be negative."""
    if xp.any(x < 0):
        raise ValueError("negative")
    return x


@process("deadly", batched=False)
def deadly(xp: ModuleType, x: Array, *, count: str = "") -> Array:
    """Notes its run in the file `count`, and ends the server as a crash in native code would."""
    with Path(count).open("a") as file:
        file.write("run\n")
    time.sleep(0.2)  # so that its submit is answered
    os.kill(os.getpid(), signal.SIGKILL)
    return x


@process("identity_after", batched=False)
def identity_after(xp: ModuleType, x: Array, *, path: str = "") -> Array:
    """The array, once somebody has closed the other end of the pipe `path`; at once where that is a plain file."""
    with Path(path).open() as pipe:
        pipe.read()
    return x

"""What the C library does with memory that comes back. The calls are glibc's; other C libraries are left as they are.

A load takes and gives back a model's weights several times over: as they are in the file, as the graph has them, as the
kernels want them. By itself glibc learns from the first large block that comes back to keep such blocks in its heaps,
where one small block that stays holds all that lies before it. Models of 300 MB took up to 1,126 MB while they were
loaded, and three at once left 120 MB behind. With large blocks mapped one by one, each goes back when it is freed: 307
to 605 MB, and 20 MB (onnxruntime 1.32, glibc 2.36).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of malloc.h, see https://man7.org/linux/man-pages/man3/mallopt.3.html
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3

LARGE = 64 * 1024
"""Bytes of a block that is mapped by itself while models are loaded."""

USUAL = 32 * 1024**2
"""The same at other times: as much as glibc comes to by itself at most. Arrays of tasks are then used again."""


class Allocator:
    """The process's `malloc`. Called by any thread."""

    def __init__(self) -> None:
        self._tune: Callable[[int, int], int] | None = _find("mallopt")
        self._trim: Callable[[int], int] | None = _find("malloc_trim")
        self._lock = threading.Lock()
        self._loads = 0

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Have large blocks go back as soon as they are freed, while any thread is in here."""
        self._count(+1)
        try:
            yield
        finally:
            self._count(-1)
            self.give_back()

    def give_back(self) -> None:
        """Give the system what is merely kept."""
        if self._trim is not None:
            self._trim(0)

    def _count(self, more: int) -> None:
        with self._lock:
            before, self._loads = self._loads, self._loads + more
            if self._tune is not None and not (before and self._loads):
                self._tune(_MMAP_THRESHOLD, LARGE if self._loads else USUAL)
                self._tune(_TRIM_THRESHOLD, 2 * USUAL)  # which glibc would not raise any more


def _find(name: str) -> Callable[..., int] | None:
    try:
        call: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return call


allocator = Allocator()

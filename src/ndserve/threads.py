"""How many threads a model's operators get."""

from __future__ import annotations


def threads_of(cores: int, lanes: int) -> int:
    """Threads of one operator on the CPU, for a machine of `cores` that runs `lanes` models at once.

    The event loop keeps a core of its own where there are several: it must answer while the models compute. The lanes
    share the rest evenly, since an operator waits for the slowest of its threads, and threads beyond the cores for
    each other.
    """
    return max(1, (cores - 1) // lanes)

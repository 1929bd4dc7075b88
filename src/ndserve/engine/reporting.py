"""The way of a process's progress from the lane's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ndserve.engine.lane import tellable
from ndserve.progress import listening


class Reporter:
    """Takes what a process says while it runs. The event loop hears the latest of it, however often that changes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Callable[[float, str], object]) -> None:
        self._loop = loop
        self._tell = tell
        self._latest: tuple[float, str] = (0.0, "")
        self._on_its_way = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within this, on the lane's thread, `ndserve.report_progress` comes here."""
        with listening(self._hear):
            yield

    def _hear(self, fraction: float, message: str) -> None:
        # Nothing is locked: the lane writes the report and *then* looks whether one is on its way, the loop says that
        # none is and *then* reads the report. So none is left behind, though one may be told twice.
        self._latest = fraction, message
        if not self._on_its_way:
            self._on_its_way = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._on_its_way = False
        fraction, message = self._latest
        self._tell(fraction, tellable(message))

"""The bars on stderr. They need rich; without it there are none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LARGE = 16 << 20
"""Bytes from which on a transfer has a bar by itself; less has gone before one has read it."""


@contextmanager
def progress_bar(label: str, total: int | None, wanted: bool | None) -> Iterator[Callable[[], None]]:
    """Show a bar while the context lasts; gives what counts one more. `wanted` None means: on a terminal.

    Raises:
        ImportError: the bar is asked for and rich is not installed.
    """
    if not _is_shown(wanted):
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items a second."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f}/s")

    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate()]
    columns += [TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        counted = bar.add_task(label, total=total)
        yield lambda: bar.advance(counted)


@contextmanager
def transfer_bar(label: str, total: int, wanted: bool | None) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` bytes have gone; gives what is told that. `wanted` None: on a terminal, of a large file.

    Raises:
        ImportError: the bar is asked for and rich is not installed.
    """
    if (wanted is None and total < LARGE) or not _is_shown(wanted):
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = [TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    columns += [TextColumn("left"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        counted = bar.add_task(label, total=total)
        yield lambda sent: bar.update(counted, completed=sent)


def _is_shown(wanted: bool | None) -> bool:
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        return False
    try:
        import rich  # noqa: F401
    except ModuleNotFoundError:
        if wanted:
            raise ImportError("the progress bar needs rich: pip install 'ndserve[client]'") from None
        return False
    return True


def _nothing(*told: int) -> None:
    return

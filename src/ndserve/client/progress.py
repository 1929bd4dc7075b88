"""The bar on stderr. It needs rich; without it there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, total: int | None, wanted: bool | None) -> Iterator[Callable[[], None]]:
    """Show a bar while the context lasts; gives what counts one more. `wanted` None means: on a terminal.

    Raises:
        ImportError: the bar is asked for and rich is not installed.
    """
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield _nothing
        return
    try:
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
    except ModuleNotFoundError:
        if wanted:
            raise ImportError("the progress bar needs rich: pip install 'ndserve[client]'") from None
        yield _nothing
        return

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


def _nothing() -> None:
    return

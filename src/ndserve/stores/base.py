"""What a task store is.

To add one: write one file here with a class that follows `TaskStore`, name it in this folder's lookup
(`stores/__init__.py`), and let it run through the suite in `tests/contract`. Engine and routes stay as they are.

A store speaks in lists, so that it can make one commit of all that one tick of the event loop brings. Verbs give
awaitables that complete when the change is safe; a store that is never late gives `DONE`, which costs nothing.
All verbs are called on the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Sequence
from typing import NamedTuple, Protocol

from ndserve.types import Task


class Done:
    """An awaitable that is complete already."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield  # makes this function a generator, which `await` asks for


DONE = Done()


class Usage(NamedTuple):
    """What a store holds: tasks, and bytes of their arrays, with its bounds."""

    tasks: int
    nbytes: int
    max_tasks: int
    max_bytes: int


class Gone(NamedTuple):
    """What is left of a task that was removed: for how long and why it is remembered is the store's rule."""

    reason: str


class TaskStore(Protocol):
    """Keeps tasks from the moment they are accepted until their results expire."""

    def put(self, tasks: Sequence[Task], now: float) -> Awaitable[None]:
        """Take newly accepted tasks, inputs included.

        Room is made, if need be, by dropping the results that were delivered longest ago. Results that
        nobody has seen are kept until they expire.

        Raises:
            StoreFullError: there is no room; none of `tasks` was taken.
        """
        ...

    def finish(self, tasks: Sequence[Task]) -> Awaitable[None]:
        """Note that these tasks have ended, with what their fields now say.

        Never refused: results that are larger than their inputs may push delivered ones out.
        """
        ...

    def delivered(self, task: Task) -> None:
        """Note that a caller has received the outcome of this ended task."""
        ...

    def forget(self, task: Task) -> None:
        """Remove an ended task without a trace: its only caller has the outcome and never learnt the id."""
        ...

    async def get(self, task_id: str) -> Task | Gone | None:
        """The task, a trace of it when it was removed lately, or None."""
        ...

    def sweep(self, now: float, limit: int) -> int:
        """Remove up to `limit` results whose time is over, and forget old traces. Gives the number removed."""
        ...

    def usage(self) -> Usage: ...

    async def close(self) -> None: ...

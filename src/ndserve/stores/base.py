"""What a task store is.

To add one: write one file here with a class that follows `TaskStore`, name it in this folder's lookup
(`stores/__init__.py`), and let it run through the suite in `tests/contract`. Engine and routes stay as they are.

A store speaks in lists, so that it can make one commit of all that one tick of the event loop brings. Verbs that
change something give awaitables that complete when the change is safe; a store that is never late gives `DONE`,
which costs nothing. All verbs are called on the event loop.

What is decided about tasks is decided elsewhere: a store keeps fields as they are and compares times.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from ndserve.errors import StoreFullError
from ndserve.types import Task, TaskState

TRACE_SECONDS = 24 * 3600.0
"""How long the id of a removed task is told from one that never was."""


T = TypeVar("T")


class Ready(Generic[T]):
    """An awaitable that is complete already."""

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[None, None, T]:
        return self._value
        yield  # makes this function a generator, which `await` asks for


DONE = Ready(None)


class Usage(NamedTuple):
    """What a store holds: tasks, and bytes of their arrays, with its bounds."""

    tasks: int
    nbytes: int
    max_tasks: int
    max_bytes: int


def no_room(usage: Usage, nbytes: int) -> StoreFullError:
    """The refusal of tasks with that many bytes, for which dropping every delivered result would not make room."""
    return StoreFullError(
        f"the task store holds {usage.tasks} of {usage.max_tasks} tasks and {usage.nbytes} of {usage.max_bytes} bytes,"
        f" and dropping every delivered result would not make room for {nbytes} bytes more;"
        " try again when results have expired, or raise --store-tasks and --store-bytes",
        **usage._asdict(),
    )


class Gone(NamedTuple):
    """What is left of a task that was removed, for a day: why."""

    reason: str


MADE_ROOM = Gone("its delivered result made room for newer tasks")


class Holder(NamedTuple):
    """The task or group that an idempotency key belongs to, and the fingerprint of its request."""

    id: str
    fingerprint: str


class Group(NamedTuple):
    """Tasks that came as one array. `expires` is None until all of them have ended."""

    id: str
    target: str
    version: str
    total: int
    created: float
    idempotency_key: str | None
    fingerprint: str
    expires: float | None = None


class Closing(NamedTuple):
    """The last task of a group has ended; the group and its tasks expire then."""

    group: str
    expires: float


class GroupState(NamedTuple):
    """A group, and how many of its tasks are kept in which state. Running ones count as queued here."""

    group: Group
    counts: Mapping[TaskState, int]


class Query(NamedTuple):
    """Which tasks to list: at most `limit`, newest first, those whose `seq` is below `before`."""

    limit: int
    before: int | None = None
    state: TaskState | None = None
    target: str | None = None
    group: str | None = None


def fits(task: Task, query: Query) -> bool:
    """Whether a task is among those that a query asks for."""
    return (
        (query.before is None or task.seq < query.before)
        and (query.state is None or task.visible_state is query.state)
        and (query.target is None or task.key.target == query.target)
        and (query.group is None or task.group == query.group)
    )


class Delivery(NamedTuple):
    """A webhook message that has to go out; `attempts` have failed so far."""

    id: str
    url: str
    body: bytes
    attempts: int
    due: float


class Outbox(Protocol):
    """Webhook messages, kept until they are delivered or given up."""

    async def due(self, now: float, limit: int) -> list[Delivery]:
        """The messages whose time has come, oldest first."""
        ...

    async def next_due(self, after: float) -> float | None:
        """When the next message falls due after that time; None without any."""
        ...

    def done(self, delivery: Delivery) -> Awaitable[None]:
        """Take a message out: delivered, or given up."""
        ...

    def postpone(self, delivery: Delivery, due: float) -> Awaitable[None]:
        """Note one more failed attempt, and when to try again."""
        ...


class TaskStore(Protocol):
    """Keeps tasks from the moment they are accepted until their results expire."""

    durable: bool
    """Whether tasks outlive the process."""

    @property
    def outbox(self) -> Outbox: ...

    async def unfinished(self) -> list[Task]:
        """Open the store and give the tasks that had not ended when it was last open, oldest first.

        Each has its inputs, and in `attempts` and `started` the runs that had begun. Called once, before all else.

        Raises:
            StartupError: the store cannot be used; says why.
        """
        ...

    def put(self, tasks: Sequence[Task], now: float, group: Group | None = None) -> Awaitable[None]:
        """Take newly accepted tasks, inputs included, all or none; sets their `seq`, which rises from task to task.

        `group` is the group that they are all tasks of. Room is made, if need be, by dropping the results that
        were delivered longest ago. Results that nobody has seen are kept until they expire.

        Raises:
            StoreFullError: there is no room; none of `tasks` was taken.
            StoreUnavailableError: they could not be written (from the awaitable, as the one above may be, too).
        """
        ...

    def start(self, tasks: Sequence[Task], now: float) -> None:
        """Note that these tasks begin to run; when this returns, the note survives the end of the process.

        The one verb that may be called on any thread.
        """
        ...

    def finish(
        self, tasks: Sequence[Task], deliveries: Sequence[Delivery] = (), closing: Sequence[Closing] = ()
    ) -> Awaitable[None]:
        """Note that these tasks have ended, with what their fields now say, and put `deliveries` into the outbox.

        `closing` are the groups whose last task is among them: they and all their tasks expire as given, and not
        before. Never refused: results that are larger than their inputs may push delivered ones out, and what cannot
        be written now is tried again until it can.
        """
        ...

    async def reopen(self, task: Task, now: float) -> Task:
        """Queue a failed task again: gives it as it is after `Task.reopen`, with its inputs."""
        ...

    def remove(self, tasks: Sequence[Task], gone: Gone, now: float) -> Awaitable[object]:
        """Remove ended tasks and leave traces."""
        ...

    def delivered(self, task: Task) -> None:
        """Note that a caller has received the outcome of this ended task."""
        ...

    async def get(self, task_id: str) -> Task | Gone | None:
        """The task, a trace of it when it was removed lately, or None.

        An ended one is public and has its outputs; one that has failed comes without its inputs.
        """
        ...

    async def holder(self, idempotency_key: str) -> Holder | None:
        """What a request with that key became, while it is kept."""
        ...

    async def page(self, query: Query) -> list[Task]:
        """Tasks without their arrays. The state of an unfinished one is QUEUED here, whether or not it runs."""
        ...

    async def group(self, group_id: str) -> GroupState | Gone | None: ...

    def sweep(self, now: float, limit: int) -> Awaitable[int]:
        """Remove up to `limit` tasks whose time is over, and forget old traces. Gives the number removed."""
        ...

    def usage(self) -> Usage: ...

    async def close(self) -> None: ...

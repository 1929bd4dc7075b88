"""What can be done with tasks beyond running them: once only, by the hundred, listed, cancelled, run again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from ndserve.engine.admission import admit
from ndserve.engine.groups import Stack, describe_counts, member, new_group, split_items, state_of
from ndserve.engine.ids import RandomIds
from ndserve.engine.ledger import outputs_of
from ndserve.engine.once import Once
from ndserve.engine.service import InferenceService
from ndserve.engine.target import Target
from ndserve.errors import (
    ConflictError,
    GoneError,
    GroupFailedError,
    NotFailedError,
    ShuttingDownError,
    UnknownTaskError,
)
from ndserve.stores.base import Gone, Group, Holder, Query, fits
from ndserve.types import DEFAULT_OPTIONS, LIVE, Parameter, Task, TaskOptions, TaskState, Tensors, total_bytes

DELETED = Gone("its result was deleted")

STACK_CHUNK = 100
"""Results that are stacked between two turns of the event loop."""

POSITIONS_SECONDS = 0.2
"""How old a position in the queue may be: it is worked out for all tasks at once."""


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A group as it is now; `counts` by state."""

    group: Group
    state: TaskState
    counts: Mapping[str, int]


class Tasks:
    """The tasks of a service. All methods are for the event loop's thread."""

    def __init__(self, service: InferenceService) -> None:
        self.service = service
        self._ledger = service.ledger
        self._store = service.store
        self._ids = RandomIds()
        self._once = Once()
        self._retrying: set[asyncio.Task[Task]] = set()
        self._positions: tuple[float, dict[str, int]] = (0.0, {})

    async def submit_once(
        self, submit: Callable[[], Awaitable[str]], options: TaskOptions, task_id: str | None = None
    ) -> tuple[bool, str]:
        """Call `submit`, unless the same request has been accepted before; says whether it was new, and gives its id.

        Requests are the same by `task_id`, or by the idempotency key of their options without one. Those that come
        at the same time stand in line.

        Raises:
            ConflictError: another request has that id or key.
            GoneError: the task of that id is gone.
            NdserveError: what `submit` raises.
        """
        key = options.idempotency_key or ""
        async with self._once.hold(f"id {task_id}" if task_id else f"key {key}"):
            if task_id:
                task = self._ledger.live.get(task_id) or await self._store.get(task_id)
                if isinstance(task, Gone):
                    raise GoneError(f"the id {task_id} was used before, and its task is gone: {task.reason}")
                held = None if task is None else Holder(task.id, task.options.fingerprint)
            else:
                held = await self._store.holder(key)
            if held is None:
                return True, await submit()
            if held.fingerprint != options.fingerprint:
                name = f"the id {task_id!r}" if task_id else f"the idempotency key {key!r}"
                raise ConflictError(f"{name} belongs to another request, with another body or target")
            return False, held.id

    async def submit_split(
        self,
        target: Target | str,
        inputs: Tensors,
        parameters: Mapping[str, Parameter] | None = None,
        *,
        cast: bool = False,
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> Group:
        """Accept one task for each item along axis 0 of `inputs`, all or none, under one group.

        Raises:
            NdserveError: as for `submit`.
        """
        if isinstance(target, str):
            target = self.service.target(target)
        length = max((len(array) for array in inputs.values() if array.ndim), default=1)
        self.service.check_room(total_bytes(inputs), length)  # before so many items are made
        items = split_items(inputs)
        now = self.service.clock()
        group = new_group(self._ids.next(now), target, len(items), now, options)
        options = replace(options, idempotency_key=None, fingerprint="")  # they are the group's
        tasks = []
        for index, item in enumerate(items):
            admitted = admit(target, item, parameters or {}, cast=cast)
            tasks.append(Task(member(group.id, index), *admitted, created=now, options=options, group=group.id))
        self.service.check_room(sum(task.input_bytes for task in tasks), len(tasks))
        await self.service.accept(tasks, now, group)
        return group

    async def page(self, query: Query) -> list[Task]:
        """Tasks, newest first, as they are now."""
        if query.state not in LIVE:
            return [self._ledger.live.get(task.id, task) for task in await self._store.page(query)]
        live = [task for task in self._ledger.live.values() if task.kept and fits(task, query)]
        return sorted(live, key=lambda task: -task.seq)[: query.limit]

    async def delete(self, task: Task) -> str:
        """Cancel a task, or remove the result of one that has ended; says which of the three it was.

        Raises:
            ShuttingDownError: the server ends before the store has it.
        """
        running = task.state is TaskState.RUNNING
        cancelled = self.service.cancel(task) if task.live else False
        running = running or self.service.worker.has_begun(task)
        if not task.public and not await self.service.waiters.add(task.id):
            raise _unsure()
        if cancelled:
            return "result_dropped" if running else "never_ran"
        await self._store.remove([task], DELETED, self.service.clock())
        return "result_removed"

    async def retry(self, task_id: str) -> Task:
        """Queue a failed task again.

        Raises:
            UnknownTaskError, GoneError: as for `find`.
            NotFailedError: it has not failed.
            QueueFullError, StoreUnavailableError: there is no room now.
        """
        # To its end even if the caller goes: once the store has queued the task, somebody must run it.
        retrying = asyncio.create_task(self._retry(task_id))
        self._retrying.add(retrying)  # the loop alone would not keep it alive
        retrying.add_done_callback(self._retrying.discard)
        return await asyncio.shield(retrying)

    async def _retry(self, task_id: str) -> Task:
        async with self._once.hold(f"retry {task_id}"):
            task = await self.service.find(task_id)
            if not task.public or task.state is not TaskState.FAILED:
                raise NotFailedError(f"task {task_id} is {task.visible_state}; only a failed task can be run again")
            self.service.check_room(task.input_bytes)
            now = self.service.clock()
            again = await self._store.reopen(task, now)
            self.service.requeue([again], now)
            return again

    async def group(self, group_id: str) -> GroupStatus:
        """A group as it is now.

        Raises:
            UnknownTaskError, GoneError: there is none, or its tasks have been removed.
        """
        state = await self._store.group(group_id)
        if state is None:
            raise UnknownTaskError(f"no group has the id {group_id[:100]!r}; it may have been forgotten")
        if isinstance(state, Gone):
            raise GoneError(f"group {group_id} is gone: {state.reason}")
        running = sum(task.group == group_id and task.visible_state is not TaskState.QUEUED for task in self._live())
        running = min(running, state.counts.get(TaskState.QUEUED, 0))
        return GroupStatus(state.group, state_of(state, running), describe_counts(state.counts, running))

    async def stacked(self, status: GroupStatus) -> Tensors:
        """The results of an ended group, stacked along a new axis 0. They count as delivered.

        Raises:
            GroupFailedError: not all of its tasks have succeeded.
            GoneError: a result has been removed.
            NotAcceptableError: they cannot be stacked, or are too large together.
        """
        group, counts = status.group, status.counts
        if status.state is not TaskState.SUCCEEDED:
            raise GroupFailedError(
                f"of the {group.total} tasks of the group {counts[TaskState.SUCCEEDED]} have succeeded;"
                f" GET /tasks?group={group.id} lists them all",
                counts=counts,
            )
        stack = Stack(group.total)
        for index in range(group.total):
            if index % STACK_CHUNK == 0:
                await asyncio.sleep(0)
            task = await self.service.find(member(group.id, index))
            stack.add(outputs_of(task))
            self._store.delivered(task)
        return stack.outputs

    async def delete_group(self, status: GroupStatus) -> str:
        """Cancel the tasks of a group that have not ended, or remove the results if all have; as `delete` says."""
        group = status.group
        live = [task for task in self._live() if task.group == group.id and task.live]
        queued = all(task.state is TaskState.QUEUED for task in live)
        self._ledger.settle([(task, TaskState.CANCELLED, None, None) for task in live])
        begun = any(self.service.worker.has_begun(task) for task in live)
        if self._ledger.group_is_live(group.id) and not await self.service.waiters.add(group.id):
            raise _unsure()
        if not live:
            tasks = await self._store.page(Query(group.total, group=group.id))
            await self._store.remove(tasks, DELETED, self.service.clock())
            return "result_removed"
        untouched = len(live) == group.total and queued and not begun
        return "never_ran" if untouched else "result_dropped"

    def position(self, task: Task) -> int | None:
        """How many tasks are before it in the queue; None when it is not queued."""
        if task.state is not TaskState.QUEUED:
            return None
        now, (since, positions) = self.service.clock(), self._positions
        if now - since > POSITIONS_SECONDS or (task.id not in positions and task.created > since):
            positions = self.service.worker.batcher.positions()
            self._positions = now, positions
        return positions.get(task.id, 0)  # 0 for one that the lane has at hand

    def _live(self) -> list[Task]:
        return list(self._ledger.live.values())


def _unsure() -> ShuttingDownError:
    return ShuttingDownError("the server ends before this is stored; ask again when it is back")

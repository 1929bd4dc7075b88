"""Tasks in this process's memory: the fastest store, and one that forgets all when the process ends."""

from __future__ import annotations

import copy
import heapq
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import islice

from ndserve.stores.base import (
    DONE,
    MADE_ROOM,
    TRACE_SECONDS,
    Closing,
    Delivery,
    Gone,
    Group,
    GroupState,
    Holder,
    Query,
    Ready,
    Usage,
    fits,
    no_room,
)
from ndserve.types import LIVE, Task, TaskState

MAX_TRACES = 100_000

EXPIRED = Gone("its result has expired")


@dataclass(slots=True)
class _Members:
    """A group and the ids of its tasks that are still kept."""

    group: Group
    ids: dict[str, None]


class MemoryStore:
    """Bounded in tasks and in bytes of their arrays. Every verb costs the same however much is stored."""

    durable = False

    def __init__(self, max_tasks: int, max_bytes: int) -> None:
        self.outbox = MemoryOutbox()
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._tasks: dict[str, Task] = {}
        self._nbytes = 0
        self._seq = 0
        self._keys: dict[str, Holder] = {}
        self._groups: dict[str, _Members] = {}
        self._expiring: list[tuple[float, str]] = []
        # Ordered dictionaries, because a plain one takes ever longer to find its first key when that keeps going.
        self._delivered: OrderedDict[str, None] = OrderedDict()
        self._delivered_bytes = 0
        self._traces: OrderedDict[str, tuple[float, Gone]] = OrderedDict()

    async def unfinished(self) -> list[Task]:
        return []

    def put(self, tasks: Sequence[Task], now: float, group: Group | None = None) -> Awaitable[None]:
        nbytes = 0
        for task in tasks:
            nbytes += task.input_bytes
        if len(self._tasks) + len(tasks) > self._max_tasks or self._nbytes + nbytes > self._max_bytes:
            self._make_room(len(tasks), nbytes, now)
        for task in tasks:
            self._seq += 1
            task.seq = self._seq
            self._tasks[task.id] = task
            if task.options.idempotency_key is not None:
                self._keys[task.options.idempotency_key] = Holder(task.id, task.options.fingerprint)
        self._nbytes += nbytes
        if group is not None:
            self._groups[group.id] = _Members(group, {task.id: None for task in tasks})
            if group.idempotency_key is not None:
                self._keys[group.idempotency_key] = Holder(group.id, group.fingerprint)
        return DONE

    def start(self, tasks: Sequence[Task], now: float) -> None:
        """Nothing survives the end of this process."""

    def finish(
        self, tasks: Sequence[Task], deliveries: Sequence[Delivery] = (), closing: Sequence[Closing] = ()
    ) -> Awaitable[None]:
        for task in tasks:
            self._nbytes += task.nbytes - task.input_bytes
            if task.expires is not None:
                heapq.heappush(self._expiring, (task.expires, task.id))
            while self._nbytes > self._max_bytes and self._delivered:
                self._drop_delivered(task.ended or 0.0)
        for delivery in deliveries:
            self.outbox.add(delivery)
        for group, expires in closing:
            self._set_expiry(group, expires)
            for task_id in self._groups[group].ids:
                heapq.heappush(self._expiring, (expires, task_id))
        return DONE

    async def reopen(self, task: Task, now: float) -> Task:
        if task.id in self._delivered:
            del self._delivered[task.id]
            self._delivered_bytes -= task.nbytes
        # Another object: a run that is still on the lane, past its deadline, must not end the new one.
        again = self._tasks[task.id] = copy.copy(task)
        again.reopen(now)
        if task.group is not None:
            self._set_expiry(task.group, None)
        return again

    def _set_expiry(self, group: str, expires: float | None) -> None:
        members = self._groups[group]
        members.group = members.group._replace(expires=expires)
        for task_id in members.ids:
            self._tasks[task_id].expires = expires

    def remove(self, tasks: Sequence[Task], gone: Gone, now: float) -> Awaitable[object]:
        for task in tasks:
            held = self._tasks.get(task.id)  # which may be another object by now: it is to run again
            if held is not None and not held.live:
                self._remove(held, gone, now)
        return DONE

    def delivered(self, task: Task) -> None:
        if not task.live and self._tasks.get(task.id) is task and task.id not in self._delivered:
            self._delivered[task.id] = None
            self._delivered_bytes += task.nbytes

    async def get(self, task_id: str) -> Task | Gone | None:
        task = self._tasks.get(task_id)
        if task is not None:
            return task
        trace = self._traces.get(task_id)
        return trace[1] if trace else None

    async def holder(self, idempotency_key: str) -> Holder | None:
        return self._keys.get(idempotency_key)

    async def page(self, query: Query) -> list[Task]:
        stateless = query._replace(state=None)
        fitting = (
            task
            for task in reversed(self._tasks.values())
            if fits(task, stateless) and (query.state is None or _stored_state(task) is query.state)
        )
        return list(islice(fitting, query.limit))

    async def group(self, group_id: str) -> GroupState | Gone | None:
        members = self._groups.get(group_id)
        if members is None:
            trace = self._traces.get(group_id)
            return trace[1] if trace else None
        return GroupState(members.group, Counter(_stored_state(self._tasks[task_id]) for task_id in members.ids))

    def sweep(self, now: float, limit: int) -> Awaitable[int]:
        removed = 0
        while removed < limit and self._expiring and self._expiring[0][0] <= now:
            expires, task_id = heapq.heappop(self._expiring)
            task = self._tasks.get(task_id)
            if task is not None and not task.live and task.expires == expires:
                self._remove(task, EXPIRED, now)
                removed += 1
        while self._traces:
            since, _ = next(iter(self._traces.values()))
            if since + TRACE_SECONDS > now and len(self._traces) <= MAX_TRACES:
                break
            self._traces.popitem(last=False)
        return Ready(removed)

    def usage(self) -> Usage:
        return Usage(len(self._tasks), self._nbytes, self._max_tasks, self._max_bytes)

    async def close(self) -> None:
        for kept in (self._tasks, self._keys, self._groups, self._delivered, self._traces):
            kept.clear()
        self._expiring.clear()
        self._nbytes = self._delivered_bytes = 0

    def _make_room(self, tasks: int, nbytes: int, now: float) -> None:
        """Drop delivered results until there is room; none of them where even that would not do."""
        left_tasks = len(self._tasks) - len(self._delivered) + tasks
        left_bytes = self._nbytes - self._delivered_bytes + nbytes
        if left_tasks > self._max_tasks or left_bytes > self._max_bytes:
            raise no_room(self.usage(), nbytes)
        while len(self._tasks) + tasks > self._max_tasks or self._nbytes + nbytes > self._max_bytes:
            self._drop_delivered(now)

    def _drop_delivered(self, now: float) -> None:
        """Drop the result that was delivered longest ago; there must be one."""
        self._remove(self._tasks[next(iter(self._delivered))], MADE_ROOM, now)

    def _remove(self, task: Task, gone: Gone, now: float) -> None:
        del self._tasks[task.id]
        self._nbytes -= task.nbytes
        if task.id in self._delivered:
            del self._delivered[task.id]
            self._delivered_bytes -= task.nbytes
        if task.options.idempotency_key is not None:
            self._keys.pop(task.options.idempotency_key, None)
        self._traces[task.id] = now, gone
        members = self._groups.get(task.group or "")
        if members is not None:
            del members.ids[task.id]
            if not members.ids:
                self._forget_group(members.group, gone, now)

    def _forget_group(self, group: Group, gone: Gone, now: float) -> None:
        del self._groups[group.id]
        if group.idempotency_key is not None:
            self._keys.pop(group.idempotency_key, None)
        self._traces[group.id] = now, gone


def _stored_state(task: Task) -> TaskState:
    """The state as a store tells it: that of a running task is known elsewhere."""
    return TaskState.QUEUED if task.visible_state in LIVE else task.state


class MemoryOutbox:
    """Webhook messages by id."""

    def __init__(self) -> None:
        self._waiting: dict[str, Delivery] = {}

    def add(self, delivery: Delivery) -> None:
        self._waiting[delivery.id] = delivery

    async def due(self, now: float, limit: int) -> list[Delivery]:
        due = [delivery for delivery in self._waiting.values() if delivery.due <= now]
        return sorted(due, key=lambda delivery: delivery.due)[:limit]

    async def next_due(self, after: float) -> float | None:
        return min((delivery.due for delivery in self._waiting.values() if delivery.due > after), default=None)

    def done(self, delivery: Delivery) -> Awaitable[None]:
        self._waiting.pop(delivery.id, None)
        return DONE

    def postpone(self, delivery: Delivery, due: float) -> Awaitable[None]:
        self._waiting[delivery.id] = delivery._replace(attempts=delivery.attempts + 1, due=due)
        return DONE

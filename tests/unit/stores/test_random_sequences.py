"""Every store against a plain model of what it must hold, through long random sequences of calls."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ndserve.errors import StoreFullError
from ndserve.stores import STORES
from ndserve.stores.base import Closing, Gone, Group, GroupState, Query
from ndserve.types import Task, TaskOptions
from tests.contract.stores import DAY, DURABLE, TTL, a_group, cancel, end, fail, finish, killed, make, new, put, settled

T = TypeVar("T")

MAX_TASKS = 6
MAX_BYTES = 60


class StoreMachine(RuleBasedStateMachine):
    """The model: every task ever accepted, and which of them have ended, were delivered, or may be gone.

    Results are never larger than their inputs here, so that only `put` can meet the bounds.
    """

    name: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp())
        self.folder = self.root / "a"
        self.store = make(self.name, self.folder, max_tasks=MAX_TASKS, max_bytes=MAX_BYTES)
        self.known: dict[str, Task | Gone | None] = {}
        self.call(self.store.unfinished)
        self.now = 0.0
        self.live: dict[str, Task] = {}
        self.unseen: dict[str, Task] = {}
        self.seen: dict[str, Task] = {}
        self.removed: list[tuple[float, Task]] = []
        self.refused: list[Task] = []
        self.groups: dict[str, tuple[Group, list[str]]] = {}
        self.count = 0

    def teardown(self) -> None:
        """However it went, everything that ends and expires leaves nothing behind."""
        for _ in range(len(self.live)):
            self.finish(0, 0, "end")
        self.now += TTL
        self.call(self.store.sweep, self.now, self.count)
        assert self.call(self.store.usage)[:2] == (0, 0)
        assert all(isinstance(self.call(self.store.group, group), Gone | None) for group in self.groups)
        self.call(self.store.close)
        self.loop.close()
        shutil.rmtree(self.root)

    def call(self, verb: Callable[..., Any], *args: Any) -> Any:
        """What the verb gives, called and awaited on the loop, as all verbs are."""
        self.known.clear()

        async def on_the_loop() -> Any:
            given = verb(*args)
            return await given if isinstance(given, Awaitable) else given

        return self.loop.run_until_complete(on_the_loop())

    def read(self, reading: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(reading)

    def get(self, task: Task) -> Task | Gone | None:
        """What the store has of it, read again only when something may have changed."""
        if task.id not in self.known:
            self.known[task.id] = self.read(self.store.get(task.id))
        return self.known[task.id]

    def held(self, tasks: dict[str, Task]) -> list[Task]:
        return [task for task in tasks.values() if isinstance(self.get(task), Task)]

    def all_held(self) -> list[Task]:
        return self.held(self.live | self.unseen | self.seen)

    @rule(sizes=st.lists(st.integers(0, 30), max_size=4), grouped=st.booleans())
    def put(self, sizes: list[int], grouped: bool) -> None:
        group = a_group(f"group-{self.count}", len(sizes), key=f"key of {self.count}") if grouped and sizes else None
        tasks = []
        for size in sizes:
            options = TaskOptions(idempotency_key=f"key {self.count}")
            tasks.append(
                new(self.count, size, created=self.now, options=options, group=None if group is None else group.id)
            )
            self.count += 1
        kept = [*self.live.values(), *self.held(self.unseen), *tasks]
        fits = len(kept) <= MAX_TASKS and sum(task.nbytes for task in kept) <= MAX_BYTES
        try:
            self.call(put, self.store, tasks, self.now, group)
        except StoreFullError:
            assert not fits, "there was room, or delivered results to make it"
            self.refused += tasks
            return
        assert fits, "something that must be kept was dropped, or a bound was passed"
        self.live |= {task.id: task for task in tasks}
        if group is not None:
            self.groups[group.id] = group, [task.id for task in tasks]

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99), nbytes=st.integers(0, 30), how=st.sampled_from(["end", "end", "fail", "cancel"]))
    def finish(self, index: int, nbytes: int, how: str) -> None:
        task = list(self.live.values())[index % len(self.live)]
        del self.live[task.id]
        if how == "end":
            end(task, self.now, min(nbytes, task.nbytes))
        else:
            (fail if how == "fail" else cancel)(task, self.now)
        closing = []
        if task.group is not None:
            group, ids = self.groups[task.group]
            if not any(member in self.live for member in ids):
                closing = [Closing(group.id, self.now + TTL)]
                self.groups[group.id] = group._replace(expires=self.now + TTL), ids
        self.call(finish, self.store, [task], [], closing)
        self.unseen[task.id] = task

    @precondition(lambda self: self.unseen)
    @rule(index=st.integers(0, 99))
    def deliver(self, index: int) -> None:
        """Some of these are gone: somebody was slow to fetch them."""
        task = list(self.unseen.values())[index % len(self.unseen)]
        self.call(self.store.delivered, task)
        self.seen[task.id] = self.unseen.pop(task.id)

    @precondition(lambda self: self.unseen or self.seen)
    @rule(index=st.integers(0, 99))
    def remove(self, index: int) -> None:
        ended = [*self.unseen.values(), *self.seen.values(), *self.live.values()]
        task = ended[index % len(ended)]
        there = isinstance(self.get(task), Task)
        self.call(self.store.remove, [task], Gone("by hand"), self.now)
        if there and not task.live:
            self.unseen.pop(task.id, None)
            self.seen.pop(task.id, None)
            self.removed.append((self.now, task))

    @precondition(lambda self: self.unseen or self.seen)
    @rule(index=st.integers(0, 99))
    def reopen(self, index: int) -> None:
        failed = [task for task in self.held(self.unseen | self.seen) if task.failure is not None]
        if not failed:
            return
        again = self.call(self.store.reopen, self.get(failed[index % len(failed)]), self.now)
        self.unseen.pop(again.id, None)
        self.seen.pop(again.id, None)
        self.live[again.id] = again
        if again.group is not None:
            group, ids = self.groups[again.group]
            self.groups[group.id] = group._replace(expires=None), ids

    @rule(seconds=st.sampled_from([1.0, TTL / 2, TTL, DAY]), limit=st.integers(0, 3))
    def sweep(self, seconds: float, limit: int) -> None:
        self.now += seconds
        before = self.call(self.store.usage).tasks
        removed = self.call(self.store.sweep, self.now, limit)
        assert removed <= limit
        assert self.call(self.store.usage).tasks == before - removed

    @precondition(lambda self: self.name in DURABLE)
    @rule(crash=st.booleans())
    def start_again(self, crash: bool) -> None:
        self.call(settled, self.store)
        usage = self.call(self.store.usage)
        left = killed(self.folder) if crash else self.folder
        self.call(self.store.close)
        self.folder = left
        self.store = make(self.name, left, max_tasks=MAX_TASKS, max_bytes=MAX_BYTES)
        unfinished = self.call(self.store.unfinished)
        assert [task.id for task in unfinished] == [task.id for task in sorted(self.live.values(), key=_number)]
        assert self.call(self.store.usage) == usage
        self.live = {task.id: task for task in unfinished}
        # Who has seen what is forgotten: what is there now is kept until it expires.
        self.unseen |= {task.id: task for task in self.held(self.seen)}
        self.seen = {name: task for name, task in self.seen.items() if name not in self.unseen}

    @invariant()
    def usage_is_what_is_there_and_within_bounds(self) -> None:
        there = self.all_held()
        usage = self.store.usage()
        assert (usage.tasks, usage.nbytes) == (len(there), sum(task.nbytes for task in there))
        assert usage.tasks <= MAX_TASKS
        assert usage.nbytes <= MAX_BYTES

    @invariant()
    def pages_have_what_is_there(self) -> None:
        there = sorted(self.all_held(), key=_number, reverse=True)
        assert [task.id for task in self.read(self.store.page(Query(99)))] == [task.id for task in there]

    @invariant()
    def keys_lead_to_what_is_there(self) -> None:
        for task in (self.live | self.unseen | self.seen).values():
            holder = self.read(self.store.holder(task.options.idempotency_key or ""))
            assert (holder is not None and holder.id == task.id) == isinstance(self.get(task), Task)

    @invariant()
    def groups_have_the_tasks_that_are_there_and_expire_with_them(self) -> None:
        for group, ids in self.groups.values():
            there = [task for task in self.all_held() if task.id in ids]
            state = self.read(self.store.group(group.id))
            assert isinstance(state, GroupState) == bool(there)
            if isinstance(state, GroupState):
                assert (state.group, sum(state.counts.values())) == (group, len(there))
                held = [self.get(task) for task in there]
                assert {task.expires for task in held if isinstance(task, Task)} == {group.expires}

    @invariant()
    def unseen_results_are_there_until_they_expire(self) -> None:
        for task in self.unseen.values():
            expires = task.expires if task.group is None else self.groups[task.group][0].expires
            if expires is None or self.now < expires:
                assert isinstance(self.get(task), Task)

    @invariant()
    def removed_results_leave_a_trace_for_a_day(self) -> None:
        for task in (*self.unseen.values(), *self.seen.values()):
            assert task.ended is not None
            if self.now < task.ended + DAY:
                assert isinstance(self.get(task), Task | Gone)
        for since, task in self.removed:
            assert isinstance(self.get(task), Gone if self.now < since + DAY else Gone | None)

    @invariant()
    def refused_tasks_are_not_there(self) -> None:
        assert all(self.get(task) is None for task in self.refused)


def _number(task: Task) -> int:
    return task.seq


@pytest.mark.parametrize("name", sorted(STORES))
def test_a_store_holds_what_the_model_holds(name: str) -> None:
    machine = type("Machine", (StoreMachine,), {"name": name})
    examples = 20 if name in DURABLE else 60
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=30, deadline=None))

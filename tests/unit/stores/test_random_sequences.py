"""Every store against a plain model of what it must hold, through long random sequences of calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ndserve.errors import StoreFullError
from ndserve.stores import STORES, open_store
from ndserve.stores.base import Gone
from ndserve.types import Task
from tests.contract.test_stores import DAY, TTL, end, new

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
        self.store = open_store(self.name, ttl=TTL, max_tasks=MAX_TASKS, max_bytes=MAX_BYTES)
        self.now = 0.0
        self.live: dict[str, Task] = {}
        self.unseen: dict[str, Task] = {}
        self.seen: dict[str, Task] = {}
        self.refused: list[Task] = []
        self.count = 0

    def teardown(self) -> None:
        """However it went, everything that ends and expires leaves nothing behind."""
        for _ in range(len(self.live)):
            self.finish(0, 0)
        self.now += TTL
        self.call(self.store.sweep, self.now, self.count)
        assert self.call(self.store.usage)[:2] == (0, 0)
        self.call(self.store.close)
        self.loop.close()

    def call(self, verb: Callable[..., Any], *args: Any) -> Any:
        """What the verb gives, called and awaited on the loop, as all verbs are."""

        async def on_the_loop() -> Any:
            given = verb(*args)
            return await given if isinstance(given, Awaitable) else given

        return self.loop.run_until_complete(on_the_loop())

    def get(self, task: Task) -> Task | Gone | None:
        found: Task | Gone | None = self.call(self.store.get, task.id)
        return found

    def held(self, tasks: dict[str, Task]) -> list[Task]:
        return [task for task in tasks.values() if isinstance(self.get(task), Task)]

    @rule(sizes=st.lists(st.integers(0, 30), max_size=4))
    def put(self, sizes: list[int]) -> None:
        tasks = [new(self.count + index, size, created=self.now) for index, size in enumerate(sizes)]
        self.count += len(tasks)
        kept = [*self.live.values(), *self.held(self.unseen), *tasks]
        fits = len(kept) <= MAX_TASKS and sum(task.nbytes for task in kept) <= MAX_BYTES
        try:
            self.call(self.store.put, tasks, self.now)
        except StoreFullError:
            assert not fits, "there was room, or delivered results to make it"
            self.refused += tasks
        else:
            assert fits, "something that must be kept was dropped, or a bound was passed"
            self.live |= {task.id: task for task in tasks}

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 99), nbytes=st.integers(0, 30))
    def finish(self, index: int, nbytes: int) -> None:
        task = list(self.live.values())[index % len(self.live)]
        del self.live[task.id]
        end(task, self.now, min(nbytes, task.nbytes))
        self.call(self.store.finish, [task])
        self.unseen[task.id] = task

    @precondition(lambda self: self.unseen)
    @rule(index=st.integers(0, 99))
    def deliver(self, index: int) -> None:
        task = list(self.unseen.values())[index % len(self.unseen)]
        if isinstance(self.get(task), Task):
            self.call(self.store.delivered, task)
            self.seen[task.id] = self.unseen.pop(task.id)

    @rule(seconds=st.sampled_from([1.0, TTL / 2, TTL, DAY]), limit=st.integers(0, 3))
    def sweep(self, seconds: float, limit: int) -> None:
        self.now += seconds
        before = self.call(self.store.usage).tasks
        removed = self.call(self.store.sweep, self.now, limit)
        assert removed <= limit
        assert self.call(self.store.usage).tasks == before - removed

    @invariant()
    def usage_is_what_is_there_and_within_bounds(self) -> None:
        there = [task for tasks in (self.live, self.unseen, self.seen) for task in self.held(tasks)]
        usage = self.call(self.store.usage)
        assert (usage.tasks, usage.nbytes) == (len(there), sum(task.nbytes for task in there))
        assert usage.tasks <= MAX_TASKS
        assert usage.nbytes <= MAX_BYTES

    @invariant()
    def unseen_results_are_there_until_they_expire(self) -> None:
        for task in self.unseen.values():
            assert task.ended is not None
            if self.now < task.ended + TTL:
                assert isinstance(self.get(task), Task)

    @invariant()
    def removed_results_leave_a_trace_for_a_day(self) -> None:
        for task in (*self.unseen.values(), *self.seen.values()):
            assert task.ended is not None
            if self.now < task.ended + DAY:
                assert isinstance(self.get(task), Task | Gone)

    @invariant()
    def refused_tasks_are_not_there(self) -> None:
        assert all(self.get(task) is None for task in self.refused)


@pytest.mark.parametrize("name", sorted(STORES))
def test_a_store_holds_what_the_model_holds(name: str) -> None:
    machine = type("Machine", (StoreMachine,), {"name": name})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))

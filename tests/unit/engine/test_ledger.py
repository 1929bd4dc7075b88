"""The ledger: every task ends once, and nobody hears of an end before the store has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from ndserve.engine.ledger import Ledger
from ndserve.errors import StoreUnavailableError
from ndserve.stores.base import Delivery, Group
from ndserve.stores.memory import MemoryStore
from ndserve.types import Outcome, Task, TaskOptions, TaskState, Webhook
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Clock, batch_key, run, tick

HOOK = Webhook("http://here/", (TaskState.SUCCEEDED,))


class Herald:
    """A notifier that has word of every end, and counts how often it was nudged."""

    def __init__(self) -> None:
        self.nudges = 0

    def notice(self, task: Task) -> Delivery | None:
        return Delivery(f"msg_{task.id}", "http://here/", b"{}", 0, 0.0) if task.state is TaskState.SUCCEEDED else None

    def nudge(self) -> None:
        self.nudges += 1


def kept(name: str, options: TaskOptions | None = None, group: str | None = None) -> Task:
    inputs = {"x": np.zeros(2, np.float32)}
    task = Task(name, batch_key(), inputs, 1, True, 1000.0, options or TaskOptions(), group)
    task.kept = True
    return task


def ledger_with(store: MemoryStore, *tasks: Task, herald: Herald | None = None, clock: Clock | None = None) -> Ledger:
    ledger = Ledger(store, clock or Clock(), 3600.0, herald)
    store.put(tasks, 1000.0)
    for task in tasks:
        ledger.add(task)
    return ledger


def group_of(store: MemoryStore, size: int, ttls: Sequence[float | None] = ()) -> tuple[Ledger, list[Task], Clock]:
    options = [TaskOptions(ttl=ttl) for ttl in ttls] or [TaskOptions()] * size
    tasks = [kept(f"g-{index}", options[index], "g") for index in range(size)]
    store.put(tasks, 1000.0, Group("g", "a", "1", size, 1000.0, None, ""))
    clock = Clock()
    ledger = Ledger(store, clock, 3600.0, None)
    for task in tasks:
        ledger.add(task)
    return ledger, tasks, clock


def cancelled(*tasks: Task) -> list[Outcome]:
    return [(task, TaskState.CANCELLED, None, None) for task in tasks]


def succeeded(*tasks: Task) -> list[Outcome]:
    return [(task, TaskState.SUCCEEDED, {"y": np.zeros(1)}, None) for task in tasks]


# once


def test_a_task_is_settled_once_and_a_late_outcome_is_counted_apart() -> None:
    async def main() -> None:
        task = kept("a")
        ledger = ledger_with(MemoryStore(10, 1000), task)
        assert ledger.settle(cancelled(task)) == 1
        assert ledger.settle(succeeded(task)) == 0
        assert (task.state, task.outputs, ledger.late) == (TaskState.CANCELLED, None, 1)
        assert (ledger.ended[TaskState.CANCELLED], ledger.ended[TaskState.SUCCEEDED]) == (1, 0)

    run(main())


def test_a_task_that_is_twice_in_one_list_of_outcomes_is_settled_once() -> None:
    async def main() -> None:
        task, store = kept("a"), DurableFake(prompt=True)
        ledger = ledger_with(store, task)
        assert ledger.settle([*succeeded(task), *cancelled(task)]) == 1
        assert [len(tasks) for tasks, _, _ in store.finished] == [1]
        assert task.state is TaskState.SUCCEEDED
        await tick()

    run(main())


def test_a_task_that_somebody_has_read_from_the_store_cannot_end_in_place_of_the_one_that_runs() -> None:
    async def main() -> None:
        task, copy, store = kept("a"), kept("a"), DurableFake(prompt=True)
        ledger = ledger_with(store, task)
        assert ledger.settle(cancelled(copy)) == 0
        assert (copy.live, store.finished) == (True, [])
        assert ledger.settle(succeeded(task)) == 1
        await ledger.close()
        assert (task.public, ledger.live, ledger.nbytes) == (True, {}, 0)

    run(main())


def test_outcomes_of_several_states_are_counted_each_under_its_own() -> None:
    async def main() -> None:
        a, b, c = kept("a"), kept("b"), kept("c")
        ledger = ledger_with(MemoryStore(10, 1000), a, b, c)
        ledger.settle([*succeeded(a), *cancelled(b), *succeeded(c)])
        assert (ledger.ended[TaskState.SUCCEEDED], ledger.ended[TaskState.CANCELLED]) == (2, 1)

    run(main())


def test_only_a_task_that_ends_while_it_is_queued_is_taken_out_of_the_queue() -> None:
    async def main() -> None:
        queued, running = kept("a"), kept("b")
        ledger = ledger_with(MemoryStore(10, 1000), queued, running)
        running.start(1000.0)
        seen: list[Task] = []
        ledger.on_queued_end = seen.append
        ledger.settle(cancelled(queued, running))
        assert seen == [queued]

    run(main())


# told after the commit


def test_an_end_is_told_to_nobody_before_the_store_has_it() -> None:
    async def main() -> None:
        task, store = kept("a"), DurableFake()
        ledger = ledger_with(store, task)
        waiting = ledger.waiters.add("a")
        with ledger.watchers.watch("a") as changed:
            ledger.settle(succeeded(task))
            await tick()
            assert (task.live, task.public, task.visible_state) == (False, False, TaskState.RUNNING)
            assert not waiting.done()
            assert not changed.is_set()
            assert "a" in ledger.live
            store.commit()
            assert await waiting
            assert changed.is_set()
            assert (task.public, task.visible_state) == (True, TaskState.SUCCEEDED)

    run(main())


def test_an_end_that_could_not_be_stored_is_told_to_nobody() -> None:
    async def main() -> None:
        task, store = kept("a"), DurableFake()
        ledger = ledger_with(store, task)
        waiting = ledger.waiters.add("a")
        ledger.settle(succeeded(task))
        store.finishes[0].set_exception(StoreUnavailableError("closed"))
        await ledger.close()
        assert (task.public, waiting.done()) == (False, False)

    run(main())


def test_an_end_in_a_store_that_is_never_late_is_public_at_once() -> None:
    async def main() -> None:
        task = kept("a")
        ledger = ledger_with(MemoryStore(10, 1000), task)
        waiting = ledger.waiters.add("a")
        ledger.settle(succeeded(task))
        assert task.public
        assert waiting.done()

    run(main())


def test_a_task_that_is_not_kept_ends_without_the_store() -> None:
    async def main() -> None:
        store = DurableFake()
        task = kept("a")
        task.kept = False
        ledger = Ledger(store, Clock(), 3600.0, None)
        ledger.add(task)
        ledger.settle(succeeded(task))
        assert (task.public, store.finished) == (True, [])

    run(main())


def test_closing_waits_until_every_decided_end_is_stored() -> None:
    async def main() -> None:
        task, store = kept("a"), DurableFake()
        ledger = ledger_with(store, task)
        ledger.settle(succeeded(task))
        closing = asyncio.create_task(ledger.close())
        await tick()
        assert not closing.done()
        store.commit()
        await closing
        assert task.public

    run(main())


def test_tasks_and_bytes_count_until_the_end_is_public_and_nothing_is_left_then() -> None:
    async def main() -> None:
        tasks, store = [kept("a"), kept("b", TaskOptions(start_within=50.0))], DurableFake()
        ledger = ledger_with(store, *tasks)
        ledger.settle(succeeded(*tasks))
        ledger.empty.clear()
        await tick()
        assert (len(ledger.live), ledger.nbytes) == (2, 16)
        store.commit()
        await ledger.empty.wait()
        assert (len(ledger.live), ledger.nbytes, len(ledger.deadlines), len(ledger.waiters)) == (0, 0, 0, 0)

    run(main())


# withdrawing


def test_a_withdrawn_task_is_as_if_it_had_never_come() -> None:
    async def main() -> None:
        task, store = kept("a"), DurableFake()
        ledger = ledger_with(store, task)
        waiting = ledger.waiters.add("a")
        seen: list[Task] = []
        ledger.on_queued_end = seen.append
        ledger.withdraw(task)
        assert (ledger.live, ledger.nbytes, seen) == ({}, 0, [task])
        assert await waiting
        assert ledger.settle(succeeded(task)) == 0
        assert sum(ledger.ended.values()) == 0
        assert store.finished == []

    run(main())


def test_the_late_commit_of_a_withdrawn_task_does_not_touch_a_new_one_of_its_id() -> None:
    async def main() -> None:
        refused, store = kept("a"), DurableFake()
        ledger = ledger_with(store, refused)
        ledger.settle(succeeded(refused))
        ledger.withdraw(refused)
        new = kept("a")
        store.put([new], 1000.0)
        ledger.add(new)
        waiting = ledger.waiters.add("a")
        store.commit()
        await tick()
        assert (refused.public, ledger.live, ledger.nbytes, waiting.done()) == (False, {"a": new}, 8, False)
        ledger.settle(succeeded(new))
        assert await waiting
        assert (new.public, ledger.live, ledger.nbytes) == (True, {}, 0)

    run(main())


def test_a_group_that_is_withdrawn_after_one_of_its_tasks_has_ended_leaves_nothing() -> None:
    async def main() -> None:
        store = DurableFake()
        ledger, tasks, _ = group_of(store, 3)
        waiting = ledger.waiters.add("g")
        ledger.settle(succeeded(tasks[0]))
        for task in tasks:
            ledger.withdraw(task)
        store.commit()
        await ledger.close()
        assert await waiting
        assert (ledger.live, ledger.nbytes, ledger.group_is_live("g")) == ({}, 0, False)

    run(main())


# starts and progress


def test_the_store_notes_the_start_of_kept_tasks_that_have_not_started_before() -> None:
    async def main() -> None:
        first, loose, again = kept("a"), kept("b"), kept("c")
        store = DurableFake()
        ledger = ledger_with(store, first, loose, again)
        loose.kept = False
        again.start(1.0)
        ledger.note([first, loose, again], 7.0)
        assert store.started == [("a", 7.0)]

    run(main())


def test_progress_of_a_live_task_is_kept_with_its_time_and_told() -> None:
    async def main() -> None:
        task = kept("a")
        ledger = ledger_with(MemoryStore(10, 1000), task)
        with ledger.watchers.watch("a") as changed:
            ledger.progressed([task], 0.5, "half")
            assert changed.is_set()
        assert task.progress == (0.5, "half", 1000.0)

    run(main())


def test_progress_of_an_ended_task_is_dropped() -> None:
    async def main() -> None:
        task = kept("a")
        ledger = ledger_with(MemoryStore(10, 1000), task)
        ledger.settle(cancelled(task))
        ledger.progressed([task], 0.5, "half")
        assert task.progress is None

    run(main())

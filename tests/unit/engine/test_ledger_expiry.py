"""The ledger: how long outcomes are kept, when a group closes, and what goes into the outbox."""

from __future__ import annotations

from ndserve.stores.memory import MemoryStore
from ndserve.types import Failure, TaskOptions, TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Clock, run, tick
from tests.unit.engine.test_ledger import HOOK, Herald, cancelled, group_of, kept, ledger_with, succeeded


def test_an_outcome_is_kept_for_the_tasks_own_ttl_or_else_for_the_default() -> None:
    async def main() -> None:
        own, default = kept("a", TaskOptions(ttl=10.0)), kept("b")
        ledger = ledger_with(MemoryStore(10, 1000), own, default)
        ledger.settle(succeeded(own, default))
        assert (own.expires, default.expires) == (1010.0, 4600.0)

    run(main())


def test_a_ttl_of_zero_is_no_default() -> None:
    async def main() -> None:
        task = kept("a", TaskOptions(ttl=0.0))
        ledger_with(MemoryStore(10, 1000), task).settle(succeeded(task))
        assert task.expires == 1000.0

    run(main())


def test_a_group_closes_with_its_last_task_and_expires_as_a_whole() -> None:
    async def main() -> None:
        store = DurableFake(prompt=True)
        ledger, tasks, clock = group_of(store, 3, [60.0] * 3)
        ledger.settle(succeeded(tasks[0]))
        clock.now += 5
        ledger.settle(succeeded(*tasks[1:]))
        assert [closing for _, _, closing in store.finished] == [[], [("g", 1065.0)]]
        assert {task.expires for task in tasks} == {1065.0}
        await tick()

    run(main())


def test_no_task_of_a_group_expires_before_all_have_ended() -> None:
    async def main() -> None:
        store = MemoryStore(10, 1000)
        ledger, tasks, clock = group_of(store, 2, [1.0] * 2)
        ledger.settle(succeeded(tasks[0]))
        clock.now += 1000
        assert tasks[0].expires is None
        assert await store.sweep(clock.now, 10) == 0
        ledger.settle(cancelled(tasks[1]))
        clock.now += 1
        assert await store.sweep(clock.now, 10) == 2

    run(main())


def test_who_waits_for_a_group_is_woken_with_the_end_of_its_last_task() -> None:
    async def main() -> None:
        store = DurableFake()
        ledger, tasks, _ = group_of(store, 2)
        waiting = ledger.waiters.add("g")
        ledger.settle(succeeded(tasks[0]))
        ledger.settle(succeeded(tasks[1]))
        store.finishes[1].set_result(None)
        await tick()
        assert not waiting.done(), "the first one is not stored yet"
        store.commit()
        assert await waiting
        assert not ledger.group_is_live("g")

    run(main())


def test_a_group_is_live_until_its_last_end_is_public() -> None:
    async def main() -> None:
        store = DurableFake()
        ledger, tasks, _ = group_of(store, 1)
        ledger.settle(succeeded(tasks[0]))
        assert ledger.group_is_live("g")
        store.commit()
        await ledger.close()
        assert not ledger.group_is_live("g")

    run(main())


def test_a_task_of_a_closed_group_that_is_run_again_closes_it_again() -> None:
    async def main() -> None:
        store = DurableFake(prompt=True)
        ledger, tasks, clock = group_of(store, 2)
        ledger.settle(succeeded(tasks[0]))
        ledger.settle([(tasks[1], TaskState.FAILED, None, Failure("code", "why", 500))])
        await ledger.close()
        clock.now += 100
        again = await store.reopen(tasks[1], clock.now)
        assert tasks[0].expires is None
        ledger.add(again)
        ledger.settle(succeeded(again))
        assert {task.expires for task in (tasks[0], again)} == {4700.0}
        await tick()

    run(main())


# webhooks


def test_the_word_of_an_end_goes_into_the_outbox_in_the_call_that_ends_the_task() -> None:
    async def main() -> None:
        wanted, quiet, store = kept("a", TaskOptions(webhook=HOOK)), kept("b"), DurableFake(prompt=True)
        ledger = ledger_with(store, wanted, quiet, herald=Herald())
        ledger.settle(succeeded(wanted, quiet))
        ((tasks, deliveries, _),) = store.finished
        assert (tasks, [delivery.id for delivery in deliveries]) == ([wanted, quiet], ["msg_a"])
        await tick()

    run(main())


def test_the_courier_is_nudged_once_the_outbox_is_safe() -> None:
    async def main() -> None:
        task, store, herald = kept("a", TaskOptions(webhook=HOOK)), DurableFake(), Herald()
        ledger = ledger_with(store, task, herald=herald)
        ledger.settle(succeeded(task))
        await tick()
        assert herald.nudges == 0
        store.commit()
        await ledger.close()
        assert herald.nudges == 1

    run(main())


def test_an_end_that_a_webhook_did_not_ask_for_gives_no_message() -> None:
    async def main() -> None:
        task, store = kept("a", TaskOptions(webhook=HOOK)), DurableFake(prompt=True)
        ledger_with(store, task, herald=Herald(), clock=Clock()).settle(cancelled(task))
        assert [deliveries for _, deliveries, _ in store.finished] == [[]]
        await tick()

    run(main())

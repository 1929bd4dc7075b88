"""The end of the service: draining, a device that no longer answers, and stores that take their time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Self

import pytest

from ndserve.devices.cpu import CpuDevice
from ndserve.engine.service import QueueBounds
from ndserve.errors import EngineDeadError, ModelLoadError, QueueFullError, ShuttingDownError
from ndserve.processes.base import Process, process
from ndserve.stores.base import Closing, Delivery, Group
from ndserve.stores.memory import MemoryStore
from ndserve.types import Task, TaskState
from tests.unit.engine.rig import Gate, code, ended, item, model_info, output, run, serving, tick


class SickDevice(CpuDevice):
    """Does not answer any more after the first batch that fails."""

    def healthy(self) -> bool:
        return False


class LockedDevice(CpuDevice):
    """Cannot be entered."""

    def __enter__(self) -> Self:
        raise OSError("no driver")


class LateStore(MemoryStore):
    """Commits when the test says so."""

    def __init__(self) -> None:
        super().__init__(1000, 1 << 30)
        self.committed = asyncio.Event()

    def put(self, tasks: Sequence[Task], now: float, group: Group | None = None) -> Awaitable[None]:
        super().put(tasks, now, group)
        return self._commit()

    def finish(
        self, tasks: Sequence[Task], deliveries: Sequence[Delivery] = (), closing: Sequence[Closing] = ()
    ) -> Awaitable[None]:
        super().finish(tasks, deliveries, closing)
        return self._commit()

    async def _commit(self) -> None:
        await self.committed.wait()


def gated(gate: Gate) -> Process:
    @process("gated", batched=True)
    def stand(xp: Any, x: Any) -> Any:
        gate.hold()
        if (x[:, 0] < 0).any():
            raise ValueError("negative")
        return x

    return stand


# draining


def test_a_service_that_drains_finishes_what_runs_and_what_is_queued() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            tasks = [await service.submit("gated", item(0))]
            await gate.reached()
            tasks += [await service.submit("gated", item(n)) for n in range(1, 5)]
            draining = asyncio.create_task(service.drain(60))
            await tick()
            gate.open()
            await draining
            assert [output(task).tolist() for task in tasks] == [[n] for n in range(5)]

    run(main())


def test_a_service_that_was_idle_before_drains_as_well() -> None:
    async def main() -> None:
        gate = Gate()

        @process("other", batched=True)
        def other(xp: Any, x: Any) -> Any:
            return x

        async with serving(gated(gate), other, gates=[gate]) as service:
            await service.infer("other", item(1))
            task = await service.submit("gated", item(2))
            await gate.reached()
            draining = asyncio.create_task(service.drain(60))
            await tick()
            gate.open()
            await draining
            assert (task.state, code(task)) == (TaskState.SUCCEEDED, None)

    run(main())


def test_a_service_that_drains_takes_no_new_tasks() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            await service.submit("gated", item(1))
            draining = asyncio.create_task(service.drain(60))
            await tick()
            with pytest.raises(ShuttingDownError):
                await service.submit("gated", item(1))
            gate.open()
            await draining

    run(main())


def test_what_is_left_when_the_time_is_over_fails_as_shutting_down() -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(gated(gate), gates=[gate]) as service:
            running = await service.submit("gated", item(1))
            await gate.reached()
            queued = await service.submit("gated", item(2))
            waiting = service.waiters.add(queued.id)
            await service.drain(0)
            assert [code(task) for task in (running, queued)] == ["shutting_down"] * 2
            assert await waiting
            assert service.stats()["queue"]["live"] == 0

    run(main())


def test_an_idle_service_drains_at_once() -> None:
    async def main() -> None:
        async with serving(gated(Gate())) as service:
            await service.drain(60)
            with pytest.raises(ShuttingDownError):
                service.check_room(1)

    run(main())


# a dead engine


def test_a_sick_device_fails_every_live_task_and_is_reported_once() -> None:
    async def main() -> None:
        gate, reasons = Gate(), list[str]()
        device = SickDevice()
        async with serving(gated(gate), device=device, on_dead=reasons.append, max_batch=1, gates=[gate]) as service:
            running, prefetched, queued = [await service.submit("gated", item(-1)) for _ in range(3)]
            await gate.reached()
            await tick()
            gate.open()
            await ended(service, running, prefetched, queued)
            assert [code(task) for task in (running, prefetched, queued)] == ["engine_dead"] * 3
            await service.lane.run(lambda: None)  # after which the second batch has failed, too
            await tick()
            assert len(reasons) == 1
            assert "cpu no longer answers: ValueError: negative" in reasons[0]

    run(main())


def test_a_dead_engine_takes_no_more_tasks() -> None:
    async def main() -> None:
        gate = Gate()
        gate.open()
        async with serving(gated(gate), device=SickDevice()) as service:
            await ended(service, await service.submit("gated", item(-1)))
            with pytest.raises(EngineDeadError, match="negative"):
                await service.submit("gated", item(1))

    run(main())


def test_a_healthy_device_outlives_a_failed_batch() -> None:
    async def main() -> None:
        gate, reasons = Gate(), list[str]()
        gate.open()
        async with serving(gated(gate), on_dead=reasons.append) as service:
            await ended(service, await service.submit("gated", item(-1)))
            assert not service.dead
            assert reasons == []

    run(main())


def test_a_device_that_cannot_be_entered_kills_the_engine() -> None:
    async def main() -> None:
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with serving(gated(Gate()), device=LockedDevice(), on_dead=died.set_result) as service:
            task = await service.submit("gated", item(1))
            assert "no driver" in await died
            assert code(task) == "engine_dead"
            with pytest.raises(EngineDeadError, match="no driver"):
                await service.submit("gated", item(1))

    run(main())


def test_a_start_that_loads_ahead_ends_when_the_device_cannot_be_entered() -> None:
    """Else the process hangs at its start for ever, and no supervisor starts it again."""

    async def main() -> None:
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with serving(
            models=[model_info()], device=LockedDevice(), on_dead=died.set_result, start=False
        ) as service:
            with pytest.raises(ModelLoadError):
                await service.start([service.target("m")])
            await died

    run(main())


# a store that takes its time


def test_a_task_runs_while_it_is_stored_and_its_caller_hears_of_it_when_it_is() -> None:
    async def main() -> None:
        gate, store = Gate(), LateStore()
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            submitting = asyncio.create_task(service.submit("gated", item(1)))
            await gate.reached()
            assert not submitting.done()
            store.committed.set()
            await submitting

    run(main())


def test_who_waits_is_answered_only_once_the_outcome_is_stored() -> None:
    async def main() -> None:
        gate, store = Gate(), LateStore()
        store.committed.set()
        async with serving(gated(gate), store=store, gates=[gate]) as service:
            task = await service.submit("gated", item(1))
            waiting = service.waiters.add(task.id)
            store.committed.clear()
            service.cancel(task)
            await tick()
            assert not waiting.done()
            store.committed.set()
            assert await waiting

    run(main())


def test_tasks_that_are_being_stored_count_towards_the_bound_of_the_queue() -> None:
    async def main() -> None:
        gate, store = Gate(), LateStore()
        bounds = QueueBounds(2, 1000)
        async with serving(gated(gate), store=store, bounds=bounds, gates=[gate]) as service:
            submitting = [asyncio.create_task(service.submit("gated", item(n))) for n in range(5)]
            await tick()
            store.committed.set()
            outcomes = await asyncio.gather(*submitting, return_exceptions=True)
            assert sum(isinstance(outcome, QueueFullError) for outcome in outcomes) == 3

    run(main())

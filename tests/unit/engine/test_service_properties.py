"""Whatever comes in whatever order: every accepted task ends once, in the store, and nothing is left of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ndserve.engine.service import InferenceService
from ndserve.engine.tasks import Tasks
from ndserve.errors import NdserveError, StoreUnavailableError
from ndserve.processes.base import process
from ndserve.types import TaskOptions, TaskState
from tests.unit.engine.durable import DurableFake
from tests.unit.engine.rig import Clock, check_empty, item, run, serving, tick

ENDS = (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED)


@process("picky", batched=True)
def picky(xp: Any, x: Any) -> Any:
    if (x[:, 0] < 0).any():
        raise ValueError("negative")
    return x


class Course:
    """One service under a sequence of requests, of which none waits for another."""

    def __init__(self, service: InferenceService, store: DurableFake, clock: Clock) -> None:
        self._service = service
        self._store = store
        self._clock = clock
        self._tasks = Tasks(service)
        self._under_way: set[asyncio.Task[Any]] = set()

    @property
    def ids(self) -> list[str]:
        return list(self._store._tasks)

    def take(self, verb: str, number: int) -> None:
        if verb == "hold":
            self._store.prompt = False
        elif verb == "commit":
            self._store.commit()
        elif verb == "refuse":
            if self._store.puts and not self._store.puts[-1].done():
                self._store.refuse(StoreUnavailableError("torn"))
        elif verb == "wait":
            self._clock.now += number / 4
        elif verb == "leave":
            for request in list(self._under_way)[number % 3 :: 3]:
                request.cancel()
        else:
            request = asyncio.create_task(self._ask(verb, number))
            self._under_way.add(request)
            request.add_done_callback(self._under_way.discard)

    async def finish(self) -> None:
        self._store.commit()
        for _ in range(3):
            await asyncio.gather(*self._under_way, *self._tasks._retrying, return_exceptions=True)
            await self._service.lane.delivered()
            self._clock.now += 100
            self._service.ledger.deadlines._fire()
            await tick(20)
        await self._service.drain(10)
        await tick()

    async def _ask(self, verb: str, number: int) -> None:
        options = TaskOptions(
            priority=number % 10,
            start_within=number if number % 3 == 0 else None,
            run_within=number if number % 4 == 0 else None,
        )
        try:
            if verb == "submit":
                await self._service.submit("picky", item(number - 3), options=options, keep=number % 5 != 0)
            elif verb == "split":
                array = np.arange(-1, number % 4, dtype=np.float32).reshape(-1, 1)
                await self._tasks.submit_split("picky", {"x": array}, options=options)
            elif self.ids:
                await self._change(verb, self.ids[number % len(self.ids)])
        except NdserveError:
            pass

    async def _change(self, verb: str, name: str) -> None:
        if verb == "retry":
            await self._tasks.retry(name)
            return
        task = await self._service.find(name)
        if verb == "cancel":
            self._service.cancel(task)
        elif task.live:
            await self._tasks.delete(task)


VERBS = st.sampled_from(["submit", "split", "cancel", "delete", "retry", "hold", "commit", "refuse", "wait", "leave"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VERBS, st.integers(0, 20), st.integers(0, 6)), max_size=40))
def test_every_task_ends_once_and_nothing_is_left_of_it(requests: list[tuple[str, int, int]]) -> None:
    async def main() -> None:
        store, clock = DurableFake(prompt=True), Clock()
        async with serving(picky, store=store, clock=clock, max_batch=3) as service:
            course = Course(service, store, clock)
            for verb, number, turns in requests:
                course.take(verb, number)
                await tick(turns)
            await course.finish()
            check_empty(service)
            check_ends(store)

    run(main())


def check_ends(store: DurableFake) -> None:
    ends = Counter(task.id for tasks, _, _ in store.finished for task in tasks)
    again = Counter(store.reopened)
    for task in store._tasks.values():
        assert task.public
        assert task.state in ENDS
        assert ends[task.id] == 1 + again[task.id]

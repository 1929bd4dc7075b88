"""The batcher under random use: no task is lost or comes twice, and every rule of its docstrings holds throughout."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ndserve.engine.batcher import AGEING_SECONDS, TOP_PRIORITY, Batcher, Limits, Turn
from ndserve.engine.target import TargetKey
from ndserve.types import Batch, BatchKey, Task, TaskOptions
from tests.unit.engine.rig import batch_key, make_task

KEYS = [batch_key("a"), batch_key("a", k=2), batch_key("a", "2"), batch_key("b"), batch_key("p", "")]
TARGETS = sorted({(key.target, key.version, key.revision) for key in KEYS})

some_limits = st.builds(Limits, st.sampled_from([1, 2, 3, 5, 8]), st.sampled_from([0.0, 2.0, 7.0, 15.0]))
all_limits = st.lists(some_limits, min_size=len(KEYS), max_size=len(KEYS))
some_key = st.sampled_from(KEYS)
some_rows = st.sampled_from([1, 1, 1, 0, 2, 3, 6])
some_priority = st.sampled_from([5, 5, 5, 4, 6, 0, 9])


def target_of(key: BatchKey) -> TargetKey:
    return key.target, key.version, key.revision


def task_of(task_id: str, key: BatchKey, rows: int, priority: int) -> Task:
    task = make_task(task_id, key, rows)
    task.options = TaskOptions(priority=priority)
    return task


class Waiting(NamedTuple):
    """A task in the model's plain list, with its arrival. Those that came earlier compare as less."""

    number: int
    time: float
    task: Task

    @property
    def rank(self) -> tuple[float, int]:
        return self.time + (TOP_PRIORITY - self.task.options.priority) * AGEING_SECONDS, self.number


def by_rank(entries: list[Waiting]) -> list[Waiting]:
    return sorted(entries, key=lambda entry: entry.rank)


class BatcherMachine(RuleBasedStateMachine):
    """The model is one plain list a key of what waits, and one of what was put back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.count = 0
        self.queues: dict[BatchKey, list[Waiting]] = {key: [] for key in KEYS}
        self.out: list[Batch] = []
        self.returned: list[Batch] = []
        self.held: set[TargetKey] = set()
        self.came: set[str] = set()

    @initialize(limits=all_limits)
    def set_limits(self, limits: list[Limits]) -> None:
        self.limits = dict(zip(KEYS, limits, strict=True))
        self.batcher = Batcher(self.limits.__getitem__)

    @rule(key=some_key, rows=some_rows, priority=some_priority)
    def add(self, key: BatchKey, rows: int, priority: int) -> None:
        self.count += 1
        task = task_of(f"task{self.count}", key, rows, priority)
        self.queues[key].append(Waiting(self.count, self.now, task))
        self.batcher.add(task, self.now)

    @rule(seconds=st.sampled_from([1, 2, 3, 4, 5, 10, 40]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: any(self.queues.values()))
    @rule(data=st.data())
    def discard_a_queued_task(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([key for key in KEYS if self.queues[key]]))
        entry = data.draw(st.sampled_from(self.queues[key]))
        self.queues[key].remove(entry)
        assert self.batcher.discard(entry.task)
        assert not self.batcher.discard(entry.task)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def discard_a_task_that_has_left(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.out))
        assert not self.batcher.discard(batch.tasks[0])

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self.out))
        self.out.remove(batch)
        self.came -= {task.id for task in batch.tasks}
        self.returned.append(batch)
        self.batcher.put_back(batch)

    @rule(which=st.sampled_from(TARGETS))
    def hold(self, which: TargetKey) -> None:
        self.held.add(which)
        self.batcher.hold(which)

    @rule(which=st.sampled_from(TARGETS))
    def release(self, which: TargetKey) -> None:
        self.held.discard(which)
        self.batcher.release(which)

    @rule(which=st.sampled_from(TARGETS))
    def drop(self, which: TargetKey) -> None:
        dropped = self.batcher.drop(which)
        expected = [task for batch in self.returned if target_of(batch.key) == which for task in batch.tasks]
        for key in KEYS:
            if target_of(key) == which:
                of_key = [entry.task for entry in self.queues[key]]
                assert [task for task in dropped if task in of_key] == of_key
                expected += of_key
                self.queues[key] = []
        assert {task.id for task in dropped} == {task.id for task in expected}
        assert len(dropped) == len(expected)
        self.returned = [batch for batch in self.returned if target_of(batch.key) != which]
        self.held.discard(which)

    @rule()
    def next_batch(self) -> None:
        turn = self.batcher.peek(self.now)
        batch = self.batcher.next_batch(self.now)
        assert (turn and turn.key) == (batch and batch.key)
        returned = [batch for batch in self.returned if target_of(batch.key) not in self.held]
        if returned:
            assert batch is returned[0]
            self.returned.remove(returned[0])
        else:
            self.check_fresh(batch, turn)
        if batch is not None:
            ids = {task.id for task in batch.tasks}
            assert len(ids) == len(batch.tasks)
            assert not ids & self.came
            self.came |= ids
            self.out.append(batch)

    def check_fresh(self, batch: Batch | None, turn: Turn | None) -> None:
        """A batch of tasks that waited: of the due key with the lowest rank, in order of rank, as many as fit."""
        due = [key for key in KEYS if self.is_due(key)]
        if batch is None or turn is None:
            assert not due
            self.check_wakeup()
            return
        key, queue, limits = batch.key, by_rank(self.queues[batch.key]), self.limits[batch.key]
        assert key in due
        assert queue[0].rank == min(entry.rank for other in due for entry in self.queues[other])
        assert turn.full == (self.rows(key) >= limits.max_rows)
        assert batch.tasks == [entry.task for entry in queue[: len(batch.tasks)]]
        assert batch.rows <= limits.max_rows or len(batch.tasks) == 1
        left = queue[len(batch.tasks) :]
        if left:
            assert batch.rows + left[0].task.rows > limits.max_rows
        self.queues[key] = sorted(left)

    def rows(self, key: BatchKey) -> int:
        return sum(entry.task.rows for entry in self.queues[key])

    def is_due(self, key: BatchKey) -> bool:
        if not self.queues[key] or target_of(key) in self.held:
            return False
        full = self.rows(key) >= self.limits[key].max_rows
        return full or self.queues[key][0].time + self.limits[key].max_wait <= self.now

    @invariant()
    def the_length_is_what_waits(self) -> None:
        if self.queues:
            assert len(self.batcher) == sum(map(len, self.queues.values()))

    @rule()
    def positions(self) -> None:
        queued = by_rank([entry for queue in self.queues.values() for entry in queue])
        assert self.batcher.positions() == {entry.task.id: place for place, entry in enumerate(queued)}

    def check_wakeup(self) -> None:
        """Nothing may run now; who comes back at the wakeup comes neither too late nor for what was known before."""
        wakeup = self.batcher.next_wakeup()
        assert wakeup is None or wakeup > self.now
        for key, queue in self.queues.items():
            if queue and target_of(key) not in self.held:
                assert wakeup is not None
                assert wakeup <= queue[0].time + self.limits[key].max_wait

    def teardown(self) -> None:
        """Whatever was done, all that was not taken out still comes, once."""
        if self.count:
            for target in TARGETS:
                self.release(target)
            self.now += 1000
            while self.returned or any(self.queues.values()):
                left = len(self.returned) + sum(map(len, self.queues.values()))
                self.next_batch()
                assert len(self.returned) + sum(map(len, self.queues.values())) < left
            assert self.batcher.next_batch(self.now) is None


def test_no_task_is_lost_or_comes_twice_and_every_rule_holds() -> None:
    run_state_machine_as_test(
        BatcherMachine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


arrivals = st.lists(st.tuples(st.integers(0, 6), some_key, some_rows, some_priority), min_size=1, max_size=25)


@settings(max_examples=200, deadline=None)
@given(all_limits, arrivals)
def test_who_comes_at_every_wakeup_finds_a_batch_and_no_task_waits_too_long(
    limits: list[Limits], arrivals: list[tuple[int, BatchKey, int, int]]
) -> None:
    by_key = dict(zip(KEYS, limits, strict=True))
    batcher = Batcher(by_key.__getitem__)
    added: dict[str, float] = {}
    now = 0.0

    def take_all() -> int:
        taken = 0
        while (batch := batcher.next_batch(now)) is not None:
            for task in batch.tasks:
                assert now <= added.pop(task.id) + by_key[task.key].max_wait
                taken += 1
        return taken

    def run_until(end: float) -> None:
        nonlocal now
        while (wakeup := batcher.next_wakeup()) is not None and wakeup <= end:
            assert wakeup > now
            now = wakeup
            assert take_all() > 0
        now = max(now, end)

    for number, (pause, key, rows, priority) in enumerate(arrivals):
        run_until(now + pause)
        added[str(number)] = now
        batcher.add(task_of(str(number), key, rows, priority), now)
        take_all()
    run_until(now + 1000)
    assert not added


@settings(max_examples=50, deadline=None)
@given(st.integers(0, TOP_PRIORITY), some_key, st.lists(some_key, min_size=1, max_size=4), st.integers(1, 8))
def test_a_steady_flood_of_the_top_priority_keeps_no_task_waiting_beyond_its_ageing(
    priority: int, key: BatchKey, flooded: list[BatchKey], max_rows: int
) -> None:
    batcher = Batcher(lambda key: Limits(max_rows))
    batcher.add(task_of("patient", key, 1, priority), 0.0)
    ran_at: float | None = None
    for second in range(100):
        for number in range(max_rows):  # as much as runs in a second, so that something always waits
            flood = flooded[second % len(flooded)]
            batcher.add(task_of(f"{second}.{number}", flood, 1, TOP_PRIORITY), float(second))
        batch = batcher.next_batch(float(second))
        assert batch is not None
        if any(task.id == "patient" for task in batch.tasks):
            ran_at = float(second)
            break
    assert ran_at is not None
    assert ran_at <= (TOP_PRIORITY - priority) * AGEING_SECONDS

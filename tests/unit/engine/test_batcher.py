"""The batcher by example: whose turn it is, how long a batch waits, what is passed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ndserve.engine.batcher import Batcher, Limits, Turn
from ndserve.types import Batch, BatchKey, Task
from tests.unit.engine.rig import batch_key, make_task

A, B = batch_key("a"), batch_key("b")


def batcher(limits: Limits | Mapping[BatchKey, Limits]) -> Batcher:
    return Batcher(lambda key: limits if isinstance(limits, Limits) else limits[key])


def fill(queue: Batcher, key: BatchKey, *names: str, now: float = 0.0, rows: int = 1) -> list[Task]:
    tasks = [make_task(name, key, rows) for name in names]
    for task in tasks:
        queue.add(task, now)
    return tasks


def names(batch: Batch | None) -> str:
    assert batch is not None
    return "".join(task.id for task in batch.tasks)


def test_an_empty_batcher_has_no_batch_and_no_wakeup() -> None:
    queue = batcher(Limits(4))
    assert (queue.next_batch(0.0), queue.next_wakeup(), len(queue)) == (None, None, 0)


def test_an_idle_caller_gets_a_lone_task_at_once_where_nothing_may_wait() -> None:
    queue = batcher(Limits(32))
    fill(queue, A, "x", now=5.0)
    assert names(queue.next_batch(5.0)) == "x"


def test_a_batch_takes_what_waits_up_to_the_limit() -> None:
    queue = batcher(Limits(3))
    fill(queue, A, *"abcde")
    assert [names(queue.next_batch(0.0)), names(queue.next_batch(0.0))] == ["abc", "de"]


def test_a_task_over_the_limit_goes_alone() -> None:
    queue = batcher(Limits(4))
    fill(queue, A, "a")
    fill(queue, A, "b", rows=9)
    fill(queue, A, "c")
    assert [names(queue.next_batch(0.0)) for _ in range(3)] == ["a", "b", "c"]


def test_a_later_task_that_would_fit_does_not_overtake_one_that_does_not() -> None:
    queue = batcher(Limits(4))
    fill(queue, A, "a", rows=3)
    fill(queue, A, "b", rows=2)
    fill(queue, A, "c", rows=1)
    assert [names(queue.next_batch(0.0)), names(queue.next_batch(0.0))] == ["a", "bc"]


def test_a_batch_never_mixes_two_keys() -> None:
    queue = batcher(Limits(8))
    other_parameters, other_dtype = batch_key("a", k=2), replace(A, version="2")
    for key, name in [(A, "a"), (other_parameters, "b"), (other_dtype, "c"), (A, "d")]:
        fill(queue, key, name)
    assert [names(queue.next_batch(0.0)) for _ in range(3)] == ["ad", "b", "c"]


def test_the_key_with_the_oldest_task_goes_first() -> None:
    queue = batcher(Limits(2))
    fill(queue, A, "a")
    fill(queue, B, "1", "2")
    fill(queue, A, "b", "c")
    assert [names(queue.next_batch(0.0)) for _ in range(3)] == ["ab", "12", "c"]


def test_the_wait_counts_from_the_oldest_task() -> None:
    queue = batcher(Limits(8, max_wait=10.0))
    fill(queue, A, "a", now=100.0)
    fill(queue, A, "b", now=109.0)
    assert queue.next_batch(109.9) is None
    assert queue.next_wakeup() == 110.0
    assert names(queue.next_batch(110.0)) == "ab"


def test_the_wait_of_what_is_left_over_counts_from_its_own_arrival() -> None:
    queue = batcher(Limits(2, max_wait=10.0))
    fill(queue, A, "a", now=100.0)
    fill(queue, A, "b", "c", now=105.0)
    assert names(queue.next_batch(105.0)) == "ab"
    assert queue.next_batch(114.0) is None
    assert queue.next_wakeup() == 115.0
    assert names(queue.next_batch(115.0)) == "c"


def test_of_several_tasks_that_are_left_over_the_oldest_counts() -> None:
    queue = batcher(Limits(3, max_wait=10.0))
    fill(queue, A, "a", "b", "c", now=100.0)
    fill(queue, A, "d", now=102.0)
    fill(queue, A, "e", now=105.0)
    assert names(queue.next_batch(105.0)) == "abc"
    assert queue.next_wakeup() == 112.0
    assert names(queue.next_batch(112.0)) == "de"


def test_a_full_batch_does_not_wait() -> None:
    queue = batcher(Limits(2, max_wait=10.0))
    fill(queue, A, "a", "b", now=100.0)
    assert names(queue.next_batch(100.0)) == "ab"


def test_a_first_task_of_full_size_does_not_wait() -> None:
    queue = batcher(Limits(2, max_wait=10.0))
    fill(queue, A, "a", now=100.0, rows=2)
    assert names(queue.next_batch(100.0)) == "a"


def test_a_key_that_waits_does_not_keep_another_from_its_turn() -> None:
    queue = batcher({A: Limits(8, max_wait=10.0), B: Limits(8)})
    fill(queue, A, "a", now=100.0)
    fill(queue, B, "b", now=101.0)
    assert names(queue.next_batch(101.0)) == "b"


def test_peek_says_whether_more_could_join() -> None:
    queue = batcher(Limits(2))
    fill(queue, A, "a")
    assert queue.peek(0.0) == Turn(A, full=False)
    fill(queue, A, "b")
    assert queue.peek(0.0) == Turn(A, full=True)


def test_discarded_tasks_never_come_wherever_they_stood() -> None:
    queue = batcher(Limits(8))
    tasks = fill(queue, A, *"abcdef")
    for number in (0, 1, 3, 5):
        assert queue.discard(tasks[number])
    assert len(queue) == 2
    assert names(queue.next_batch(0.0)) == "ce"
    assert queue.next_batch(0.0) is None


def test_a_task_can_be_discarded_only_while_it_is_queued() -> None:
    queue = batcher(Limits(8))
    (task,) = fill(queue, A, "a")
    queue.next_batch(0.0)
    assert not queue.discard(task)
    (task,) = fill(queue, A, "b")
    assert [queue.discard(task), queue.discard(task)] == [True, False]


def test_a_discarded_head_takes_its_place_in_line_along() -> None:
    queue = batcher(Limits(8))
    (first,) = fill(queue, A, "a")
    fill(queue, B, "1")
    fill(queue, A, "b")
    queue.discard(first)
    assert [names(queue.next_batch(0.0)), names(queue.next_batch(0.0))] == ["1", "b"]


def test_a_discarded_head_takes_its_waiting_time_along() -> None:
    queue = batcher(Limits(8, max_wait=10.0))
    (first,) = fill(queue, A, "a", now=100.0)
    fill(queue, A, "b", now=105.0)
    queue.discard(first)
    assert queue.next_batch(110.0) is None
    assert queue.next_wakeup() == 115.0


def test_a_task_that_is_due_behind_a_discarded_head_has_its_turn_at_once() -> None:
    queue = batcher(Limits(8, max_wait=10.0))
    (first,) = fill(queue, A, "a", now=100.0)
    fill(queue, A, "b", now=101.0)
    queue.discard(first)
    assert names(queue.next_batch(120.0)) == "b"


def test_discarded_rows_do_not_count_towards_a_full_batch() -> None:
    queue = batcher(Limits(2))
    first, _ = fill(queue, A, "a", "b")
    queue.discard(first)
    assert queue.peek(0.0) == Turn(A, full=False)


def test_a_batch_that_was_put_back_goes_first_and_stays_as_it_is() -> None:
    queue = batcher(Limits(8, max_wait=10.0))
    fill(queue, A, "a", "b", now=0.0)
    batch = queue.next_batch(10.0)
    assert batch is not None
    fill(queue, A, *"cdefghij", now=10.0)
    queue.put_back(batch)
    assert queue.peek(10.0) == Turn(A, full=True)
    assert queue.next_batch(10.0) is batch
    assert names(queue.next_batch(10.0)) == "cdefghij"


def test_batches_that_were_put_back_come_in_the_order_in_which_they_were() -> None:
    queue = batcher(Limits(8))
    fill(queue, A, *"abcd")
    batch = queue.next_batch(0.0)
    assert batch is not None
    for half in batch.halves():
        queue.put_back(half)
    assert [names(queue.next_batch(0.0)), names(queue.next_batch(0.0))] == ["ab", "cd"]


def test_a_held_target_is_passed_over_until_it_is_released() -> None:
    queue = batcher(Limits(8))
    fill(queue, A, "a")
    fill(queue, B, "b")
    queue.hold(("a", "1", 0))
    assert names(queue.next_batch(0.0)) == "b"
    assert queue.next_batch(0.0) is None
    fill(queue, A, "c")
    queue.release(("a", "1", 0))
    assert names(queue.next_batch(0.0)) == "ac"


def test_a_hold_covers_every_key_of_the_target_and_no_other_version() -> None:
    queue = batcher(Limits(8))
    fill(queue, A, "a")
    fill(queue, batch_key("a", k=1), "b")
    fill(queue, batch_key("a", "2"), "c")
    queue.hold(("a", "1", 0))
    assert names(queue.next_batch(0.0)) == "c"
    assert queue.next_batch(0.0) is None


def test_a_batch_that_was_put_back_is_held_with_its_target() -> None:
    queue = batcher(Limits(8))
    fill(queue, A, "a")
    fill(queue, B, "b")
    batch = queue.next_batch(0.0)
    assert batch is not None
    queue.put_back(batch)
    queue.hold(("a", "1", 0))
    assert names(queue.next_batch(0.0)) == "b"
    queue.release(("a", "1", 0))
    assert queue.next_batch(0.0) is batch


def test_released_tasks_have_kept_their_place_in_line() -> None:
    queue = batcher(Limits(8))
    fill(queue, A, "a")
    queue.hold(("a", "1", 0))
    assert queue.next_batch(0.0) is None
    fill(queue, B, "b")
    queue.release(("a", "1", 0))
    assert [names(queue.next_batch(0.0)), names(queue.next_batch(0.0))] == ["a", "b"]


def test_drop_gives_every_task_of_the_target_and_leaves_the_others() -> None:
    queue = batcher(Limits(2))
    fill(queue, A, *"abcd")
    fill(queue, B, "1")
    returned = queue.next_batch(0.0)
    assert returned is not None
    queue.put_back(returned)
    assert "".join(task.id for task in queue.drop(("a", "1", 0))) == "abcd"
    assert len(queue) == 1
    assert names(queue.next_batch(0.0)) == "1"
    assert queue.next_batch(0.0) is None


def test_drop_does_not_give_discarded_tasks() -> None:
    queue = batcher(Limits(8))
    _, second, _ = fill(queue, A, *"abc")
    queue.discard(second)
    assert [task.id for task in queue.drop(("a", "1", 0))] == ["a", "c"]


def test_drop_ends_a_hold() -> None:
    queue = batcher(Limits(8))
    fill(queue, A, "a")
    queue.hold(("a", "1", 0))
    queue.peek(0.0)
    queue.drop(("a", "1", 0))
    fill(queue, A, "b")
    assert names(queue.next_batch(0.0)) == "b"


def test_a_limit_that_has_grown_counts_for_the_tasks_that_wait_already() -> None:
    limits = {A: Limits(1)}
    queue = batcher(limits)
    fill(queue, A, *"abc")
    assert names(queue.next_batch(0.0)) == "a"
    limits[A] = Limits(8)
    assert names(queue.next_batch(0.0)) == "bc"


def test_a_target_has_tasks_until_the_last_one_is_taken_or_discarded() -> None:
    queue = batcher(Limits(1))
    fill(queue, A, "a", "b")
    target = (A.target, A.version, A.revision)
    assert queue.has(target)
    taken = queue.next_batch(0.0)
    assert taken is not None
    assert queue.has(target)
    assert not queue.has(("another", "1", 0))
    (left,) = queue.drop(target)
    queue.add(left, 1.0)
    queue.discard(left)
    assert not queue.has(target)


def test_a_target_whose_batch_was_put_back_has_tasks() -> None:
    queue = batcher(Limits(8))
    fill(queue, A, "a")
    batch = queue.next_batch(0.0)
    assert batch is not None
    queue.put_back(batch)
    target = (A.target, A.version, A.revision)
    assert queue.has(target)
    queue.next_batch(0.0)
    assert not queue.has(target)

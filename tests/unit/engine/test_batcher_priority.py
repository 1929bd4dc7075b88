"""The batcher by example: who overtakes whom, for how long, and what that leaves as it was."""

from __future__ import annotations

import pytest

from ndserve.engine.batcher import AGEING_SECONDS, SLACK, Batcher, Limits, Turn
from ndserve.types import Batch, BatchKey, Task, TaskOptions
from tests.unit.engine.rig import batch_key, make_task

A, B = batch_key("a"), batch_key("b")


def batcher(max_rows: int, max_wait: float = 0.0) -> Batcher:
    return Batcher(lambda key: Limits(max_rows, max_wait))


def put(queue: Batcher, key: BatchKey, name: str, priority: int = 5, now: float = 0.0, rows: int = 1) -> Task:
    task = make_task(name, key, rows)
    task.options = TaskOptions(priority=priority)
    queue.add(task, now)
    return task


def names(batch: Batch | None) -> str:
    assert batch is not None
    return "".join(task.id for task in batch.tasks)


def order(queue: Batcher, now: float = 0.0) -> list[str]:
    """Everything that is queued, batch by batch."""
    batches = []
    while (batch := queue.next_batch(now)) is not None:
        batches.append(names(batch))
    return batches


def test_a_higher_priority_goes_first() -> None:
    queue = batcher(1)
    for name, priority in [("low", 0), ("middle", 5), ("high", 9)]:
        put(queue, A, name, priority)
    assert order(queue) == ["high", "middle", "low"]


def test_a_key_with_a_higher_priority_goes_first() -> None:
    queue = batcher(8)
    put(queue, A, "a", 4)
    put(queue, B, "b", 6)
    assert order(queue) == ["b", "a"]


def test_a_task_that_names_no_priority_stands_in_the_middle() -> None:
    queue = batcher(1)
    put(queue, A, "below", 4)
    queue.add(make_task("unnamed", A), 0.0)
    put(queue, A, "above", 6)
    assert order(queue) == ["above", "unnamed", "below"]


@pytest.mark.parametrize("priority", [0, 5, 9])
def test_tasks_of_one_priority_keep_the_order_in_which_they_came(priority: int) -> None:
    queue = batcher(2)
    for now, name in enumerate("abcde"):
        put(queue, A, name, priority, float(now))
    assert order(queue) == ["ab", "cd", "e"]


def test_of_two_keys_with_one_priority_the_older_task_goes_first() -> None:
    queue = batcher(1)
    for key, name in [(B, "1"), (A, "a"), (B, "2"), (A, "b")]:
        put(queue, key, name, 7)
    assert order(queue) == ["1", "a", "2", "b"]


def test_a_batch_takes_the_priorities_of_its_key_in_turn() -> None:
    queue = batcher(4)
    for name, priority in [("a", 5), ("b", 0), ("c", 9), ("d", 5), ("e", 9)]:
        put(queue, A, name, priority)
    assert order(queue) == ["cead", "b"]


def test_a_batch_goes_to_and_fro_between_priorities_as_the_ranks_do() -> None:
    queue = batcher(8)
    for name, priority, now in [("b", 8, 0.0), ("d", 8, 5.0), ("a", 9, 9.0), ("c", 9, 12.0), ("e", 9, 16.0)]:
        put(queue, A, name, priority, now)
    assert order(queue, 16.0) == ["abcde"]


def test_a_low_priority_may_fill_up_the_batch_of_a_high_one() -> None:
    queue = batcher(8)
    put(queue, A, "low", 0)
    put(queue, B, "middle", 5)
    put(queue, A, "high", 9)
    assert order(queue) == ["highlow", "middle"]


def test_a_task_of_the_next_level_that_would_fit_does_not_overtake_one_that_does_not() -> None:
    queue = batcher(4)
    put(queue, A, "a", 9, rows=3)
    put(queue, A, "b", 9, rows=2)
    put(queue, A, "c", 5, rows=1)
    assert order(queue) == ["a", "bc"]


def test_one_level_is_overtaken_by_whoever_comes_within_its_ageing() -> None:
    queue = batcher(1)
    put(queue, A, "low", 4, 0.0)
    put(queue, A, "high", 5, AGEING_SECONDS - 0.5)
    assert order(queue, AGEING_SECONDS) == ["high", "low"]


def test_at_an_equal_rank_the_older_task_goes_first() -> None:
    queue = batcher(1)
    put(queue, A, "low", 4, 0.0)
    put(queue, A, "high", 5, AGEING_SECONDS)
    assert order(queue, AGEING_SECONDS) == ["low", "high"]


def test_at_an_equal_rank_the_key_with_the_older_task_goes_first() -> None:
    queue = batcher(1)
    put(queue, B, "low", 4, 0.0)
    put(queue, A, "high", 5, AGEING_SECONDS)
    assert order(queue, AGEING_SECONDS) == ["low", "high"]


def test_the_lowest_priority_is_overtaken_for_ninety_seconds_and_no_longer() -> None:
    queue = batcher(1)
    put(queue, A, "low", 0, 0.0)
    put(queue, B, "x", 9, 89.0)
    put(queue, B, "y", 9, 91.0)
    assert order(queue, 91.0) == ["x", "low", "y"]


def test_the_wait_counts_from_the_oldest_task_whatever_its_priority() -> None:
    queue = batcher(8, max_wait=10.0)
    put(queue, A, "low", 0, 100.0)
    put(queue, A, "high", 9, 109.0)
    assert queue.next_batch(109.9) is None
    assert queue.next_wakeup() == 110.0
    assert names(queue.next_batch(110.0)) == "highlow"


def test_a_low_priority_that_is_left_over_still_counts_from_its_own_arrival() -> None:
    queue = batcher(2, max_wait=10.0)
    put(queue, A, "low", 0, 100.0)
    put(queue, A, "x", 9, 104.0)
    put(queue, A, "y", 9, 104.0)
    assert names(queue.next_batch(104.0)) == "xy"
    assert queue.next_batch(104.0) is None
    assert queue.next_wakeup() == 110.0


def test_a_full_queue_of_several_priorities_does_not_wait() -> None:
    queue = batcher(2, max_wait=10.0)
    put(queue, A, "low", 0, 100.0)
    put(queue, A, "high", 9, 101.0)
    assert queue.peek(101.0) == Turn(A, full=True)
    assert order(queue, 101.0) == ["highlow"]


def test_a_queue_that_falls_due_stands_in_line_by_its_rank() -> None:
    queue = Batcher(lambda key: Limits(8, 10.0 if key is A else 0.0))
    put(queue, A, "a", 4, 0.0)
    put(queue, B, "b", 5, 9.0)
    assert order(queue, 10.0) == ["b", "a"]


def test_a_discarded_head_of_high_priority_takes_its_place_in_line_along() -> None:
    queue = batcher(8)
    put(queue, A, "a", 0)
    head = put(queue, A, "b", 9)
    put(queue, B, "1", 5)
    queue.discard(head)
    assert order(queue) == ["1", "a"]


def test_a_discarded_oldest_task_of_low_priority_takes_its_waiting_time_along() -> None:
    queue = batcher(8, max_wait=10.0)
    oldest = put(queue, A, "low", 0, 100.0)
    put(queue, A, "high", 9, 105.0)
    queue.discard(oldest)
    assert queue.next_wakeup() == 115.0


def test_after_a_discard_the_oldest_task_of_all_priorities_counts() -> None:
    queue = batcher(8, max_wait=10.0)
    oldest = put(queue, A, "a", 5, 100.0)
    put(queue, A, "b", 9, 101.0)
    put(queue, A, "c", 5, 102.0)
    queue.discard(oldest)
    assert queue.next_wakeup() == 111.0


def test_a_queue_that_a_discarded_task_had_filled_waits_again() -> None:
    queue = batcher(2, max_wait=10.0)
    put(queue, A, "low", 0, 100.0)
    high = put(queue, A, "high", 9, 101.0)
    queue.discard(high)
    assert queue.next_batch(109.0) is None
    assert names(queue.next_batch(110.0)) == "low"


def test_discarded_tasks_of_every_priority_never_come() -> None:
    queue = batcher(8)
    tasks = [put(queue, A, name, priority) for name, priority in zip("abcdefgh", [9, 9, 9, 5, 5, 5, 5, 0], strict=True)]
    for number in (1, 3, 5, 7):
        queue.discard(tasks[number])
    assert order(queue) == ["aceg"]


def test_a_gap_that_comes_to_the_front_when_a_turn_ends_is_passed_over() -> None:
    queue = batcher(8)
    put(queue, A, "a", 8, 0.0)
    gap = put(queue, A, "b", 8, 4.0)
    put(queue, A, "c", 9, 12.0)
    put(queue, A, "d", 8, 13.0)
    queue.discard(gap)
    assert order(queue, 13.0) == ["acd"]


def test_a_gap_at_the_front_does_not_count_as_the_oldest_task() -> None:
    queue = batcher(3, max_wait=10.0)
    put(queue, A, "a", 8, 100.0)
    gap = put(queue, A, "b", 8, 104.0)
    put(queue, A, "c", 9, 112.0)
    put(queue, A, "d", 9, 113.0, rows=2)
    queue.discard(gap)
    assert names(queue.next_batch(113.0)) == "ac"
    assert queue.next_wakeup() == 123.0


def test_a_discarded_task_that_would_not_have_fit_does_not_end_the_batch() -> None:
    queue = batcher(4)
    put(queue, A, "a", rows=3)
    gap = put(queue, A, "b", rows=2)
    put(queue, A, "c", rows=1)
    queue.discard(gap)
    assert order(queue) == ["ac"]


def test_a_held_target_that_gets_a_higher_priority_stays_held() -> None:
    queue = batcher(8)
    put(queue, A, "a", 5)
    queue.hold(("a", "1", 0))
    assert queue.next_batch(0.0) is None
    put(queue, A, "b", 9)
    assert queue.next_batch(0.0) is None


def test_a_released_target_stands_where_the_highest_priority_puts_it_that_came_meanwhile() -> None:
    queue = batcher(8)
    put(queue, A, "a", 5)
    queue.hold(("a", "1", 0))
    queue.peek(0.0)
    put(queue, A, "b", 9)
    put(queue, B, "1", 7)
    queue.release(("a", "1", 0))
    assert order(queue) == ["ba", "1"]


def test_drop_gives_the_tasks_in_the_order_in_which_they_came_whatever_their_priorities() -> None:
    queue = batcher(8)
    for name, priority in [("a", 0), ("b", 9), ("c", 5), ("d", 9)]:
        put(queue, A, name, priority)
    assert [task.id for task in queue.drop(("a", "1", 0))] == ["a", "b", "c", "d"]


def test_a_batch_that_was_put_back_goes_before_a_higher_priority() -> None:
    queue = batcher(8)
    put(queue, A, "low", 0)
    batch = queue.next_batch(0.0)
    assert batch is not None
    put(queue, A, "high", 9)
    queue.put_back(batch)
    assert order(queue) == ["low", "high"]


def test_positions_count_the_tasks_of_all_keys_by_rank() -> None:
    queue = batcher(8)
    put(queue, A, "fourth", 0, 0.0)
    put(queue, A, "second", 5, 0.0)
    put(queue, B, "third", 5, 1.0)
    put(queue, B, "first", 9, 2.0)
    assert queue.positions() == {"first": 0, "second": 1, "third": 2, "fourth": 3}


def test_positions_move_up_when_tasks_leave_or_are_discarded() -> None:
    queue = batcher(1)
    put(queue, A, "a", 9)
    gone = put(queue, A, "b", 5)
    put(queue, A, "c", 5)
    put(queue, A, "d", 0)
    queue.next_batch(0.0)
    queue.discard(gone)
    assert queue.positions() == {"c": 0, "d": 1}


def test_positions_count_held_tasks_and_no_returned_batch() -> None:
    queue = batcher(8)
    put(queue, A, "returned")
    batch = queue.next_batch(0.0)
    assert batch is not None
    queue.put_back(batch)
    put(queue, A, "held")
    queue.hold(("a", "1", 0))
    assert queue.positions() == {"held": 0}


def test_an_empty_batcher_has_no_positions() -> None:
    assert batcher(8).positions() == {}


def test_places_that_heads_have_left_behind_do_not_pile_up() -> None:
    queue = batcher(8)
    for number in range(1000):
        put(queue, A, f"low{number}", 0, float(number) / 100)
        put(queue, A, f"high{number}", 9, float(number) / 100)
        queue.next_batch(float(number) / 100)
    assert len(queue._ready) <= SLACK + 4


def test_a_target_whose_tasks_have_no_rows_has_tasks() -> None:
    queue = batcher(8)
    put(queue, A, "empty", rows=0)
    assert queue.has(("a", "1", 0))

"""What a target has done: counts, and the sums of times that clients divide by them."""

from __future__ import annotations

from ndserve.engine.statistics import MAX_SIZES, BatchStatistics, Duration, Spans, Statistics
from ndserve.types import Task, TaskState
from tests.unit.engine.rig import batch_key, make_task

SPANS = Spans(10, 200, 3000)


def started(created: float, start: float | None, load_seconds: float = 0.0, rows: int = 1) -> Task:
    task = make_task("t", batch_key())
    task.rows = rows
    task.created, task.started, task.load_seconds = created, start, load_seconds
    return task


def test_a_target_that_has_done_nothing_has_only_zeros() -> None:
    assert Statistics() == Statistics(0.0, 0, 0, Duration(0, 0), Duration(0, 0), 0, 0, 0, 0, {})


def test_a_batch_counts_once_and_each_of_its_rows_counts() -> None:
    figures = Statistics()
    figures.ran([started(1, 2, rows=3), started(1, 2, rows=4)], SPANS, 3.0)
    assert (figures.executions, figures.inferences, figures.success.count) == (1, 7, 2)


def test_every_request_of_a_batch_counts_the_whole_time_of_the_batch() -> None:
    figures = Statistics()
    figures.ran([started(1, 2)] * 3, SPANS, 3.0)
    assert (figures.input_ns, figures.infer_ns, figures.output_ns) == (30, 600, 9000)
    assert figures.batches == {3: BatchStatistics(1, 10, 200, 3000)}


def test_a_success_runs_from_the_acceptance_to_the_result() -> None:
    figures = Statistics()
    figures.ran([started(1, 2), started(1.5, 2)], SPANS, 3.0)
    assert figures.success == Duration(2, 3_500_000_000)


def test_the_time_in_the_queue_ends_with_the_start_and_leaves_loads_out() -> None:
    figures = Statistics()
    figures.ran([started(1, 2), started(0.5, 2, load_seconds=1.25)], SPANS, 3.0)
    assert figures.queue_ns == 1_250_000_000


def test_a_task_whose_start_nobody_has_noted_yet_waited_until_now() -> None:
    figures = Statistics()
    figures.ran([started(1, None)], SPANS, 3.0)
    assert figures.queue_ns == 2_000_000_000


def test_a_task_that_has_ended_before_is_not_counted_nor_are_its_rows() -> None:
    figures = Statistics()
    cancelled = started(1, 2)
    cancelled.settle(TaskState.CANCELLED, 2.5)
    figures.ran([cancelled, started(1, 2)], SPANS, 3.0)
    assert (figures.success.count, figures.inferences, figures.input_ns) == (1, 1, 10)


def test_a_batch_whose_tasks_have_all_ended_before_is_not_counted() -> None:
    figures = Statistics()
    cancelled = started(1, 2)
    cancelled.settle(TaskState.CANCELLED, 2.5)
    figures.ran([cancelled], SPANS, 3.0)
    assert figures == Statistics()


def test_batches_of_one_size_are_added_up() -> None:
    figures = Statistics()
    for rows in (2, 2, 5):
        figures.ran([started(1, 2, rows=rows)], SPANS, 3.0)
    assert figures.batches == {2: BatchStatistics(2, 20, 400, 6000), 5: BatchStatistics(1, 10, 200, 3000)}


def test_the_last_inference_is_the_latest() -> None:
    figures = Statistics()
    for now in (3.0, 4.5):
        figures.ran([started(1, 2)], SPANS, now)
    assert figures.last == 4.5


def test_no_more_sizes_are_told_apart_than_the_bound_and_the_known_ones_go_on() -> None:
    figures = Statistics()
    for rows in range(MAX_SIZES + 10):
        figures.ran([started(1, 2, rows=rows)], SPANS, 3.0)
    figures.ran([started(1, 2, rows=0)], SPANS, 3.0)
    assert len(figures.batches) == MAX_SIZES
    assert figures.batches[0].count == 2
    assert figures.executions == MAX_SIZES + 11


def test_a_failure_runs_from_the_acceptance_to_the_end() -> None:
    figures = Statistics()
    figures.failed(started(1, 2), 3.5)
    figures.failed(started(3, None), 3.5)
    assert figures.fail == Duration(2, 3_000_000_000)
    assert figures.success.count == 0


def test_a_failure_never_takes_less_than_no_time() -> None:
    figures = Statistics()
    figures.failed(started(3, None), 2.5)
    assert figures.fail == Duration(1, 0)

"""The plain values: a task settles once, a batch stacks and splits, a spec reads well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndserve.types import (
    NAME,
    Batch,
    BatchKey,
    Failure,
    Progress,
    Task,
    TaskOptions,
    TaskState,
    Tensors,
    TensorSpec,
    join_names,
)

KEY = BatchKey("t", "1", (), ())


def task(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]], *, single: bool = False) -> Task:
    return Task("id", KEY, {"x": array}, len(array), single, created=0.0)


def rows(*values: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(values, np.float32)[:, np.newaxis]


def test_the_first_settlement_wins() -> None:
    one = task(rows(1))
    assert one.settle(TaskState.CANCELLED, 5.0)
    assert not one.settle(TaskState.SUCCEEDED, 6.0, outputs={"y": rows(1)})
    assert (one.state, one.ended, one.outputs) == (TaskState.CANCELLED, 5.0, None)


def test_a_settled_task_has_its_failure_and_no_outputs() -> None:
    one, failure = task(rows(1)), Failure("code", "why", 500)
    one.settle(TaskState.FAILED, 5.0, failure=failure)
    assert (one.failure, one.outputs, one.live) == (failure, None, False)


def test_a_task_is_live_until_it_has_ended() -> None:
    one = task(rows(1))
    assert one.live
    one.start(1.0)
    assert one.live
    one.settle(TaskState.SUCCEEDED, 2.0, outputs={})
    assert not one.live


def test_a_task_that_is_run_again_in_halves_was_started_once() -> None:
    one = task(rows(1))
    one.start(1.0)
    one.start(2.0)
    assert (one.state, one.attempts, one.started) == (TaskState.RUNNING, 1, 1.0)


def test_a_cancelled_task_does_not_start() -> None:
    one = task(rows(1))
    one.settle(TaskState.CANCELLED, 1.0)
    one.start(2.0)
    assert (one.state, one.attempts) == (TaskState.CANCELLED, 0)


def test_a_task_weighs_its_inputs_until_it_ends_and_its_outputs_after() -> None:
    one = task(rows(1, 2, 3))
    assert one.nbytes == 12
    one.settle(TaskState.SUCCEEDED, 1.0, outputs={"y": rows(1), "z": rows(1)})
    assert one.nbytes == 8


def test_a_failed_task_weighs_its_inputs_which_it_keeps() -> None:
    one = task(rows(1, 2, 3))
    one.settle(TaskState.FAILED, 1.0, failure=Failure("code", "why", 500))
    assert one.nbytes == sum(array.nbytes for array in one.inputs.values()) > 0


# the course of a task


def test_an_end_is_visible_once_it_is_public() -> None:
    one = task(rows(1))
    seen = [one.visible_state]
    one.settle(TaskState.CANCELLED, 1.0)
    seen.append(one.visible_state)
    one.public = True
    seen.append(one.visible_state)
    assert seen == [TaskState.QUEUED, TaskState.RUNNING, TaskState.CANCELLED]


def test_only_a_failed_task_keeps_its_inputs() -> None:
    kept = {}
    for state in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED):
        one = task(rows(1))
        one.settle(state, 1.0)
        kept[state] = bool(one.inputs)
    assert [state for state, inputs in kept.items() if inputs] == [TaskState.FAILED]


def test_a_start_notes_the_device_and_sets_the_deadline_of_the_run() -> None:
    one = task(rows(1))
    one.options = TaskOptions(run_within=5.0)
    assert one.start(3.0, "cpu")
    assert (one.device, one.started, one.run_by) == ("cpu", 3.0, 8.0)


def test_a_start_is_told_from_one_that_was_before() -> None:
    one = task(rows(1))
    assert one.start(1.0)
    assert not one.start(2.0)


def test_a_task_must_start_in_time_counted_from_its_acceptance() -> None:
    one = task(rows(1))
    assert one.start_by is None
    one.created, one.options = 100.0, TaskOptions(start_within=0.0)
    assert one.start_by == 100.0


def test_a_failed_task_that_is_opened_again_is_as_if_it_had_just_come() -> None:
    one = task(rows(1, 2))
    one.options = TaskOptions(run_within=5.0, start_within=5.0)
    one.start(1.0)
    one.settle(TaskState.FAILED, 2.0, failure=Failure("code", "why", 500))
    one.public, one.expires, one.progress = True, 50.0, Progress(0.5, "", 1.0)
    one.reopen(100.0)
    assert (one.state, one.live, one.public, one.created, one.attempts) == (TaskState.QUEUED, True, False, 100.0, 0)
    assert [one.started, one.run_by, one.ended, one.expires, one.failure, one.progress] == [None] * 6
    assert (one.start_by, one.nbytes) == (105.0, 8)


def test_parts_list_every_input_in_the_order_of_the_tasks() -> None:
    tasks = [Task(name, KEY, {"a": rows(n), "b": rows(-n)}, 1, True, 0.0) for n, name in enumerate("xyz")]
    parts = Batch(KEY, tasks).parts()
    assert [array.item() for array in parts["a"]] == [0, 1, 2]
    assert [array.item() for array in parts["b"]] == [0, -1, -2]


def test_split_takes_the_added_axis_away_again() -> None:
    batch = Batch(KEY, [task(rows(1), single=True), task(rows(2), single=True)])
    first, second = batch.split({"y": np.arange(6).reshape(2, 3)})
    assert first["y"].tolist() == [0, 1, 2]
    assert second["y"].tolist() == [3, 4, 5]


def test_split_keeps_the_axis_that_came_with_the_task() -> None:
    batch = Batch(KEY, [task(rows(1)), task(rows(2, 3))])
    assert [part["y"].tolist() for part in batch.split({"y": np.arange(3)})] == [[0], [1, 2]]


def test_an_item_whose_output_is_one_number_gets_an_array_without_axes() -> None:
    (part,) = Batch(KEY, [task(rows(1), single=True)]).split({"y": np.array([7])})
    assert part["y"].shape == ()


def test_a_lone_task_without_an_added_axis_takes_outputs_of_any_shape() -> None:
    outputs: Tensors = {"y": np.float32(3) * np.ones(()), "z": np.ones((5, 2))}
    assert Batch(KEY, [task(rows(1, 2))]).split(outputs) == [outputs]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 2)])
def test_an_output_without_one_row_for_each_row_is_refused(shape: tuple[int, ...]) -> None:
    batch = Batch(KEY, [task(rows(1), single=True), task(rows(2), single=True)])
    with pytest.raises(ValueError, match="output 'y' has shape"):
        batch.split({"y": np.zeros(shape)})


def test_a_lone_item_whose_output_has_no_row_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="must be 1"):
        Batch(KEY, [task(rows(1), single=True)]).split({"y": np.zeros(2)})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=8))
def test_what_was_laid_end_to_end_comes_apart_as_it_was(members: list[tuple[int, bool]]) -> None:
    tasks: list[Task] = []
    for number, (length, single) in enumerate(members):
        length = 1 if single else length
        tasks.append(task(np.arange(length, dtype=np.float32)[:, np.newaxis] + 10 * number, single=single))
    batch = Batch(KEY, tasks)
    parts = batch.split({"y": np.concatenate(batch.parts()["x"])})
    for one, part in zip(tasks, parts, strict=True):
        np.testing.assert_array_equal(part["y"], one.inputs["x"][0] if one.single else one.inputs["x"])


@pytest.mark.parametrize("count", [2, 3, 8])
def test_halves_hold_all_tasks_in_order_and_neither_is_empty(count: int) -> None:
    tasks = [task(rows(n)) for n in range(count)]
    first, second = Batch(KEY, tasks).halves()
    assert first.tasks
    assert second.tasks
    assert first.tasks + second.tasks == tasks


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (TensorSpec("x", np.dtype("float32"), (None, 3)), "x: float32[?, 3]"),
        (TensorSpec("x", None, (2,)), "x: any[2]"),
        (TensorSpec("x"), "x: any[...]"),
        (TensorSpec("x", np.dtype("int8"), ()), "x: int8[]"),
    ],
)
def test_a_spec_reads_as_name_dtype_and_shape(spec: TensorSpec, text: str) -> None:
    assert str(spec) == text


@pytest.mark.parametrize("name", ["digits", "resnet-50", "v1.2_b", "7"])
def test_a_name_may_hold_letters_digits_and_inner_punctuation(name: str) -> None:
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "-x", "é", "a\n"])
def test_a_name_that_is_unsafe_in_a_path_or_url_is_refused(name: str) -> None:
    assert not NAME.fullmatch(name)


def test_no_names_read_as_none() -> None:
    assert join_names([]) == "none"
    assert join_names(["a", "b"]) == "a, b"

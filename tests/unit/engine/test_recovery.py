"""Resuming: every way in which a task that a dead server left behind can go on, or end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ndserve.engine.recovery import resume
from ndserve.engine.target import BatchDefaults
from ndserve.engine.targets import Targets
from ndserve.model_info import ModelInfo
from ndserve.processes.base import Process, process
from ndserve.types import BatchKey, Task, TaskOptions, TaskState, Tensors
from tests.unit.engine.rig import model_info

MAX_ATTEMPTS = 3


@process("twice", batched=True)
def twice(xp: Any, x: Any, *, k: int = 2) -> Any:
    return x * k


@process("twice", batched=False)
def whole(xp: Any, x: Any, *, k: int = 2) -> Any:
    return x * k


def targets(*processes: Process, models: Sequence[ModelInfo] = ()) -> Targets:
    return Targets(models, processes, BatchDefaults())


def left(inputs: Tensors | None = None, attempts: int = 0, **others: Any) -> Task:
    """A task as the store gives it: one item for `twice`, unless told otherwise."""
    key = others.get("key", BatchKey("twice", "", (("k", 3),), ()))
    inputs = {"x": np.ones((1, 2), np.float32)} if inputs is None else inputs
    task = Task("t", key, inputs, 1, others.get("single", True), 1000.0, others.get("options", TaskOptions()))
    task.attempts = attempts
    task.kept = True
    return task


def refusal(task: Task, known: Targets, now: float = 1000.0) -> tuple[TaskState, str]:
    outcome = resume(task, known, now, MAX_ATTEMPTS)
    assert outcome is not None
    assert outcome[0] is task
    assert outcome[3] is not None
    return outcome[1], outcome[3].code


@pytest.mark.parametrize("attempts", range(MAX_ATTEMPTS))
def test_a_task_that_may_run_again_keeps_its_arrays_and_parameters(attempts: int) -> None:
    task = left(attempts=attempts)
    assert resume(task, targets(twice), 1000.0, MAX_ATTEMPTS) is None
    assert (task.key.target, task.key.parameters, task.rows, task.single) == ("twice", (("k", 3),), 1, True)
    assert task.inputs["x"].shape == (1, 2)


def test_the_key_is_that_of_a_new_task_so_that_both_can_share_a_batch() -> None:
    task = left()
    resume(task, targets(twice), 1000.0, MAX_ATTEMPTS)
    assert task.key.signature == (("x", np.dtype("float32"), (2,)),)


def test_a_batch_stays_a_batch() -> None:
    info = model_info("m")
    task = left({"x": np.ones((3, 4), np.float32)}, key=BatchKey("m", "1", (), ()), single=False)
    assert resume(task, targets(models=[info]), 1000.0, MAX_ATTEMPTS) is None
    assert (task.rows, task.single) == (3, False)


def test_a_task_that_the_server_died_of_too_often_fails_as_interrupted() -> None:
    assert refusal(left(attempts=MAX_ATTEMPTS), targets(twice)) == (TaskState.FAILED, "interrupted")


def test_a_task_whose_arrays_are_lost_fails() -> None:
    assert refusal(left({}), targets(twice)) == (TaskState.FAILED, "store_unavailable")


def test_a_task_whose_target_is_gone_fails() -> None:
    assert refusal(left(), targets()) == (TaskState.FAILED, "unknown_target")


def test_a_task_for_a_version_that_is_gone_fails_and_does_not_go_to_another() -> None:
    task = left({"x": np.ones((1, 4), np.float32)}, key=BatchKey("m", "1", (), ()))
    assert refusal(task, targets(models=[model_info("m", "2")])) == (TaskState.FAILED, "unknown_target")


@pytest.mark.parametrize(("stored", "now"), [("1+a1b2", ""), ("1+a1b2", "c3d4"), ("1", "a1b2")])
def test_a_task_for_a_model_that_a_client_had_changed_does_not_go_to_another(stored: str, now: str) -> None:
    task = left({"x": np.ones((1, 4), np.float32)}, key=BatchKey("m", stored, (), ()))
    known = targets(models=[replace(model_info("m"), change=now)])
    assert refusal(task, known) == (TaskState.FAILED, "unavailable")


def test_a_task_for_a_changed_model_goes_to_that_model() -> None:
    task = left({"x": np.ones((1, 4), np.float32)}, key=BatchKey("m", "1+a1b2", (), ()))
    assert resume(task, targets(models=[replace(model_info("m"), change="a1b2")]), 1000.0, MAX_ATTEMPTS) is None


def test_a_task_whose_model_takes_other_shapes_now_fails() -> None:
    task = left({"x": np.ones((1, 4), np.float32)}, key=BatchKey("m", "1", (), ()))
    known = targets(models=[model_info("m", axes=(None, 5))])
    assert refusal(task, known) == (TaskState.FAILED, "invalid_input")


def test_a_task_with_a_parameter_that_its_process_has_lost_fails() -> None:
    task = left(key=BatchKey("twice", "", (("gone", 1),), ()))
    assert refusal(task, targets(twice)) == (TaskState.FAILED, "invalid_parameter")


def test_a_task_that_did_not_start_in_time_expires() -> None:
    task = left(options=TaskOptions(start_within=5.0))
    assert refusal(task, targets(twice), 1005.0) == (TaskState.EXPIRED, "expired")


def test_a_task_that_was_interrupted_is_not_held_to_the_time_of_its_start() -> None:
    task = left(attempts=1, options=TaskOptions(start_within=5.0))
    assert resume(task, targets(twice), 9000.0, MAX_ATTEMPTS) is None


def test_the_time_to_run_goes_on_while_the_server_is_down() -> None:
    task = left(attempts=1, options=TaskOptions(run_within=5.0))
    task.run_by = 1005.0
    assert refusal(task, targets(twice), 1005.0) == (TaskState.FAILED, "timeout")


def test_a_late_end_goes_before_all_other_reasons() -> None:
    task = left({}, options=TaskOptions(start_within=5.0))
    assert refusal(task, targets(), 1005.0) == (TaskState.EXPIRED, "expired")


def test_a_refused_task_keeps_its_arrays_for_another_try() -> None:
    task = left()
    refusal(task, targets())
    assert task.inputs["x"].shape == (1, 2)


@pytest.mark.parametrize("shape", [(1,), (1, 2)])
def test_an_item_for_a_process_that_no_longer_batches_comes_as_it_was_posted(shape: tuple[int, ...]) -> None:
    task = left({"x": np.ones(shape, np.float32)})
    assert resume(task, targets(whole), 1000.0, MAX_ATTEMPTS) is None
    assert isinstance(task.inputs["x"], np.ndarray), "a number of NumPy's is no array"
    assert (task.inputs["x"].shape, task.single) == (shape[1:], False)

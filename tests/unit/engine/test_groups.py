"""Groups: arrays come apart into items and together again, and the whole has one state."""

from __future__ import annotations

import numpy as np
import pytest

from ndserve.engine.groups import PREFIX, Stack, describe_counts, member, new_group, split_items, state_of
from ndserve.engine.target import BatchDefaults, model_target
from ndserve.errors import InvalidInputError, NotAcceptableError
from ndserve.stores.base import Group, GroupState
from ndserve.types import TaskOptions, TaskState, Tensors
from tests.unit.engine import rig

GROUP = Group("group-1", "a", "1", 4, 1000.0, None, "")
QUEUED, SUCCEEDED = TaskState.QUEUED, TaskState.SUCCEEDED
FAILED, EXPIRED, CANCELLED = TaskState.FAILED, TaskState.EXPIRED, TaskState.CANCELLED


def test_a_group_takes_its_name_its_target_and_the_name_of_its_request() -> None:
    options = TaskOptions(idempotency_key="key", fingerprint="print")
    group = new_group("1", model_target(rig.model_info("m", "7"), BatchDefaults()), 3, 5.0, options)
    assert group == Group(PREFIX + "1", "m", "7", 3, 5.0, "key", "print")
    assert member(group.id, 2) == f"{PREFIX}1-2"


# apart


def test_items_are_cut_along_axis_0_and_do_not_keep_the_whole_alive() -> None:
    inputs = {"x": np.arange(6).reshape(3, 2), "y": np.arange(3)}
    items = split_items(inputs)
    assert [item["x"].tolist() for item in items] == [[0, 1], [2, 3], [4, 5]]
    assert [item["y"].tolist() for item in items] == [0, 1, 2]
    assert not any(np.shares_memory(item[name], inputs[name]) for item in items for name in inputs)


def test_an_item_of_an_array_with_one_axis_is_an_array_without_any() -> None:
    (item,) = split_items({"x": np.array([5.0])})
    assert isinstance(item["x"], np.ndarray)
    assert item["x"].shape == ()


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": np.zeros((0, 2))},
        {"x": np.array(1.0)},
        {"x": np.zeros(2), "y": np.zeros(3)},
        {"x": np.zeros(2), "y": np.array(1.0)},
    ],
    ids=["none", "empty", "no axis", "different", "one without axis"],
)
def test_arrays_that_have_no_common_items_are_refused(inputs: Tensors) -> None:
    with pytest.raises(InvalidInputError, match="same length along axis 0"):
        split_items(inputs)


# the state of the whole


@pytest.mark.parametrize(
    ("counts", "running", "state"),
    [
        ({QUEUED: 4}, 0, TaskState.QUEUED),
        ({QUEUED: 4}, 1, TaskState.RUNNING),
        ({QUEUED: 1, SUCCEEDED: 3}, 0, TaskState.RUNNING),
        ({QUEUED: 1, FAILED: 3}, 0, TaskState.RUNNING),
        ({SUCCEEDED: 4}, 0, SUCCEEDED),
        ({SUCCEEDED: 2, CANCELLED: 2}, 0, CANCELLED),
        ({SUCCEEDED: 1, CANCELLED: 2, EXPIRED: 1}, 0, EXPIRED),
        ({SUCCEEDED: 1, CANCELLED: 1, EXPIRED: 1, FAILED: 1}, 0, FAILED),
    ],
)
def test_the_whole_has_ended_when_all_have_and_as_badly_as_the_worst(
    counts: dict[TaskState, int], running: int, state: TaskState
) -> None:
    assert state_of(GroupState(GROUP, counts), running) is state


def test_counts_name_every_state_and_tell_running_tasks_from_queued_ones() -> None:
    assert describe_counts({QUEUED: 3, SUCCEEDED: 1}, 2) == {
        "queued": 1,
        "running": 2,
        "succeeded": 1,
        "failed": 0,
        "cancelled": 0,
        "expired": 0,
    }


# together


def test_results_are_stacked_along_a_new_axis_in_their_order() -> None:
    stack = Stack(2)
    stack.add({"y": np.array([1, 2]), "z": np.array(3.0)})
    stack.add({"z": np.array(6.0), "y": np.array([4, 5])})
    assert stack.outputs["y"].tolist() == [[1, 2], [4, 5]]
    assert stack.outputs["z"].tolist() == [3.0, 6.0]


@pytest.mark.parametrize(
    "other",
    [{"y": np.zeros(3)}, {"y": np.zeros(2, np.float32)}, {"w": np.zeros(2)}, {"y": np.zeros(2), "w": np.zeros(2)}, {}],
    ids=["shape", "dtype", "name", "one more", "one less"],
)
def test_results_that_differ_cannot_be_stacked(other: Tensors) -> None:
    stack = Stack(2)
    stack.add({"y": np.zeros(2)})
    with pytest.raises(NotAcceptableError, match="fetch them one by one"):
        stack.add(other)


def test_results_that_would_fit_by_broadcasting_cannot_be_stacked() -> None:
    stack = Stack(2)
    stack.add({"y": np.zeros((2, 2))})
    with pytest.raises(NotAcceptableError):
        stack.add({"y": np.zeros((1, 2))})


def test_a_whole_that_is_too_large_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(NotAcceptableError, match="would take 8000000000000 bytes"):
        Stack(10**9).add({"y": np.zeros(1000)})

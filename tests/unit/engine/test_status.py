"""What callers are told of a task or a group, and what not before its end is stored."""

from __future__ import annotations

import numpy as np
import pytest

from ndserve.engine.status import describe, describe_group, rfc3339
from ndserve.engine.tasks import GroupStatus
from ndserve.stores.base import Group
from ndserve.types import BatchKey, Failure, Progress, Task, TaskOptions, TaskState


def new_task(**options: float) -> Task:
    key = BatchKey("digits", "2", (), ())
    return Task("t", key, {"x": np.zeros(1)}, 1, True, 1000.0, TaskOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1970-01-01T00:00:00Z"), (1000.25, "1970-01-01T00:16:40.250000Z"), (None, None)],
)
def test_times_are_told_in_utc(seconds: float | None, text: str | None) -> None:
    assert rfc3339(seconds) == text


def test_a_queued_task_tells_its_position_and_nothing_of_a_run() -> None:
    told = describe(new_task(priority=7, start_within=60.0), position=3)
    assert (told["status"], told["position"], told["priority"], told["attempts"]) == ("queued", 3, 7, 0)
    assert told["start_by"] == "1970-01-01T00:17:40Z"
    assert [told[name] for name in ("started", "ended", "run_by", "device", "error", "progress")] == [None] * 6
    assert told["timings"] == {"queue_ms": None, "load_ms": None, "run_ms": None, "store_ms": None}


def test_a_running_task_tells_its_device_its_progress_and_no_position() -> None:
    task = new_task(run_within=10.0)
    task.start(1002.0, "cpu")
    task.progress = Progress(0.5, "half", 1003.0)
    told = describe(task, position=3)
    assert (told["status"], told["position"], told["device"], told["attempts"]) == ("running", None, "cpu", 1)
    assert told["progress"] == {"fraction": 0.5, "message": "half"}
    assert told["run_by"] == "1970-01-01T00:16:52Z"


def test_an_end_that_is_not_public_is_told_as_running_unless_it_is_about_to_be() -> None:
    task = new_task()
    task.start(1001.0)
    task.settle(TaskState.FAILED, 1003.0, failure=Failure("code", "why", 500))
    task.expires = 2000.0
    told = describe(task)
    assert (told["status"], told["ended"], told["expires"], told["error"]) == ("running", None, None, None)
    assert told["timings"]["run_ms"] is None
    ending = describe(task, ending=True)
    assert (ending["status"], ending["error"]) == ("failed", {"code": "code", "message": "why"})
    assert ending["timings"]["run_ms"] == 2000.0


def test_a_public_end_is_told_with_its_times() -> None:
    task = new_task()
    task.start(1001.0)
    task.settle(TaskState.SUCCEEDED, 1003.0, outputs={})
    task.expires, task.public = 1063.0, True
    told = describe(task)
    assert (told["status"], told["error"]) == ("succeeded", None)
    assert (told["ended"], told["expires"]) == ("1970-01-01T00:16:43Z", "1970-01-01T00:17:43Z")


def test_the_time_in_the_queue_does_not_count_the_loading_of_models() -> None:
    task = new_task()
    task.start(1005.0)
    task.load_seconds, task.store_seconds = 3.0, 0.25
    assert describe(task)["timings"] == {"queue_ms": 2000.0, "load_ms": 3000.0, "run_ms": None, "store_ms": 250.0}


def test_no_span_is_negative_when_the_clock_was_set_back() -> None:
    task = new_task()
    task.start(990.0)
    task.settle(TaskState.SUCCEEDED, 980.0, outputs={})
    task.public = True
    assert min(span or 0.0 for span in describe(task)["timings"].values()) == 0.0


def test_a_process_has_no_version() -> None:
    task = new_task()
    task.key = BatchKey("twice", "", (), ())
    assert describe(task)["version"] is None


def test_a_group_tells_how_many_of_its_tasks_have_ended() -> None:
    counts = {"queued": 1, "running": 1, "succeeded": 1, "failed": 1, "cancelled": 0, "expired": 0}
    group = Group("group-1", "digits", "2", 4, 1000.0, None, "")
    told = describe_group(GroupStatus(group, TaskState.RUNNING, counts))
    assert told["progress"] == {"fraction": 0.5, "message": "2 of 4 tasks have ended"}
    assert (told["task_id"], told["group_id"], told["status"]) == ("group-1", "group-1", "running")
    assert (told["counts"], told["total"], told["expires"]) == (counts, 4, None)

"""What a webhook message says of a task's end, and of which ends there is one."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import orjson

from ndserve.engine.courier import Courier
from ndserve.types import BatchKey, Failure, Task, TaskOptions, TaskState, Webhook
from ndserve.webhooks import Sender, Sent
from tests.unit.engine.rig import Clock, run
from tests.unit.engine.test_courier import FakeSender

DELIVERED, BROKEN, GONE = Sent(200), Sent(500, "the receiver answered 500"), Sent(410, "the receiver answered 410")


def ended_task(state: TaskState, events: tuple[TaskState, ...]) -> Task:
    options = TaskOptions(webhook=Webhook("http://here/", events))
    task = Task("t", BatchKey("digits", "2", (), ()), {"x": np.zeros(1)}, 1, True, 1000.0, options)
    task.start(1001.0, "cpu")
    task.settle(state, 1002.5, failure=Failure("code", "why", 500) if state is TaskState.FAILED else None)
    return task


def the_courier() -> Courier:
    return Courier(cast(Sender, FakeSender()), Clock(), lambda: 0.0)


def test_a_message_tells_the_end_of_the_task_although_it_is_not_public_yet() -> None:
    async def main() -> None:
        notice = the_courier().notice(ended_task(TaskState.FAILED, (TaskState.FAILED,)))
        assert notice is not None
        assert (notice.url, notice.attempts, notice.due) == ("http://here/", 0, 1002.5)
        told: dict[str, Any] = orjson.loads(notice.body)
        assert (told["type"], told["timestamp"]) == ("task.failed", "1970-01-01T00:16:42.500000Z")
        assert (told["data"]["task_id"], told["data"]["status"]) == ("t", "failed")
        assert told["data"]["error"] == {"code": "code", "message": "why"}

    run(main())


def test_an_end_that_was_not_asked_for_gives_no_message() -> None:
    async def main() -> None:
        assert the_courier().notice(ended_task(TaskState.CANCELLED, (TaskState.SUCCEEDED, TaskState.FAILED))) is None

    run(main())


def test_a_task_without_a_webhook_gives_no_message() -> None:
    async def main() -> None:
        task = ended_task(TaskState.SUCCEEDED, (TaskState.SUCCEEDED,))
        task.options = TaskOptions()
        assert the_courier().notice(task) is None

    run(main())


def test_the_end_of_a_task_that_is_run_again_is_another_message() -> None:
    async def main() -> None:
        courier, task = the_courier(), ended_task(TaskState.FAILED, (TaskState.FAILED,))
        first = courier.notice(task)
        task.reopen(1100.0)
        task.settle(TaskState.FAILED, 1101.0)
        second = courier.notice(task)
        assert first is not None
        assert second is not None
        assert first.id != second.id

    run(main())


def test_a_courier_that_was_never_started_can_be_closed() -> None:
    async def main() -> None:
        await the_courier().close()

    run(main())

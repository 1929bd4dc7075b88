"""Whether a model's tasks may share a run is found out by trying, and until it is known they run alone."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from ndserve.engine.service import InferenceService
from ndserve.engine.target import PROBES
from ndserve.model_cache import batch_safety
from ndserve.model_info import Batching, ModelOptions
from ndserve.types import HostArray, Task, TaskState
from tests.unit.engine.rig import HANG, Gate, Shelf, ended, item, model_info, output, run, serving, tick

FREE = (None, None)
"""Axes that leave the probe to the first real request."""


def minus_mean(x: Any) -> Any:
    """What batch normalisation left in training mode does."""
    return x - x.mean(axis=0)


def values(number: int) -> HostArray:
    """An item that the probe can tell something by."""
    return item(number, number + 1, 2 * number, 7)


async def submit_all(service: InferenceService, *arrays: HostArray) -> list[Task]:
    return [await service.submit("m", array) for array in arrays]


async def batches(service: InferenceService, *arrays: HostArray) -> int:
    """The number of batches that these arrays, posted at once, become."""
    before = service.worker.batches
    await ended(service, *await submit_all(service, *arrays))
    return service.worker.batches - before


def test_a_model_of_fixed_shape_is_probed_before_its_first_task_and_then_batched() -> None:
    async def main() -> None:
        shelf = Shelf()
        async with serving(models=[model_info()], shelf=shelf) as service:
            assert await batches(service, *map(values, range(8))) == 1
            assert service.target("m").batching.mode == "on"
            assert shelf.sessions["m"].rows[-1] == 8

    run(main())


def test_a_model_that_the_probe_at_load_refuses_stays_at_one_a_batch() -> None:
    async def main() -> None:
        async with serving(models=[model_info()], shelf=Shelf({"m": minus_mean})) as service:
            assert await batches(service, *map(values, range(8))) == 8
            assert await batches(service, *map(values, range(8))) == 8
            assert service.target("m").batching.mode == "off"
            assert "differs between stacked and apart" in service.target("m").batching.reason

    run(main())


def test_a_model_of_free_shape_runs_alone_until_a_request_has_shown_that_batching_is_safe() -> None:
    async def main() -> None:
        gate = Gate()

        def doubled(x: Any) -> Any:
            gate.hold()
            return x * 2

        shelf = Shelf({"m": doubled})
        async with serving(models=[model_info(axes=FREE)], shelf=shelf, gates=[gate]) as service:
            first, second = await submit_all(service, values(1), values(2))
            await gate.reached()
            await tick()
            assert service.worker.batches == 2  # both are with the lane, each alone
            later = await submit_all(service, *map(values, range(3, 9)))
            gate.open()
            await ended(service, first, second, *later)
            assert service.target("m").batching.mode == "on"
            assert await batches(service, *map(values, range(6))) == 1
            for number, task in enumerate([first, second, *later], start=1):
                np.testing.assert_array_equal(output(task, "y"), values(number) * 2)

    run(main())


def test_a_model_of_free_shape_that_the_probe_refuses_stays_at_one_a_batch() -> None:
    async def main() -> None:
        async with serving(models=[model_info(axes=FREE)], shelf=Shelf({"m": minus_mean})) as service:
            await ended(service, *await submit_all(service, values(1)))
            assert service.target("m").batching.mode == "off"
            tasks = await submit_all(service, *map(values, range(5)))
            await ended(service, *tasks)
            assert service.worker.batches == 6
            assert all(output(task, "y").tolist() == [0, 0, 0, 0] for task in tasks)

    run(main())


def test_requests_that_cannot_tell_leave_the_question_open() -> None:
    async def main() -> None:
        async with serving(models=[model_info(axes=FREE)]) as service:
            assert await batches(service, np.zeros(4, np.float32)) == 1
            assert service.target("m").batching.mode == "untested"
            assert await batches(service, values(1)) == 1
            assert service.target("m").batching.mode == "on"

    run(main())


def test_requests_that_say_nothing_of_the_model_spend_no_probe() -> None:
    async def main() -> None:
        async with serving(models=[model_info(axes=FREE)]) as service:
            await batches(service, *[np.zeros(4, np.float32)] * (PROBES + 1))
            assert service.target("m").batching.mode == "untested"
            await batches(service, *map(values, range(1)))
            assert service.target("m").batching.mode == "on"

    run(main())


def test_a_model_that_no_request_can_judge_is_left_unbatched_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_safety, "with_request", lambda *_: Batching("untested", "all gave the same"))

    async def main() -> None:
        async with serving(models=[model_info(axes=FREE)]) as service:
            await batches(service, *map(values, range(PROBES)))
            batching = service.target("m").batching
            assert batching.mode == "off"
            assert "no request could show" in batching.reason
            assert await batches(service, *map(values, range(4))) == 4

    run(main())


def test_a_model_whose_options_forbid_it_is_neither_probed_nor_batched() -> None:
    async def main() -> None:
        shelf = Shelf()
        models = [model_info(options=ModelOptions(batching="off"))]
        async with serving(models=models, shelf=shelf) as service:
            assert await batches(service, *map(values, range(3))) == 3
            assert shelf.sessions["m"].rows == [1, 1, 1]

    run(main())


def test_the_probe_never_changes_what_the_first_task_gets() -> None:
    async def main() -> None:
        async with serving(models=[model_info(axes=FREE)]) as service:
            (task,) = await submit_all(service, values(5))
            await ended(service, task)
            np.testing.assert_array_equal(output(task, "y"), values(5) * 2)

    run(main())


def test_a_batch_from_outside_runs_whole_although_the_model_is_untested() -> None:
    async def main() -> None:
        shelf = Shelf()
        async with serving(models=[model_info(axes=FREE)], shelf=shelf) as service:
            array = np.arange(20, dtype=np.float32).reshape(5, 4)
            (task,) = await submit_all(service, array)
            await ended(service, task)
            assert shelf.sessions["m"].rows[0] == 5
            np.testing.assert_array_equal(output(task, "y"), array * 2)

    run(main())


def test_a_model_that_fails_in_the_probe_still_serves_the_request() -> None:
    async def main() -> None:
        def picky(x: Any) -> Any:
            if len(x) > 1:
                raise ValueError("one at a time")
            return x

        async with serving(models=[model_info(axes=FREE)], shelf=Shelf({"m": picky})) as service:
            (task,) = await submit_all(service, values(1))
            await ended(service, task)
            assert task.state is TaskState.SUCCEEDED
            assert service.target("m").batching.mode == "off"

    run(main())


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        pytest.param(item(200, 3, 1, 2), values(1), "off", id="unsafe stays unsafe"),
        pytest.param(values(1), item(0, 0, 0, 0), "on", id="safe stays safe"),
    ],
)
def test_a_verdict_stands_when_a_request_that_was_under_way_has_shown_less(
    first: HostArray, second: HostArray, verdict: str
) -> None:
    """Both tasks are with the lane before either is judged; the second one's probe sees less than the first one's."""

    async def main() -> None:
        gate, both_have_run = Gate(), threading.Event()

        def mixes_large_values(x: Any) -> Any:
            gate.hold()
            return x - x.mean(axis=0) if x.max() > 100 else x

        shelf = Shelf({"m": mixes_large_values})
        async with serving(models=[model_info(axes=FREE)], shelf=shelf, gates=[gate]) as service:
            tasks = await submit_all(service, first, second)
            await gate.reached()
            await tick()
            assert service.lane.in_flight == 2
            service.lane.run(both_have_run.set)
            gate.open()
            # The loop stands still, so that the lane runs the second task before the first is judged.
            assert both_have_run.wait(HANG)
            await ended(service, *tasks)
            await tick()
            assert service.target("m").batching.mode == verdict

    run(main())

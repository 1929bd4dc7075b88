"""Many tasks at once over real sockets: none is lost or doubled, and each gets its own result."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest

from ndserve.types import HostArray
from tests.e2e.client import Connection, Pipe, connections, npy, run
from tests.e2e.running import MODELS, RunningServer

TOLERANCE = 1e-5
TASKS = 10_000
CONNECTIONS = 40


@pytest.fixture(scope="module")
def images() -> HostArray:
    """The held-out digits, float32 (450, 8, 8)."""
    heldout: HostArray = np.load(MODELS / "digits" / "samples" / "heldout.npz")["images"].astype(np.float32)
    return heldout


@pytest.fixture(scope="module")
def alone(images: HostArray) -> HostArray:
    """What onnxruntime gives for each of them when it is run on that image alone, (450, 10)."""
    session = onnxruntime.InferenceSession(MODELS / "digits" / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": image[np.newaxis]})[0] for image in images])


def test_500_submits_at_once_share_batches_and_each_gets_its_own_result(
    server: RunningServer, pipe: Pipe, images: HostArray, alone: HostArray
) -> None:
    """All of them arrive while the lane is busy: how they batch is then the server's doing, not the machine's."""
    chosen = np.random.default_rng(500).integers(len(images), size=500)

    async def submit(connection: Connection, number: int) -> str:
        return await connection.submit("/process_np_array?model=digits", images[number])

    async def fetch(connection: Connection, task_id: str) -> HostArray:
        return (await connection.call("GET", f"/result/{task_id}?wait=40")).array

    async def test() -> tuple[list[HostArray], float]:
        async with connections(server, 501) as (holder, *opened):
            holder.send("POST", f"/tasks/fifo?wait=40&path={pipe.path}", npy([0]))
            await pipe.reached()
            ids = await asyncio.gather(*map(submit, opened, chosen))
            fetching = asyncio.gather(*map(fetch, opened, ids))
            pipe.release()
            results = await fetching
            health = await opened[0].call("GET", "/health")
            return results, health.document["batches"]["mean_size"]

    results, mean_size = run(test())
    assert np.abs(np.stack(results) - alone[chosen]).max() <= TOLERANCE
    assert mean_size > 4


def test_of_10_000_tasks_none_is_lost_doubled_or_mixed_up(
    server: RunningServer, images: HostArray, alone: HostArray
) -> None:
    """One task in a hundred has a wrong shape: it is refused, and all others succeed."""
    bodies = [npy(image) for image in images]
    wrong = npy(images[0][:7])

    async def some(connection: Connection, numbers: Sequence[int]) -> dict[int, str]:
        """Submit and fetch one after the other; gives the ids by number."""
        ids = {}
        for number in numbers:
            chosen = number % len(images)
            body = wrong if number % 100 == 0 else bodies[chosen]
            accepted = await connection.call("POST", "/process_np_array?model=digits", body)
            if number % 100 == 0:
                assert accepted.status == 422
                assert accepted.document["code"] == "invalid_input"
                continue
            assert accepted.status == 202, accepted.body
            ids[number] = accepted.document["task_id"]
            fetched = await connection.call("GET", f"/result/{ids[number]}?wait=40")
            assert np.abs(fetched.array - alone[chosen]).max() <= TOLERANCE
        return ids

    async def test() -> None:
        async with connections(server, CONNECTIONS) as opened:
            shares = [range(first, TASKS, CONNECTIONS) for first in range(CONNECTIONS)]
            parts = await asyncio.gather(*map(some, opened, shares))
            health = (await opened[0].call("GET", "/health")).document
        ids = [task_id for part in parts for task_id in part.values()]
        assert len(ids) == len(set(ids)) == TASKS - TASKS // 100
        assert health["ended"] == {"succeeded": len(ids), "failed": 0, "cancelled": 0, "expired": 0}
        assert health["queue"]["live"] == 0
        assert health["batches"]["tasks"] == len(ids)

    run(test())


def test_an_item_that_a_process_refuses_fails_alone(server: RunningServer, pipe: Pipe) -> None:
    """The refused ones lie among others in one batch: the lane is held until all are queued."""
    marked = {5, 17, 18, 40}

    async def test() -> None:
        async with connections(server, 2) as (holder, connection):
            holder.send("POST", f"/tasks/fifo?wait=40&path={pipe.path}", npy([0]))
            await pipe.reached()
            items = [np.array([number, -1 if number in marked else 1], np.float32) for number in range(48)]
            ids = [await connection.submit("/tasks/picky", item) for item in items]
            pipe.release()
            for number, task_id in enumerate(ids):
                answer = await connection.call("GET", f"/result/{task_id}?wait=40")
                if number in marked:
                    assert (answer.status, answer.document["code"]) == (500, "execution_failed")
                else:
                    assert answer.array.tolist() == [2 * number, 2]

    run(test())

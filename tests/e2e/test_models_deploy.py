"""Other models are loaded, and new versions deployed, while hundreds of requests are under way: none of them fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from tests.e2e.client import Connection, connections, npy, run
from tests.e2e.models import put, scaling
from tests.e2e.running import RunningServer, serving

CLIENTS = 200
X = npy(np.ones((1, 4), np.float32))


class Traffic:
    """Clients that ask for a model again and again until they are told to stop."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.factors: list[float] = []
        self._more = asyncio.Event()

    async def ask(self, connection: Connection) -> None:
        while not self.stop.is_set():
            answer = await connection.call("POST", "/tasks/m?wait=30", X)
            self.factors.append(float(answer.array[0][0]))  # an answer other than 200 ends the test
            self._more.set()

    async def answered(self, number: int) -> None:
        """Wait until so many more requests have been answered."""
        target = len(self.factors) + number
        while len(self.factors) < target:
            self._more.clear()
            await self._more.wait()


def beside_traffic(server: RunningServer, *calls: tuple[str, str, bytes]) -> list[list[float]]:
    """What the clients were answered before, during and after these calls, which are to succeed."""

    async def main() -> list[list[float]]:
        traffic = Traffic()
        async with connections(server, CLIENTS + 1) as (manager, *clients):
            asking = asyncio.gather(*map(traffic.ask, clients))
            await traffic.answered(CLIENTS)
            marks = [len(traffic.factors)]
            for call in calls:
                answer = await manager.call(*call)
                assert answer.status in (200, 201), answer.body
            marks.append(len(traffic.factors))
            await traffic.answered(2 * CLIENTS)
            traffic.stop.set()
            await asking
        (begun, done) = marks
        return [traffic.factors[:begun], traffic.factors[begun:done], traffic.factors[done + CLIENTS :]]

    return run(main())


def test_a_deploy_of_a_new_version_fails_no_request_and_then_answers_all(tmp_path: Path) -> None:
    put(tmp_path, scaling(2))
    with serving(models=tmp_path) as server:
        new = scaling(3, mbytes=16)
        before, during, after = beside_traffic(server, ("PUT", "/models/m/versions/2", new))
        assert set(before) == {2}
        assert set(during) <= {2, 3}
        assert set(after) == {3}


def test_requests_go_on_while_a_large_model_is_loaded(tmp_path: Path) -> None:
    put(tmp_path, scaling(2))
    put(tmp_path, scaling(5, mbytes=160), "large")
    with serving(models=tmp_path) as server:
        _, during, _ = beside_traffic(server, ("POST", "/models/large/load", b""))
        assert set(during) == {2}
        assert len(during) > CLIENTS, "the load held up the others"


def test_a_model_is_replaced_and_unloaded_and_loaded_under_traffic_of_another(tmp_path: Path) -> None:
    put(tmp_path, scaling(2))
    put(tmp_path, scaling(5), "other")
    with serving(models=tmp_path) as server:
        calls = [("POST", f"/models/other/{what}", b"") for what in ("load", "unload", "load", "pin", "unpin")]
        replaced = ("PUT", "/models/other/versions/1?replace=true", scaling(7))
        before, during, after = beside_traffic(server, *calls, replaced)
        assert set(before + during + after) == {2}

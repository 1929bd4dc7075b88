"""What outlives the server: a second one on the same folder goes on where the first one stopped."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from ndserve.testing import InProcessServer, serving
from tests.routes.bodies import PROCESSES, array_of, floats, npy, problem
from tests.routes.test_course import ended, events, submit

KEY = {"Idempotency-Key": "one"}


class Serve(Protocol):
    """Starts a server on the test's folder; each one after the one before has stopped."""

    def __call__(self, **options: Any) -> AbstractContextManager[InProcessServer]: ...


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    def start(**options: Any) -> AbstractContextManager[InProcessServer]:
        return serving(processes=PROCESSES, store="sqlite", data_dir=tmp_path, **options)

    return start


def test_a_result_and_its_state_are_the_same_after_a_restart(serve: Serve) -> None:
    with serve() as server:
        task_id = submit(server)
        told = ended(server, task_id)
    with serve() as server:
        again = server.http.get(f"/tasks/{task_id}").json()
        assert again | {"timings": None} == told | {"timings": None}  # that of the commit itself is not stored
        assert array_of(server.http.get(f"/result/{task_id}").content).tolist() == [1.0, 2.0]


def test_a_key_is_known_after_a_restart(serve: Serve) -> None:
    with serve() as server:
        first = server.http.post("/tasks/identity", content=npy(floats(2)), headers=KEY)
    with serve() as server:
        again = server.http.post("/tasks/identity", content=npy(floats(2)), headers=KEY)
        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json()["task_id"] == again.json()["task_id"]
        problem(server.http.post("/tasks/identity", content=npy(floats(3)), headers=KEY), 409, "conflict")


def test_an_id_of_the_clients_own_is_known_after_a_restart(serve: Serve) -> None:
    with serve() as server:
        server.http.put("/tasks/identity/mine", content=npy(floats(2)))
    with serve() as server:
        assert server.http.put("/tasks/identity/mine", content=npy(floats(2))).status_code == 200


def test_a_group_gives_its_stacked_result_after_a_restart(serve: Serve) -> None:
    with serve() as server:
        group = server.http.post("/tasks/picky?split=true", content=npy(floats(4, 3))).json()["group_id"]
    with serve() as server:
        answer = server.http.get(f"/result/{group}?wait=20")
        np.testing.assert_array_equal(array_of(answer.content), floats(4, 3) * 2)


def test_a_stream_goes_on_after_a_restart_without_repeating_itself(serve: Serve) -> None:
    with serve() as server:
        task_id = submit(server)
        whole = events(server, task_id)
    with serve() as server:
        rest = events(server, task_id, whole[0]["id"])
        assert [event["event"] for event in rest] == ["state", "end"]
        assert rest[-1]["id"] == whole[-1]["id"]
        last = {"Last-Event-ID": whole[-1]["id"]}
        assert server.http.get(f"/tasks/{task_id}/events", headers=last).status_code == 204


def test_a_removed_task_is_still_gone_after_a_restart(serve: Serve) -> None:
    with serve() as server:
        task_id = submit(server)
        ended(server, task_id)
        server.http.delete(f"/tasks/{task_id}")
    with serve() as server:
        problem(server.http.get(f"/tasks/{task_id}"), 410, "gone")


def test_a_failed_task_is_run_again_after_a_restart(serve: Serve) -> None:
    with serve() as server:
        task_id = submit(server, "picky", [-1.0])
        ended(server, task_id)
    with serve() as server:
        assert server.http.post(f"/tasks/{task_id}/retry").status_code == 202
        assert ended(server, task_id)["error"]["code"] == "execution_failed"


def test_a_list_goes_on_at_its_cursor_after_a_restart(serve: Serve) -> None:
    with serve() as server:
        ids = [submit(server) for _ in range(3)]
        cursor = server.http.get("/tasks?limit=1").json()["next_cursor"]
    with serve() as server:
        page = server.http.get(f"/tasks?cursor={cursor}").json()
        assert [task["task_id"] for task in page["tasks"]] == ids[1::-1]

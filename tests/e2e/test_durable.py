"""What a server keeps on its disk, and what it does when that disk, or another server, is in its way."""

from __future__ import annotations

import asyncio
import resource
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndserve import Client
from ndserve.client import GoneError, ServerError, StoreFullError, TaskFailedError
from tests.e2e.client import Pipe, connections, npy, run
from tests.e2e.durable import command, durable, kill
from tests.e2e.running import RunningServer, finished, serving

LARGE = np.ones(100_000, np.float32)
"""400 KB: a file of its own."""


def answer(server: RunningServer, method: str, target: str, body: bytes = b"") -> Any:
    async def call() -> Any:
        async with connections(server, 1) as (connection,):
            return await connection.call(method, target, body)

    return run(call())


def test_a_result_outlives_the_server_that_made_it(tmp_path: Path) -> None:
    with durable(tmp_path) as server, Client(server.url) as client:
        small, large = client.submit_task("identity", np.arange(3)), client.submit_task("identity", LARGE)
        for task_id in (small, large):
            client.get_result(task_id, wait=None)
        before = [client.status(task_id) for task_id in (small, large)]
        kill(server)
    with durable(tmp_path) as server, Client(server.url) as client:
        assert [client.status(task_id) | {"timings": 0} for task_id in (small, large)] == [
            status | {"timings": 0} for status in before
        ]
        np.testing.assert_array_equal(client.get_result(small), np.arange(3))
        np.testing.assert_array_equal(client.get_result(large), LARGE)


def test_a_server_says_where_it_keeps_its_tasks(tmp_path: Path) -> None:
    with durable(tmp_path) as server:
        assert f"tasks: kept in {tmp_path} (--durability normal)" in "".join(server.lines)


def test_a_server_that_keeps_its_tasks_in_memory_says_that_they_are_lost() -> None:
    with serving("--store", "memory") as server:
        assert "lost when the process ends" in "".join(server.lines)


def test_tasks_that_a_drain_does_not_finish_run_at_the_next_start(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path / "pipe")

    async def fill(server: RunningServer) -> list[str]:
        async with connections(server, 2) as (holder, other):
            held = await holder.submit(f"/tasks/identity_after?path={pipe.path}", [7])
            await pipe.reached()
            queued = await other.submit("/tasks/identity", [8])
            other.send("GET", f"/result/{queued}?wait=30")
            await asyncio.to_thread(server.terminate)
            assert (await other.receive()).status == 202
            return [held, queued]

    with durable(tmp_path / "data", "--drain-seconds", "0.2") as server:
        ids = run(fill(server))
        pipe.release()
        assert server.exit_code() == 0
    pipe.path.unlink()
    pipe.path.touch()
    with durable(tmp_path / "data") as server, Client(server.url) as client:
        assert [client.get_result(task_id, wait=None) for task_id in ids] == [[7], [8]]


def test_deadlines_pass_while_the_server_is_down(tmp_path: Path) -> None:
    with durable(tmp_path / "data") as server, Client(server.url) as client:
        running = client.submit_task("slow_double", np.ones(1), run_within=1, seconds=60)
        while client.status(running)["status"] == "queued":
            pass
        waiting = client.submit_task("slow_double", np.ones(1), start_within=1)
        kill(server)
    time.sleep(1)  # the deadlines are times of day, and no server is there whose clock could be set
    with durable(tmp_path / "data") as server, Client(server.url) as client:
        assert client.status(waiting)["status"] == "expired"
        with pytest.raises(GoneError, match="start_within"):
            client.get_result(waiting)
        with pytest.raises(TaskFailedError) as failed:
            client.get_result(running, wait=None)
        assert failed.value.code == "timeout"


def test_the_second_server_on_a_data_directory_refuses_to_start(tmp_path: Path) -> None:
    with durable(tmp_path) as server:
        done = finished(*command(tmp_path))
        assert done.returncode == 2
        assert f"another ndserve (process {server.process.pid}) uses the data directory {tmp_path}" in done.stderr
        assert "Traceback" not in done.stderr
        assert answer(server, "GET", "/health/ready").status == 200


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with durable(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "tasks.sqlite3") as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    done = finished(*command(tmp_path))
    assert done.returncode == 2
    assert "schema version 99" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_refuses_what_does_not_fit_and_nothing_else(tmp_path: Path) -> None:
    """A limit to the size of a file does what a full disk does: the write fails."""
    with durable(tmp_path) as server, Client(server.url, patience=0) as client:
        pid = server.process.pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        with pytest.raises(StoreFullError):
            client.submit_task("identity", LARGE)
        np.testing.assert_array_equal(client.run("identity", np.arange(3)), np.arange(3))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        np.testing.assert_array_equal(client.run("identity", LARGE), LARGE)
        assert client.health_check()["store"]["tasks"] == 2
        assert not list(tmp_path.glob("arrays/*/*.tmp"))


def test_a_database_that_cannot_grow_refuses_submits_and_recovers_when_it_can(tmp_path: Path) -> None:
    small = np.ones(4_000, np.float32)
    with durable(tmp_path) as server, Client(server.url, patience=0) as client:
        size = max(file.stat().st_size for file in tmp_path.glob("tasks.sqlite3*"))
        limit = max(size, 1 << 20)  # of any file: the log of the database soon meets it
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        accepted: list[str] = []
        refusal: ServerError | None = None
        while refusal is None:
            try:
                accepted.append(client.submit_task("identity", small))
            except ServerError as error:
                refusal = error
        assert refusal.status in (503, 507)
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        accepted.append(client.submit_task("identity", small))
        for task_id in accepted:
            np.testing.assert_array_equal(client.get_result(task_id, wait=None), small)
        kill(server)
    with durable(tmp_path) as server, Client(server.url) as client:
        assert sorted(task["task_id"] for task in client.tasks(state="succeeded")) == sorted(accepted)


def test_the_data_directory_can_be_copied_while_the_server_is_down(tmp_path: Path) -> None:
    with durable(tmp_path / "a") as server, Client(server.url) as client:
        task_id = client.submit_task("identity", LARGE)
        kill(server)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with durable(tmp_path / "b") as server, Client(server.url) as client:
        np.testing.assert_array_equal(client.get_result(task_id, wait=None), LARGE)


def test_full_durability_serves_as_well(tmp_path: Path) -> None:
    with durable(tmp_path, "--durability", "full") as server:
        submitted = answer(server, "POST", "/tasks/identity", npy(LARGE))
        assert submitted.status == 202
        kill(server)
    with durable(tmp_path, "--durability", "full") as server, Client(server.url) as client:
        np.testing.assert_array_equal(client.get_result(submitted.document["task_id"], wait=None), LARGE)

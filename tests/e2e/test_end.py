"""How the server ends: after SIGTERM it finishes what it has accepted, within the time that it has for it."""

from __future__ import annotations

import asyncio
import signal

from tests.e2e.client import Connection, Pipe, connections, npy, run
from tests.e2e.running import RunningServer, serving


async def hold(connection: Connection, pipe: Pipe) -> None:
    """Send a task that runs and stands at the pipe; its answer is still to be received."""
    connection.send("POST", f"/tasks/fifo?wait=40&path={pipe.path}", npy([0]))
    await pipe.reached()


def test_after_sigterm_running_and_queued_tasks_end_and_their_clients_get_the_results(
    server: RunningServer, pipe: Pipe
) -> None:
    async def test() -> None:
        async with connections(server, 6) as (holder, *others):
            await hold(holder, pipe)
            for number, connection in enumerate(others):
                task_id = await connection.submit("/tasks/identity", [number])
                connection.send("GET", f"/result/{task_id}?wait=40")
            await asyncio.to_thread(server.terminate)
            pipe.release()
            assert (await holder.receive()).array.tolist() == [0]
            results = [(await connection.receive()).array.tolist() for connection in others]
            assert results == [[number] for number in range(5)]

    run(test())
    assert server.exit_code() == 0


def test_a_task_that_takes_longer_than_the_drain_is_told_of_the_shutdown(pipe: Pipe) -> None:
    async def test(server: RunningServer) -> None:
        async with connections(server, 2) as (holder, queued):
            await hold(holder, pipe)
            task_id = await queued.submit("/tasks/identity", [1])
            queued.send("GET", f"/result/{task_id}?wait=40")
            await asyncio.to_thread(server.terminate)
            for connection in (holder, queued):
                answer = await connection.receive()
                assert (answer.status, answer.document["code"]) == (503, "shutting_down")

    with serving("--drain-seconds", "1") as server:
        run(test(server))
        assert server.exit_code() == 0


def test_an_idle_server_ends_at_once_and_closes_idle_connections(server: RunningServer) -> None:
    async def test() -> None:
        async with connections(server, 2) as (used, unused):
            assert (await used.call("GET", "/health/live")).status == 200
            await asyncio.to_thread(server.terminate)
            assert await used.is_closed()
            assert await unused.is_closed()

    run(test())
    assert server.exit_code() == 0


def test_a_second_sigterm_ends_a_server_that_still_drains(pipe: Pipe) -> None:
    async def test(server: RunningServer) -> int:
        async with connections(server, 1) as (holder,):
            await hold(holder, pipe)
            await asyncio.to_thread(server.terminate)
            server.process.send_signal(signal.SIGTERM)
            return await asyncio.to_thread(server.process.wait, 20)

    with serving("--drain-seconds", "3600") as server:
        run(test(server))


def test_ctrl_c_ends_the_server_well(server: RunningServer) -> None:
    server.process.send_signal(signal.SIGINT)
    assert server.exit_code() == 0
    assert "Traceback" not in "".join(server.lines)

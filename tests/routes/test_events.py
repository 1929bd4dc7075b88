"""A stream of events while its task goes on: what it tells when, and that nothing is told twice or left out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ndserve.engine.tasks import Tasks
from ndserve.routes.app import App
from ndserve.routes.tasks import _follow, _news
from ndserve.types import TaskState
from tests.routes.bodies import npy
from tests.routes.gates import serving_held
from tests.routes.test_course import ended, events, submit
from tests.routes.test_hang_up import Client, held_task, run, running
from tests.unit.engine.rig import batch_key, make_task


async def submit_to(app: App, target: str, array: Any = (0.0, 1.0)) -> str:
    client = Client(app, "POST", f"/tasks/{target}")
    client.push(npy(array))
    await client.start()
    task_id: str = json.loads(client.body)["task_id"]
    return task_id


def follow(app: App, task_id: str) -> tuple[Client, asyncio.Task[None]]:
    client = Client(app, "GET", f"/tasks/{task_id}/events")
    client.push(b"")
    return client, client.start()


async def heard(client: Client, text: bytes) -> None:
    while text not in client.body:  # noqa: ASYNC110 - the stream tells its client alone
        await asyncio.sleep(0)


def names(body: bytes) -> list[str]:
    return [line.removeprefix("event: ") for line in body.decode().splitlines() if line.startswith("event: ")]


def test_a_stream_tells_progress_while_the_task_runs_and_ends_with_it() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            client, stream = follow(app, await submit_to(app, "reporting"))
            await heard(client, b'data: {"fraction":0.25,"message":"a quarter"}')
            assert not stream.done()
            gate.open()
            await stream
            assert names(client.body)[-2:] == ["progress", "end"]
            assert len(service.ledger.watchers) == 0

    run(test())


def test_all_who_follow_a_task_hear_its_end() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            task_id = await held_task(app, gate)
            streams = [follow(app, task_id) for _ in range(3)]
            for client, _ in streams:
                await heard(client, b'"status":"running"')
            assert len(service.ledger.watchers) == 3
            gate.open()
            await asyncio.gather(*(stream for _, stream in streams))
            assert {names(client.body)[-1] for client, _ in streams} == {"end"}

    run(test())


def test_a_queued_task_that_is_cancelled_ends_its_stream_without_having_run() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            await held_task(app, gate)
            task_id = await submit_to(app, "identity")
            client, stream = follow(app, task_id)
            await heard(client, b"event: position")
            service.cancel(await service.find(task_id))
            await stream
            assert names(client.body) == ["state", "position", "end"]

    run(test())


def test_a_stream_ends_when_the_server_does() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            client, stream = follow(app, await held_task(app, gate))
            await heard(client, b'"status":"running"')
            service.waiters.close()
            service.ledger.watchers.notify_all()
            await stream
            assert names(client.body) == ["state", "state"]

    run(test())


def test_a_start_that_is_heard_of_after_a_position_was_told_is_told_all_the_same() -> None:
    """The lane notes the time of a start, and the event loop hears of it a little later."""

    async def test() -> None:
        async with running() as (app, service, gate):
            await held_task(app, gate)
            task = await service.find(await submit_to(app, "identity"))
            tasks: Tasks = app.state.tasks
            stream = _follow(tasks, task, 0)
            assert b"state" in await anext(stream)
            before = service.clock()
            assert b"position" in await anext(stream)
            task.start(before)
            service.ledger.watchers.notify(task)
            assert b'"status":"running"' in await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]

    run(test())


def test_the_ids_rise_also_where_all_happens_in_one_moment() -> None:
    task = make_task("a", batch_key())
    task.start(task.created)
    task.settle(TaskState.SUCCEEDED, task.created, outputs={})
    task.public = True
    marks = [mark for mark, _, _ in _news(task)]
    assert marks == sorted(set(marks))
    assert len(marks) == 3


def test_a_client_that_comes_back_at_any_event_hears_just_the_rest() -> None:
    with serving_held() as (server, gate):
        task_id = submit(server, "reporting")
        gate.reached()
        gate.open()
        ended(server, task_id)
        whole = events(server, task_id)
        for number, event in enumerate(whole[:-1]):
            assert events(server, task_id, event["id"]) == whole[number + 1 :]


@pytest.mark.parametrize("last", ["9" * 5000, "-1", "1.5", "\u0661"])
def test_a_last_event_id_that_cannot_be_ours_starts_from_the_beginning(last: str) -> None:
    with serving_held() as (server, _):
        task_id = submit(server, "identity")
        ended(server, task_id)
        answer = server.http.get(f"/tasks/{task_id}/events", headers={b"last-event-id": last.encode()})
        assert names(answer.content) == ["state", "state", "end"]


def test_a_stream_is_not_to_be_kept_by_anybody_on_the_way() -> None:
    with serving_held() as (server, _):
        answer = server.http.get(f"/tasks/{submit(server)}/events")
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("root", ["", "/api"])
def test_another_run_tells_where_its_result_will_be_behind_a_proxy_too(root: str) -> None:
    async def test() -> None:
        async with running() as (app, _, _):
            task_id = await submit_to(app, "picky", [-1.0])
            _, stream = follow(app, task_id)
            await stream
            client = Client(app, "POST", f"/tasks/{task_id}/retry", root_path=root)
            client.push(b"")
            await client.start()
            assert client.status == 202
            headers: dict[Any, Any] = dict(client.sent[0]["headers"])
            assert headers[b"location"].decode() == f"{root}/result/{task_id}"

    run(test())


def test_an_end_that_comes_while_the_news_is_told_is_told_as_well() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            task = await service.find(await held_task(app, gate))
            stream = _follow(Tasks(service), task, 0)
            told = [await anext(stream)]
            gate.open()
            await service.waiters.add(task.id)
            told += [event async for event in stream]
            assert names(b"".join(told)) == ["state", "state", "end"]

    run(test())

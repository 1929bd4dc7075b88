"""Clients that hang up, and waits that end: the application called as a server calls it, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from ndserve.engine.service import InferenceService
from ndserve.main import create_app
from ndserve.routes.app import App
from ndserve.settings import Settings
from tests.routes.bodies import PROCESSES, array_of, floats, npy
from tests.routes.gates import HANG, Gate

Message = MutableMapping[str, Any]


class Client:
    """One request. What the server is to receive is pushed by the test; `asked` says that it waits for more."""

    def __init__(self, app: App, method: str, path: str, query: str = "", root_path: str = "") -> None:
        self.sent: list[Message] = []
        self.asked = asyncio.Event()
        self._app = app
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": root_path + path,
            "root_path": root_path,
            "query_string": query.encode(),
            "headers": [(b"content-type", b"application/x-npy")],
        }

    def push(self, body: bytes, *, more: bool = False) -> None:
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._app(self._scope, self._receive, self._send))

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(bytes(message["body"]) for message in self.sent[1:])

    async def _receive(self) -> Message:
        if self._incoming.empty():
            self.asked.set()
        return await self._incoming.get()

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[App, InferenceService, Gate]]:
    app = create_app(Settings(device="cpu", store="memory", processes=PROCESSES))
    gate = Gate()
    async with app.router.lifespan_context(app):
        try:
            yield app, app.state.service, gate
        finally:
            gate.open()


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(HANG):
            await test

    asyncio.run(bounded())


async def held_task(app: App, gate: Gate) -> str:
    """The id of a task that stands at the gate."""
    client = Client(app, "POST", "/tasks/held")
    client.push(npy(floats(2)))
    await client.start()
    await asyncio.to_thread(gate.reached)
    (location,) = [value for name, value in client.sent[0]["headers"] if name == b"location"]
    return str(location.decode().removeprefix("/result/"))


def test_a_client_that_hangs_up_stops_waiting() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            client = Client(app, "GET", f"/result/{await held_task(app, gate)}", "wait=3600")
            request = client.start()
            await client.asked.wait()
            assert len(service.waiters) == 1
            client.hang_up()
            await request
            assert len(service.waiters) == 0
            assert client.sent == []

    run(test())


def test_a_client_that_hangs_up_while_it_waits_for_a_known_task_does_not_end_it() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            task_id = await held_task(app, gate)
            client = Client(app, "GET", f"/result/{task_id}", "wait=3600")
            request = client.start()
            await client.asked.wait()
            client.hang_up()
            await request
            task = await service.find(task_id)
            waiter = service.waiters.add(task.id)
            gate.open()
            assert await waiter
            assert task.outputs is not None

    run(test())


def test_a_client_that_hangs_up_during_a_submit_that_waits_takes_its_task_along() -> None:
    async def test() -> None:
        async with running() as (app, service, _):
            client = Client(app, "POST", "/tasks/held", "wait=3600")
            client.push(npy(floats(2)))
            request = client.start()
            await client.asked.wait()
            client.hang_up()
            await request
            assert service.stats()["ended"]["cancelled"] == 1
            assert service.stats()["queue"]["live"] == 0
            assert len(service.waiters) == 0
            assert client.sent == []

    run(test())


def test_a_client_that_hangs_up_in_the_middle_of_its_body_queues_nothing() -> None:
    async def test() -> None:
        async with running() as (app, service, _):
            client = Client(app, "POST", "/tasks/identity")
            client.push(npy(floats(2))[:20], more=True)
            request = client.start()
            await client.asked.wait()
            client.hang_up()
            await request
            assert service.stats()["queue"]["live"] == 0
            assert service.store.usage().tasks == 0
            assert client.sent == []

    run(test())


def test_a_client_that_hangs_up_before_its_body_queues_nothing() -> None:
    async def test() -> None:
        async with running() as (app, service, _):
            client = Client(app, "POST", "/tasks/identity")
            client.hang_up()
            await client.start()
            assert service.store.usage().tasks == 0
            assert client.sent == []

    run(test())


def test_room_that_a_body_took_while_it_arrived_is_given_back() -> None:
    """A queue of 20,000 bytes takes a body of 16,000 any number of times, when each hangs up or is refused."""

    async def test() -> None:
        app = create_app(Settings(device="cpu", store="memory", max_queue_bytes=20_000))
        async with app.router.lifespan_context(app):
            for _ in range(3):
                client = Client(app, "POST", "/tasks/identity")
                client.push(bytes(16_000), more=True)
                client.hang_up()
                await client.start()
                assert client.sent == []
            client = Client(app, "POST", "/tasks/identity", "wait=20")
            whole = npy(floats(4000))
            client.push(whole[:9000], more=True)
            client.push(whole[9000:])
            await client.start()
            assert client.status == 200

    run(test())


def test_a_body_in_pieces_is_put_together_in_order() -> None:
    async def test() -> None:
        async with running() as (app, _, _):
            client = Client(app, "POST", "/tasks/identity", "wait=20")
            body = npy(floats(50))
            for start in range(0, len(body), 7):
                client.push(body[start : start + 7], more=start + 7 < len(body))
            await client.start()
            assert array_of(client.body).tolist() == floats(50).tolist()

    run(test())


def test_a_long_poll_is_answered_by_the_end_of_its_task_and_not_by_a_timer() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            client = Client(app, "GET", f"/result/{await held_task(app, gate)}", "wait=3600")
            request = client.start()
            await client.asked.wait()
            gate.open()
            await request
            assert client.status == 200
            assert array_of(client.body).tolist() == [0, 1]
            assert len(service.waiters) == 0

    run(test())


def test_all_who_wait_for_one_task_are_answered() -> None:
    async def test() -> None:
        async with running() as (app, service, gate):
            task_id = await held_task(app, gate)
            clients = [Client(app, "GET", f"/result/{task_id}", "wait=3600") for _ in range(5)]
            requests = [client.start() for client in clients]
            for client in clients:
                await client.asked.wait()
            assert len(service.waiters) == 5
            gate.open()
            await asyncio.gather(*requests)
            assert [client.status for client in clients] == [200] * 5

    run(test())


def test_a_prefix_that_a_proxy_takes_off_is_in_the_location() -> None:
    async def test() -> None:
        async with running() as (app, _, _):
            client = Client(app, "POST", "/tasks/identity", root_path="/api")
            client.push(npy([1]))
            await client.start()
            assert client.status == 202
            assert dict(client.sent[0]["headers"])[b"location"].startswith(b"/api/result/")

    run(test())

"""A server that is killed at any moment, again and again: no task is lost, doubled, stuck or misreported."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndserve.types import HostArray
from tests.e2e.client import Answer, Connection, connections, npy, run
from tests.e2e.durable import durable, kill
from tests.e2e.running import RunningServer

KILLS = 20
LOADERS = 6
LARGE = 40_000
"""Items of float32 that make an array large enough for a file of its own."""


@dataclass
class Books:
    """Every task that was accepted: what it must come to, and what was seen of its end."""

    expected: dict[str, HostArray | None] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    """Those with a DELETE on its way: it cancels them, or removes what they came to where they have ended before."""
    ends: dict[str, tuple[str, str]] = field(default_factory=dict)

    def see(self, task_id: str, answer: Answer) -> str:
        """Note a status, and give its state. An end that has been seen once never changes."""
        if answer.status == 410:
            assert task_id in self.cancelled, answer.body
            return "removed"
        assert answer.status == 200, (task_id, answer.body)
        status = answer.document
        state: str = status["status"]
        if state in ("queued", "running"):
            assert task_id not in self.ends, f"an end was taken back: {status}"
        else:
            end = state, status["ended"]
            assert self.ends.setdefault(task_id, end) == end, f"ended twice: {status}"
        return state


async def load(books: Books, server: RunningServer, chance: random.Random) -> None:
    """Submit tasks of every kind, cancel some and look at others, until the server is gone."""
    with contextlib.suppress(OSError, EOFError):
        async with connections(server, 1) as (connection,):
            while True:
                await one_task(books, connection, chance)


async def one_task(books: Books, connection: Connection, chance: random.Random) -> None:
    kind = chance.choice(["slow", "slow", "small", "large", "fails", "expires", "cancel", "look"])
    value = float(chance.randrange(1, 1000))
    array = np.full(LARGE if kind == "large" else 4, value, np.float32)
    if kind == "look" and books.expected:
        task_id = chance.choice(list(books.expected))
        books.see(task_id, await connection.call("GET", f"/tasks/{task_id}"))
    elif kind == "fails":
        await accepted(books, connection, "/tasks/positive", -array, None)
    elif kind == "expires":
        await accepted(books, connection, "/tasks/slow_double?start_within=0.05&priority=0", array, array * 2)
    elif kind == "cancel":
        cancelled = await accepted(books, connection, "/tasks/slow_double?priority=1", array, array * 2)
        if cancelled is not None:
            books.cancelled.add(cancelled)  # before the answer: it may be the last thing that the server does
            await connection.call("DELETE", f"/tasks/{cancelled}")
    elif kind == "slow":
        await accepted(books, connection, "/tasks/slow_double", array, array * 2)
    else:
        await accepted(books, connection, "/tasks/identity", array, array)


async def accepted(
    books: Books, connection: Connection, path: str, array: HostArray, expected: HostArray | None
) -> str | None:
    answer = await connection.call("POST", path, npy(array))
    if answer.status == 429:
        return None
    assert answer.status == 202, answer.body
    task_id: str = answer.document["task_id"]
    books.expected[task_id] = expected
    return task_id


async def until_killed(books: Books, server: RunningServer, chance: random.Random) -> None:
    loaders = [asyncio.create_task(load(books, server, chance)) for _ in range(LOADERS)]
    await asyncio.sleep(chance.uniform(0.02, 0.4))
    await asyncio.to_thread(kill, server)
    await asyncio.gather(*loaders)


async def settle(books: Books, server: RunningServer) -> Counter[str]:
    """Wait until every accepted task has ended, and check each; gives the number of tasks by state."""
    states: Counter[str] = Counter()
    tasks = iter(books.expected.items())

    async def check_next(connection: Connection) -> None:
        for task_id, expected in tasks:
            answer = await connection.call("GET", f"/tasks/{task_id}?wait=40")
            state = books.see(task_id, answer)
            result = await connection.call("GET", f"/result/{task_id}")
            if state == "removed":
                assert result.status == 410
                continue
            states[state] += 1
            check(answer.document, result, expected, task_id in books.cancelled)

    async with connections(server, LOADERS) as several:
        await asyncio.gather(*map(check_next, several))
        assert await listed(several[0]) >= states
    return states


def check(status: dict[str, Any], result: Answer, expected: HostArray | None, cancelled: bool) -> None:
    state = status["status"]
    if state == "succeeded":
        assert expected is not None
        np.testing.assert_array_equal(result.array, expected)
    elif state == "failed":
        assert expected is None or (status["error"]["code"], status["attempts"]) == ("interrupted", 3), status
    elif state == "cancelled":
        assert cancelled
        assert result.status == 410
    else:
        assert (state, result.status) == ("expired", 410)
        assert status["start_by"] is not None


async def listed(connection: Connection) -> Counter[str]:
    """The number of all tasks by state, from the list, page by page. None may be unfinished."""
    states: Counter[str] = Counter()
    cursor = ""
    while True:
        page = (await connection.call("GET", f"/tasks?limit=500{cursor}")).document
        states.update(task["status"] for task in page["tasks"])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert not states["queued"], states
    assert not states["running"], states
    return states


@pytest.mark.timeout(120)
def test_the_books_balance_after_twenty_kills_at_random_moments(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")  # noqa: T201 - to be seen when it fails
    chance, books = random.Random(seed), Books()
    for _ in range(KILLS):
        with durable(tmp_path) as server:
            run(until_killed(books, server, chance))
    with durable(tmp_path) as server:
        states = run(settle(books, server), 90)
    assert all(states[state] > 0 for state in ("succeeded", "failed", "cancelled")), states
    logging.info("%d tasks accepted over %d kills: %s", len(books.expected), KILLS, dict(states))


def test_a_task_that_kills_the_server_is_run_three_times_and_then_fails_as_interrupted(tmp_path: Path) -> None:
    count = tmp_path / "count"

    async def submit(server: RunningServer) -> str:
        async with connections(server, 1) as (connection,):
            return await connection.submit(f"/tasks/deadly?count={count}", [1.0])

    async def status(server: RunningServer) -> dict[str, Any]:
        async with connections(server, 1) as (connection,):
            return (await connection.call("GET", f"/tasks/{task_id}?wait=20")).document

    with durable(tmp_path / "data") as server:
        task_id = run(submit(server))
        server.process.wait(20)
    for _ in range(2):
        with durable(tmp_path / "data") as server:
            server.process.wait(20)
    with durable(tmp_path / "data") as server:
        told = run(status(server))
    assert (told["status"], told["attempts"], told["error"]["code"]) == ("failed", 3, "interrupted")
    assert count.read_text() == "run\n" * 3

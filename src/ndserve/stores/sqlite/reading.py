"""What is read from the database: single rows at once, on the event loop; anything longer on a thread.

A row is found by an index within microseconds, and reading never waits for the writer (WAL). Handing that to a thread
would cost many times as much.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ndserve.stores.base import Gone, Group, GroupState, Holder, Query
from ndserve.stores.sqlite import rows
from ndserve.stores.sqlite.schema import connect
from ndserve.types import Task, TaskState

T = TypeVar("T")

_TASK = f"SELECT {rows.COLUMNS}, arrays FROM tasks WHERE id = ?"  # noqa: S608 - our own text
_ENDED_BYTES = "SELECT nbytes FROM tasks WHERE id = ? AND ended IS NOT NULL"
_TRACE = "SELECT reason FROM traces WHERE id = ?"
_HOLDER = (
    "SELECT id, coalesce(json_extract(options, '$.fingerprint'), '') FROM tasks WHERE idempotency_key = ?1"
    " UNION ALL SELECT id, fingerprint FROM groups WHERE idempotency_key = ?1"
)
_GROUP = "SELECT id, target, version, total, created, idempotency_key, fingerprint, expires FROM groups WHERE id = ?"
_COUNTS = "SELECT state, count(*) FROM tasks WHERE group_id = ? GROUP BY state"


class Reader:
    """Two connections that only read: one for the event loop's thread, one for a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._here = _read_only(path)
        self._there = _read_only(path)
        self._thread = ThreadPoolExecutor(1, "ndserve-store-reader")

    def task(self, task_id: str) -> tuple[Any, ...] | None:
        """The columns of `rows.COLUMNS` and the arrays' bytes of a task's row."""
        return self._one(_TASK, task_id)

    def ended_bytes(self, task_id: str) -> int | None:
        """Bytes of the arrays of a task that has ended; None when there is none."""
        row = self._one(_ENDED_BYTES, task_id)
        return int(row[0]) if row else None

    def trace(self, task_id: str) -> Gone | None:
        row = self._one(_TRACE, task_id)
        return Gone(*row) if row else None

    def holder(self, idempotency_key: str) -> Holder | None:
        row = self._one(_HOLDER, idempotency_key)
        return Holder(*row) if row else None

    def group(self, group_id: str) -> Group | None:
        row = self._one(_GROUP, group_id)
        return Group(*row) if row else None

    async def group_state(self, group: Group) -> GroupState:
        counts = Counter({TaskState(state): number for state, number in await self.rows(_COUNTS, (group.id,))})
        return GroupState(group, counts)

    async def page(self, query: Query) -> list[Task]:
        wanted = {"seq < ?": query.before, "state = ?": query.state, "target = ?": query.target}
        given = {condition: value for condition, value in wanted.items() if value is not None}
        if query.group is not None:
            given["group_id = ?"] = query.group
        where = " AND ".join(given) or "TRUE"
        statement = f"SELECT {rows.COLUMNS} FROM tasks WHERE {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608 - our own
        found = await self.rows(statement, (*given.values(), query.limit))
        return [rows.read(row, None) for row in found]

    async def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return await self.apart(lambda: self._there.execute(statement, values).fetchall())

    async def apart(self, work: Callable[[], T]) -> T:
        """What `work` gives, called on the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        self._thread.shutdown()
        self._here.close()
        self._there.close()

    def _one(self, statement: str, value: str) -> tuple[Any, ...] | None:
        # All rows, although there is one: a statement that is not run to its end would hold the log back for good.
        found = self._here.execute(statement, (value,)).fetchall()
        return found[0] if found else None


def _read_only(path: Path) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("PRAGMA query_only=ON")
    return connection

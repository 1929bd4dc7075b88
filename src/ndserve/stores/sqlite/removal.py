"""How tasks leave the database, on the writer's thread: rows out, traces in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ndserve.stores.base import TRACE_SECONDS, Gone

MAX_TRACES = 1_000_000

EXPIRED = Gone("its result has expired")

_EXPIRED = (
    "SELECT seq, id, nbytes, filed, group_id FROM tasks WHERE expires <= ? AND ended IS NOT NULL"
    " ORDER BY expires LIMIT ?"
)
_ENDED = "SELECT seq, id, nbytes, filed, group_id FROM tasks WHERE seq = ? AND id = ? AND ended IS NOT NULL"
_DELETE = "DELETE FROM tasks WHERE seq = ?"
_TRACE = "INSERT OR REPLACE INTO traces (id, reason, until) VALUES (?, ?, ?)"
_OLDEST_TRACES = "SELECT seq, until FROM traces ORDER BY seq LIMIT ?"
_SURPLUS_TRACES = "DELETE FROM traces WHERE seq <= (SELECT max(seq) FROM traces) - ?"


class Removed(NamedTuple):
    """A task that is no longer there."""

    seq: int
    id: str
    nbytes: int
    filed: int
    group_id: str | None


def remove_expired(connection: sqlite3.Connection, now: float, limit: int) -> list[Removed]:
    """Remove up to `limit` tasks whose time is over, oldest first, and as many traces."""
    removed = [Removed(*row) for row in connection.execute(_EXPIRED, (now, limit)).fetchall()]
    _delete(connection, removed, EXPIRED, now)
    old = [seq for seq, until in connection.execute(_OLDEST_TRACES, (limit,)).fetchall() if until <= now]
    connection.executemany("DELETE FROM traces WHERE seq = ?", [(seq,) for seq in old])
    return removed


def remove_tasks(
    connection: sqlite3.Connection, keys: Iterable[tuple[int, str]], gone: Gone, now: float
) -> list[Removed]:
    """Remove those of the tasks, by number and id, that have ended and are still there.

    By both, because a number is given again where the one with the highest was removed before a new start.
    """
    removed = [Removed(*row) for key in keys for row in connection.execute(_ENDED, key).fetchall()]
    _delete(connection, removed, gone, now)
    return removed


def _delete(connection: sqlite3.Connection, removed: Sequence[Removed], gone: Gone, now: float) -> None:
    if not removed:
        return
    until = now + TRACE_SECONDS
    connection.executemany(_DELETE, [(task.seq,) for task in removed])
    connection.executemany(_TRACE, [(task.id, gone.reason, until) for task in removed])
    for group in {task.group_id for task in removed if task.group_id}:
        left = connection.execute("SELECT 1 FROM tasks WHERE group_id = ? LIMIT 1", (group,)).fetchone()
        if not left:
            connection.execute("DELETE FROM groups WHERE id = ?", (group,))
            connection.execute(_TRACE, (group, gone.reason, until))
    connection.execute(_SURPLUS_TRACES, (MAX_TRACES,))

"""Webhook messages in the database."""

from __future__ import annotations

from collections.abc import Awaitable

from ndserve.stores.base import Delivery
from ndserve.stores.sqlite.reading import Reader
from ndserve.stores.sqlite.writer import Change, Writer

INSERT_DELIVERY = "INSERT OR IGNORE INTO outbox (id, url, body, attempts, due) VALUES (?, ?, ?, ?, ?)"

_DUE = "SELECT id, url, body, attempts, due FROM outbox WHERE due <= ? ORDER BY due LIMIT ?"
_NEXT = "SELECT min(due) FROM outbox WHERE due > ?"
_DONE = "DELETE FROM outbox WHERE id = ?"
_POSTPONE = "UPDATE outbox SET attempts = attempts + 1, due = ? WHERE id = ?"


class SqliteOutbox:
    """See `ndserve.stores.base.Outbox`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def due(self, now: float, limit: int) -> list[Delivery]:
        return [Delivery(*row) for row in await self._reader.rows(_DUE, (now, limit))]

    async def next_due(self, after: float) -> float | None:
        ((due,),) = await self._reader.rows(_NEXT, (after,))
        return None if due is None else float(due)

    def done(self, delivery: Delivery) -> Awaitable[None]:
        return self._writer.submit(Change(rows={_DONE: [(delivery.id,)]}, due=True))

    def postpone(self, delivery: Delivery, due: float) -> Awaitable[None]:
        return self._writer.submit(Change(rows={_POSTPONE: [(due, delivery.id)]}, due=True))

"""Webhooks: what is said of an ended task, and that it arrives, at least once, whatever dies in between.

A message goes into the store's outbox in the commit that ends its task. It leaves the outbox when it has been
delivered or given up. So a server that dies sends it at its next start, perhaps for the second time: the receiver tells
by `webhook-id`, which stays the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from urllib.parse import urlsplit

import orjson

from ndserve.engine.status import describe, rfc3339
from ndserve.stores.base import Delivery, Outbox
from ndserve.types import Task
from ndserve.webhooks import Sender, next_try

logger = logging.getLogger(__name__)

AT_ONCE = 32
"""Messages on their way at the same time."""

PAUSE_SECONDS = 5.0
"""How long an outbox that cannot be read is left alone."""


class Courier:
    """Sends what lies in an outbox as it falls due. All methods are for the event loop's thread."""

    def __init__(self, sender: Sender, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        """`jitter` gives a number from 0 to 1, by which attempts of many messages drift apart."""
        self._sender = sender
        self._clock = clock
        self._jitter = jitter
        self._news = asyncio.Event()
        self._on_their_way: dict[str, asyncio.Task[None]] = {}
        self._running: asyncio.Task[None] | None = None

    def notice(self, task: Task) -> Delivery | None:
        """The message about an ended task, where its webhook asks for one."""
        webhook, ended = task.options.webhook, task.ended
        if webhook is None or ended is None or task.state not in webhook.events:
            return None
        # The end of a task that is run again is another event, with an id of its own.
        # Its id stands before a dot in what is signed, and a client may have chosen the task's: no dot may move that.
        name = f"msg_{task.id.replace('.', '~')}_{int(ended * 1000)}"
        told = describe(task, ending=True)
        body = {"type": f"task.{task.state.value}", "timestamp": rfc3339(ended), "data": told}
        return Delivery(name, webhook.url, orjson.dumps(body), 0, ended)

    def nudge(self) -> None:
        """Look into the outbox: something may be there."""
        self._news.set()

    def start(self, outbox: Outbox) -> None:
        self._running = asyncio.create_task(self._run(outbox))

    async def close(self) -> None:
        """Stop. What is on its way is sent again at the next start, unless it has arrived by then."""
        if self._running is None:
            return
        tasks = [self._running, *self._on_their_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._sender.aclose()

    async def _run(self, outbox: Outbox) -> None:
        while True:
            self._news.clear()
            try:
                timeout = await self._send_due(outbox)
            except Exception:  # of the store; the messages are still there
                logger.exception("the outbox cannot be read; it is tried again in %g s", PAUSE_SECONDS)
                timeout = PAUSE_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), timeout)

    async def _send_due(self, outbox: Outbox) -> float | None:
        """Send what is due and not on its way; gives the seconds until more is, None for never."""
        now = self._clock()
        for delivery in await outbox.due(now, AT_ONCE + len(self._on_their_way)):
            if delivery.id not in self._on_their_way and len(self._on_their_way) < AT_ONCE:
                self._on_their_way[delivery.id] = asyncio.create_task(self._deliver(outbox, delivery))
        following = await outbox.next_due(now)
        return None if following is None else max(0.0, following - self._clock())

    async def _deliver(self, outbox: Outbox, delivery: Delivery) -> None:
        try:
            sent = await self._sender.send(delivery.url, delivery.id, delivery.body, self._clock())
            again = None
            if not sent.delivered and not sent.gone:
                again = next_try(delivery.attempts + 1, self._clock(), self._jitter())
            if not sent.delivered:
                where = urlsplit(delivery.url).hostname  # path and query may be secrets
                fate = "is given up" if again is None else "is tried again"
                logger.warning("webhook %s to %s has failed, and %s: %s", delivery.id, where, fate, sent.error)
            await (outbox.done(delivery) if again is None else outbox.postpone(delivery, again))
        except Exception:  # of the store; not at once again, for the receiver's sake
            logger.exception("what became of webhook %s could not be noted", delivery.id)
            await asyncio.sleep(PAUSE_SECONDS)
        finally:
            del self._on_their_way[delivery.id]
            self.nudge()

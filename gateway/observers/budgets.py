"""Tells of budgets that have been used up to a threshold: a metric and, where one is configured, a webhook."""

import asyncio
import hashlib
import hmac
import logging
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from prometheus_client import CollectorRegistry, Counter

from ..limits import Orphan, Threshold
from ..limits.headers import dollars, owner_words
from ..limits.rules import FIELDS
from ..limits.windows import start, window
from ..tls import tls_for

if TYPE_CHECKING:
    from .told import Told

log = logging.getLogger("sluice.budgets")

WAITING = 1000
"""Messages that may wait for the receiver; further ones are dropped, and the metric still counts them."""
SECONDS = 5.0
"""For one delivery."""
PAUSES = (0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 60)
"""Seconds before each further attempt: a receiver that is being restarted loses nothing."""


class BudgetObserver:
    """Called by the limiter, on the request path: it only counts and queues."""

    def __init__(
        self,
        registry: CollectorRegistry,
        session: aiohttp.ClientSession,
        webhook: str | None,
        told: "Told | None" = None,
        secret: bytes | None = None,
    ) -> None:
        """``told``: what keeps the workers from telling the webhook all the same; closed with this.

        ``secret`` signs what the webhook is told.
        """
        self._passed = Counter(
            "sluice_budget_thresholds_passed",
            "Budgets that were used up to a threshold, by the kind of budget and the percentage.",
            ["budget", "percent"],
            registry=registry,
        )
        self._dropped = Counter(
            "sluice_budget_webhooks_failed",
            "Messages about budgets that the webhook's receiver did not take.",
            registry=registry,
        )
        self._orphaned = Counter(
            "sluice_reservations_orphaned",
            "Reservations of dead workers that were settled at their last checkpoint, or in full where there is none.",
            registry=registry,
        )
        self._session = session
        self._told = told
        self._secret = secret
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(WAITING)
        self._task = asyncio.create_task(self._deliver(webhook)) if webhook else None

    def passed(self, threshold: Threshold) -> None:
        self._passed.labels(threshold.budget, str(threshold.percent)).inc()
        log.warning(
            "%s: %s has used %d %% of $%s",
            *(threshold.budget, owner_words(threshold.scope), threshold.percent, dollars(threshold.cap)),
        )
        if self._task is not None:
            try:
                self._queue.put_nowait(message(threshold))
            except asyncio.QueueFull:
                self._dropped.inc()

    def orphaned(self, _: Orphan) -> None:
        self._orphaned.inc()

    async def close(self) -> None:
        """Deliver what waits, for as long as one delivery may take; raises nothing."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(SECONDS):
                await self._queue.join()
        except TimeoutError:
            log.warning("%d messages about budgets were not delivered", self._queue.qsize())
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._told is not None:
            await self._told.close()

    async def _deliver(self, webhook: str) -> None:
        while True:
            one = await self._queue.get()
            try:
                await self._tell(webhook, one["id"], orjson.dumps(one))
            finally:
                self._queue.task_done()

    async def _tell(self, webhook: str, name: str, body: bytes) -> None:
        for pause in (0, *PAUSES):
            await asyncio.sleep(pause)
            if self._told is not None and not await self._told.take(name):
                return
            if await self._post(webhook, body):
                break
        else:
            self._dropped.inc()
        if self._told is not None:
            await self._told.note(name)

    async def _post(self, webhook: str, body: bytes) -> bool:
        headers = {"content-type": "application/json"}
        if self._secret is not None:
            headers["x-sluice-signature"] = f"sha256={hmac.digest(self._secret, body, 'sha256').hex()}"
        try:
            async with self._session.post(
                webhook,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(SECONDS),
                ssl=tls_for(webhook),
                allow_redirects=False,
            ) as response:
                return response.status < 300
        except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
            log.warning("the budget webhook failed: %s", type(exc).__name__)
            return False


def message(threshold: Threshold) -> dict[str, Any]:
    """What the webhook's receiver gets. ``id`` is the same from every worker: should two tell of it, it is known again."""
    now = time.time_ns() // 1_000_000
    period = FIELDS[threshold.budget].period
    since = start(period, window(period, now)) // 1000
    name = f"{threshold.shard} {threshold.scope} {threshold.budget} {since} {threshold.percent} {threshold.cap}"
    return {
        "id": hashlib.sha256(name.encode()).hexdigest()[:32],
        "event": "budget.threshold",
        "scope": threshold.scope,
        "budget": threshold.budget.removeprefix("budget."),
        "since": since,
        "percent": threshold.percent,
        "spent_usd": dollars(threshold.spent),
        "limit_usd": dollars(threshold.cap),
        "at": now // 1000,
    }

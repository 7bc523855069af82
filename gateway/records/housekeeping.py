"""What the records need once a minute: the roll-up, retention, expiry, and forgetting old changes."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import delete

from ..errors import StoreUnavailable
from .database import Database
from .stored import StoredCompletions
from .tables import changes
from .usage import UsageStore

log = logging.getLogger(__name__)

CHANGES_KEPT = 3600.0
"""Seconds; caches that heard nothing for ten minutes start again from nothing."""
_BATCHES = 100
"""Of each kind of work in one round, so that none starves the others."""
_PATIENCE = 2.0
"""Seconds that ``close`` lets a transaction end by itself: SQLite's lock outlives one that is cancelled half-way, and whoever
writes last would wait for it."""


class Housekeeper:
    """Any number of processes may run one: what one does the others find done."""

    def __init__(
        self,
        database: Database,
        usage: UsageStore,
        stored: StoredCompletions | None = None,
        *,
        retention_days: int | None = None,
        interval: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._usage = usage
        self._stored = stored
        self._retention_days = retention_days
        self._interval = interval
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_PATIENCE)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def round(self) -> None:
        """Do what is due; raises StoreUnavailable."""
        await self._until_done(self._usage.roll_up)
        if (days := self._retention_days) is not None:
            await self._until_done(lambda: self._usage.retire(days))
        if self._stored is not None:
            await self._until_done(self._stored.sweep)
        async with self._database.write() as connection:
            await connection.execute(delete(changes).where(changes.c.at < self._clock() - CHANGES_KEPT))

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                await self.round()
            except StoreUnavailable as error:
                log.warning("housekeeping has to wait: %s", error.message)
            except Exception:
                log.exception("housekeeping failed")
            # SQLAlchemy's statements are cycles. By itself the collector looks only once 50,000 objects are new, which
            # under steady load takes an hour: until then each round would stay.
            gc.collect(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._closing.wait()

    async def _until_done(self, work: Callable[[], Awaitable[int]]) -> None:
        for _ in range(_BATCHES):
            if self._closing.is_set() or not await work():
                return

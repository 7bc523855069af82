"""The engine of many workers: counters in Redis, decided by one script, one call at a time per organization."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from config import schema

from .amounts import NOTHING, Vector
from .batch import ADJUST, READ
from .dispatcher import Dispatcher
from .engine import Granted, Orphan, Refused, Spent, State, StoreDown
from .outage import Breaker
from .reaper import reap
from .rules import LimitSet
from .seeds import Seeds
from .store import Store

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
IDLE_LEASES = 10
"""An organization that had nothing to do for so many leases is left."""


class RedisEngine:
    """Limits of all workers together. ``lease`` is in seconds: a worker silent for so long is dead."""

    decides_now = False

    def __init__(self, config: schema.Redis, *, lease: float = 10, spent: Spent | None = None) -> None:
        self.on_orphan: list[Callable[[Orphan], None]] = []
        """Called for every reservation of a dead worker that this one settled."""
        self.on_recall: Callable[[str], None] | None = None
        """Called with an organization where a request meets with leases."""
        self.on_lost: Callable[[str], Sequence[str]] | None = None
        """Called with an organization whose counters are lost; gives the requests that run on leases."""
        self._store = Store(config)
        self._lease = lease
        self._seeds = Seeds(spent)
        self._breaker = Breaker()
        self._shards: dict[str, Dispatcher] = {}
        self._rids: dict[str, Dispatcher] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def start(self) -> None:
        await self._store.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._heartbeats()), loop.create_task(self._reaping())]

    async def close(self) -> None:
        self._closing = True  # redis-py can swallow a cancellation that meets a reply
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await asyncio.gather(*(d.close() for d in self._shards.values()), return_exceptions=True)
        except TimeoutError:
            log.warning("the counters did not take the last settlements in time; a reaper will charge them")
        await self._store.close()

    def reserve_now(self, rid: str, limits: LimitSet, need: Vector) -> None:
        """Redis must be asked."""

    async def reserve(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        shard = self.shard(limits.shard)
        outcome = await shard.reserve(rid, limits, need)
        if not isinstance(outcome, Refused):
            self._rids[rid] = shard
        return outcome

    async def adjust(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        return await self.shard(limits.shard).reserve(rid, limits, need, ADJUST)

    async def lease(
        self, rid: str, limits: LimitSet, need: Vector, number: int, hold: int
    ) -> tuple[Granted, Vector] | None:
        """Take up to ``number`` times ``need``, for ``hold`` ms at most; None where it would be too few. Raises StoreDown."""
        shard = self.shard(limits.shard)
        leased = await shard.lease(rid, limits, need, number, hold)
        if leased is not None:
            self._rids[rid] = shard
        return leased

    def part(self, rid: str, used: Vector, rest: Vector) -> None:
        """Book a part of a reservation, and go on holding the rest. Never waits and never raises."""
        shard = self._rids.get(rid)
        if shard is not None:
            shard.part(rid, used, rest)

    def settle(self, rid: str, actual: Vector) -> None:
        shard = self._rids.pop(rid, None)
        if shard is not None:
            shard.settle(rid, actual)

    def debit(self, rid: str, limits: LimitSet, actual: Vector) -> None:
        self.shard(limits.shard).debit(rid, limits, actual)

    def correct(self, rid: str, limits: LimitSet, difference: Vector, at: int, *, least: bool = False) -> None:
        self.shard(limits.shard).correct(rid, limits, difference, at, least=least)

    def checkpoint(self, rid: str, used: Vector) -> None:
        shard = self._rids.get(rid)
        if shard is not None:
            shard.checkpoint(rid, used)

    async def states(self, limits: LimitSet) -> Sequence[State]:
        outcome = await self.shard(limits.shard).reserve("", limits, NOTHING, READ)
        return outcome.states()

    def workers(self, shard: str) -> int:
        """How many workers were alive at the last heartbeat."""
        return self.shard(shard).live

    def shard(self, name: str) -> Dispatcher:
        """The counters of an organization."""
        found = self._shards.get(name)
        if found is None:
            # The nodes of a cluster fail one by one.
            breaker = Breaker() if self._store.is_cluster else self._breaker
            lease = int(self._lease * 1000)
            found = Dispatcher(name, lease=lease, store=self._store, breaker=breaker, seeds=self._seeds)
            if self.on_recall is not None:
                found.recall = partial(self.on_recall, name)
            if self.on_lost is not None:
                found.lost = partial(self.on_lost, name)
            self._shards[name] = found
        return found

    async def _heartbeats(self) -> None:
        """Four in a lease, for every organization that is in use; look whether the server is still the same."""
        while not self._closing:
            await asyncio.sleep(self._lease / 4)
            try:
                await self._store.look()
            except StoreDown as e:
                log.warning("no heartbeat: %s", e)
            for shard in list(self._shards.values()):
                if shard.is_busy or time.monotonic() - shard.used < IDLE_LEASES * self._lease:
                    shard.beat()
                else:
                    del self._shards[shard.shard]
                    await self._leave(shard)

    async def _leave(self, shard: Dispatcher) -> None:
        with contextlib.suppress(StoreDown):  # its lease runs out, and a reaper finds nothing
            await shard.close()

    async def _reaping(self) -> None:
        while not self._closing:
            await asyncio.sleep(min(1.0, self._lease / 4))
            for shard in list(self._shards.values()):
                try:
                    orphans = await reap(shard, self._store)
                except StoreDown:
                    continue
                for orphan in orphans:
                    self._tell(orphan)

    def _tell(self, orphan: Orphan) -> None:
        log.warning("a worker died with request %s reserved: it stays charged until reconciled", orphan.rid)
        for callback in self.on_orphan:
            try:
                callback(orphan)
            except Exception:
                log.exception("an orphan callback failed")

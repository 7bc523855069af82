"""Group commit: one call of ``reserve.lua`` at a time per organization carries everything that waited meanwhile.

An idle organization waits for nothing; a busy one needs one round trip for many requests. There is no timer.
"""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .amounts import NOTHING, Vector, times
from .batch import (
    ADJUST,
    CHECKPOINT,
    CLOSED,
    LEASE,
    LEASED,
    LEAST,
    PART,
    REBORN,
    REPEATED,
    RESERVE,
    RESTORE,
    SETTLE,
    STALE,
    UNSEEDED,
    Batch,
    Held,
    Reply,
    Reserve,
    Seed,
    Settle,
    in_ledger,
    request_id,
)
from .engine import Broken, Granted, Refused, Slow, StoreDown
from .generations import Generations
from .outage import Breaker
from .rules import LimitSet
from .seeds import Seeds
from .store import Store

log = logging.getLogger(__name__)

MAX_ENTRIES = 64
MAX_OPERATIONS = 400
"""On limits, per call: about 1.5 ms of Redis, during which it serves nobody else."""
_SENDINGS = 3
"""Of one call, at most; a reply that is late counts twice."""
_PAUSE_SECONDS = 0.02
"""Between them, when a connection broke: a new primary may be on its way."""
_WAITS_MS = (25, 100)
"""For leases of others: who had no use for one has given it back by then. The last wait is until all must have."""


class Dispatcher:
    """The counters of one organization (or deployment), as one worker sees them.

    ``lease`` is in milliseconds: a worker silent for so long is dead.
    """

    def __init__(self, shard: str, *, lease: int, store: Store, breaker: Breaker, seeds: Seeds) -> None:
        self.shard = shard
        self.process = secrets.token_hex(6)
        """The name of this worker here: a new one each time, so that nobody takes it for a dead one come back."""
        self.live = 1
        """Workers alive at the last heartbeat, this one included."""
        self.calls = 0
        """Of ``reserve.lua`` so far."""
        self.prefix = f"l:{{{shard}}}:"
        self.keys = [self.prefix + name for name in ("meta", "procs", "reaped", f"rsv:{self.process}")]
        self.lost: Callable[[], Sequence[str]] | None = None
        """Called when counters are lost: gives leases back, and who still runs on them."""
        self.recall: Callable[[], None] | None = None
        """Called when a request meets with leases: this worker's own can be given back at once."""
        self.used = time.monotonic()
        """When it last had something to do."""
        self._lease = lease
        self._store = store
        self._breaker = breaker
        self._seeds = seeds
        self.generations = Generations(store, self.prefix, lease // 2)
        self._seen = 0
        self._number = 0
        self._offset = 0.0
        """The clock of Redis less our monotonic one, in ms."""
        self._held: dict[str, Held] = {}
        self._settles: deque[Settle] = deque()
        self._reserves: deque[Reserve] = deque()
        self._ready: list[Seed] = []
        self._seeding: dict[str, asyncio.Task[None]] = {}
        """Scope -> who is asking what it begins with."""
        self._beat_due = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether anything is held, queued or under way."""
        return bool(self._held or self._settles or self._reserves or self._seeding or self._task)

    def redis_now(self) -> int:
        """Milliseconds since 1970 by the clock of Redis, as far as the last reply tells."""
        return int(time.monotonic() * 1000 + self._offset)

    async def reserve(self, rid: str, limits: LimitSet, need: Vector, mode: int = RESERVE) -> Granted | Refused:
        """Take, change (ADJUST) or only look (READ): see ``Engine``."""
        return await self._outcome(Reserve(rid, limits, need, self._waiter(), mode=mode))

    async def lease(
        self, rid: str, limits: LimitSet, need: Vector, number: int, hold: int
    ) -> tuple[Granted, Vector] | None:
        """Take up to ``number`` times ``need``, for ``hold`` ms at most; None where it would be too few."""
        entry = Reserve(rid, limits, need, self._waiter(), mode=LEASE, at=hold, number=number)
        outcome = await self._outcome(entry)
        return None if isinstance(outcome, Refused) else (outcome, entry.need)

    def _waiter(self) -> "asyncio.Future[Granted | Refused]":
        if self._breaker.is_open:
            raise StoreDown("the counters do not answer")
        return asyncio.get_running_loop().create_future()

    async def _outcome(self, entry: Reserve) -> Granted | Refused:
        waiter = entry.waiter
        assert waiter is not None, "somebody waits for it"
        self._enter(entry)
        try:
            return await waiter
        except asyncio.CancelledError:
            # Perhaps granted a moment ago, and then nobody else would give it back.
            if entry.mode in (RESERVE, LEASE) and waiter.done() and not waiter.cancelled():
                self.settle(entry.rid, NOTHING)
            raise

    def _enter(self, entry: Reserve) -> None:
        if self._breaker.is_open:
            self._fail(entry, StoreDown("the counters do not answer"))
        else:
            self._reserves.append(entry)
            self.kick()

    def settle(self, rid: str, actual: Vector) -> None:
        held = self._held.pop(rid, None)
        if held is not None:
            self._enqueue(Settle(rid, held.limits, actual, held.at))

    def part(self, rid: str, used: Vector, rest: Vector) -> None:
        """Book a part of a reservation, and go on holding the rest."""
        held = self._held.get(rid)
        if held is not None:
            self._held[rid] = held._replace(need=rest)
            self._enqueue(Settle(rid, held.limits, used, held.at, PART, rest=rest))

    def debit(self, rid: str, limits: LimitSet, actual: Vector) -> None:
        self._enqueue(Settle(rid, limits, actual, 0))

    def correct(self, rid: str, limits: LimitSet, difference: Vector, at: int, *, least: bool = False) -> None:
        self._enqueue(Settle(rid, limits, difference, at, LEAST if least else SETTLE, own=False))

    def checkpoint(self, rid: str, used: Vector) -> None:
        held = self._held.get(rid)
        if held is not None:
            self._enqueue(Settle(rid, held.limits, used, held.at, CHECKPOINT))

    def beat(self) -> None:
        """Renew the lease with the next call, and make one if none is due."""
        self._beat_due = True
        self.kick()

    def _enqueue(self, entry: Settle) -> None:
        self._settles.append(entry)
        self.kick()

    def kick(self) -> None:
        """Begin to send, unless that is under way or in vain."""
        if self._breaker.is_open:
            self._breaker.wait(self.kick)
        elif self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def _probe(self) -> None:
        if self._task is None:
            self._beat_due = True
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._settles or self._reserves or self._ready or self._beat_due:
                batch = self._collect()
                try:
                    await self._commit(batch)
                except Exception as e:
                    if not isinstance(e, StoreDown):
                        log.exception("a batch of %s failed", self.shard)
                    self._give_up(batch, e if isinstance(e, StoreDown) else StoreDown(type(e).__name__))
                    return
        finally:
            self._task = None
            self.used = time.monotonic()

    def _collect(self) -> Batch:
        """Settles first: they make room."""
        batch = Batch(self.prefix, self.keys)
        batch.seeds, self._ready = self._ready, []
        self._beat_due = False
        size = 0
        while self._settles and len(batch.settles) < MAX_ENTRIES and size < MAX_OPERATIONS:
            batch.settles.append(self._settles.popleft())
            size += len(batch.settles[-1].limits.limits)
        while self._reserves and len(batch.reserves) < MAX_ENTRIES and size < MAX_OPERATIONS:
            entry = self._reserves.popleft()
            # What was settled meanwhile must not be taken again.
            if entry.mode in (ADJUST, RESTORE) and entry.rid not in self._held:
                self._fail(entry, StoreDown("settled meanwhile"))
            elif entry.waiter is None or not entry.waiter.done():
                batch.reserves.append(entry)
                size += len(entry.limits.limits)
        return batch

    async def _commit(self, batch: Batch) -> None:
        """Have a batch executed exactly once, or raise StoreDown with its outcome unknown."""
        self._number += 1
        fence = self._number * _SENDINGS
        for entry in batch.settles:
            entry.first = entry.first or fence
        patience = _SENDINGS
        while patience > 0:
            pauses = False
            try:
                raw = await self._send(batch, fence)
            except Slow:
                # Who has waited so long gets an answer now; what is granted to him after all will be given back.
                self._refuse_all(batch, StoreDown("the counters are too slow"))
                patience -= 2
            except Broken:
                patience -= 1
                pauses = True
            else:
                self._breaker.close()
                self._apply(batch, Reply(batch, raw))
                return
            if pauses:
                await asyncio.sleep(_PAUSE_SECONDS)
            fence += 1
        raise StoreDown("the counters do not answer")

    async def _send(self, batch: Batch, fence: int) -> Any:
        while True:
            if not self.generations.is_sure:
                await self._join(batch)
            self.calls += 1
            header = (self.generations.now, self.process, fence, self._lease, self._seen)
            raw = await self._store.reserve(batch.keys, [*header, *batch.tables(), False])
            if not self.generations.is_sure:
                raise Broken  # it may have met with counters that nobody has checked: what it did there does not count
            if raw[0] == STALE:
                raise StoreDown("a later call has overtaken this one")
            if raw[0] != REBORN:
                return raw
            await self._join(batch, lost=True)

    async def _join(self, batch: Batch, *, lost: bool = False) -> None:
        """Take part in the current generation; after a loss, put back what this worker holds. ``batch`` is to be sent."""
        before, changes = self.generations.now, self._store.changes
        holds = bool(self._held or self._settles or batch.settles)
        generation, closed = await self.generations.join(before, lost=lost, holds=holds)
        if generation != before and before:
            self._ready.clear()
            batch.lose()
            if closed:
                generation = await self._restore(batch, generation)
        if generation != before:
            self._seen = 0
        self.generations.take_part(generation, changes)

    async def _restore(self, batch: Batch, generation: str) -> str:
        """Put back what is held, and have the ledger know the rest; gives the generation that it is in."""
        log.warning("the counters of %s were lost: restoring %d reservations", self.shard, len(self._held))
        for _ in range(_SENDINGS):
            # Here what is settled parts from what will be: the ledger tells of the first, and of the others when they
            # are booked. No await between.
            local = self.lost() if self.lost is not None else ()
            self._settles = deque(in_ledger(self._settles))
            ids = sorted({request_id(rid) for rid in (*self._held, *local)})
            await self._seeds.tell(self.shard)
            if await self.generations.note(generation, ids):
                break
            generation, _ = await self.generations.join(generation, lost=True, holds=True)
        else:
            raise StoreDown("the ledger is too slow to restore the counters")
        recorded = {rid.decode() for rid in await self._store.command("HKEYS", self.keys[3])} - {"#"}
        settled = (entry.rid for entry in (*self._settles, *batch.settles))
        for rid in recorded.difference(self._held, settled):
            # Settled, but that was lost with the rest: the ledger knows it, the record must go.
            self._settles.append(Settle(rid, LimitSet(self.shard, ()), NOTHING, 0))
        for rid, held in self._held.items():
            self._reserves.appendleft(Reserve(rid, held.limits, held.need, None, mode=RESTORE, at=held.at))
        return generation

    def _apply(self, batch: Batch, reply: Reply) -> None:
        self._seen = reply.seq
        self._offset = reply.now - time.monotonic() * 1000
        if reply.live:
            self.live = reply.live
        for entry, outcome in zip(batch.settles, reply.settled, strict=True):
            if entry.mode in (SETTLE, PART) and outcome and entry.own:
                self._seeds.count(entry.limits, entry.actual, entry.at or reply.now)
        for number, waiting in enumerate(batch.reserves):
            self._answer(waiting, reply.outcomes[2 * number], reply.outcomes[2 * number + 1], reply)

    def _answer(self, entry: Reserve, outcome: int, wait: int, reply: Reply) -> None:
        if outcome == UNSEEDED:
            self._await_seeds(entry, wait, reply.now)
        elif outcome == CLOSED:
            self._fail(entry, StoreDown("the counters were lost and are being restored"))
        elif outcome == LEASED:
            self._wait_for_leases(entry, wait)
        elif outcome in (0, REPEATED):
            if entry.mode == LEASE:
                entry.need = times(entry.need, wait)
            self._grant(entry, reply)
        elif entry.waiter is not None and not entry.waiter.done():
            entry.waiter.set_result(reply.refused(entry, outcome - 1, wait))

    def _grant(self, entry: Reserve, reply: Reply) -> None:
        if entry.mode in (RESERVE, LEASE) or (entry.mode == ADJUST and entry.rid in self._held):
            self._held[entry.rid] = Held(entry.limits, entry.need, reply.now)
        if entry.waiter is not None and not entry.waiter.done():
            entry.waiter.set_result(reply.granted(entry.limits))
        elif entry.mode in (RESERVE, LEASE):
            self.settle(entry.rid, NOTHING)  # nobody waits for it any more

    def _wait_for_leases(self, entry: Reserve, wait: int) -> None:
        """It is refused only once no lease is held on what refuses it."""
        if self.recall is not None:
            self.recall()
        delay = min([wait + 1, *_WAITS_MS[entry.asked : entry.asked + 1]])
        entry.asked += 1
        asyncio.get_running_loop().call_later(delay / 1000, self._enter, entry)

    def _await_seeds(self, entry: Reserve, positions: int, now: int) -> None:
        """Queue it again when its unseeded counters (bits of ``positions``) have something to begin with."""
        everything = range(len(entry.limits.limits))
        unseeded = [i for i in everything if positions >> i & 1] or everything  # more than a number has bits
        scope = entry.limits.limits[unseeded[0]].scope
        same = [i for i in unseeded if entry.limits.limits[i].scope == scope]
        task = self._seeding.get(scope)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._seed(scope, entry.limits, same, now))
            self._seeding[scope] = task

        def again(done: asyncio.Task[None]) -> None:
            failure = done.exception()
            if failure is None:
                self._reserves.append(entry)
                self.kick()
            else:
                self._fail(entry, failure if isinstance(failure, StoreDown) else StoreDown(repr(failure)))

        task.add_done_callback(again)

    async def _seed(self, scope: str, limits: LimitSet, positions: Sequence[int], now: int) -> None:
        generation = self.generations.now
        try:
            seeds = await self._seeds.ask(limits, positions, now, await self.generations.ran())
            if generation == self.generations.now:
                self._ready += seeds
        finally:
            del self._seeding[scope]

    def _give_up(self, batch: Batch, error: StoreDown) -> None:
        """Nothing is known of a batch: refuse what it wanted, give back what it may have got, keep what it settles."""
        self._refuse_all(batch, error)
        for entry in batch.reserves:
            if entry.mode == RESTORE:
                self._reserves.append(entry)
            elif entry.mode in (RESERVE, LEASE):
                self._settles.append(Settle(entry.rid, entry.limits, NOTHING, 0))
        self._settles.extendleft(
            reversed(batch.settles)
        )  # in every call from now on, until one is known to be executed
        self._ready += batch.seeds
        self._breaker.trip(self._probe)

    def _refuse_all(self, batch: Batch, error: StoreDown) -> None:
        for entry in (*batch.reserves, *self._reserves):
            self._fail(entry, error)

    def _fail(self, entry: Reserve, error: StoreDown) -> None:
        if entry.waiter is not None and not entry.waiter.done():
            entry.waiter.set_exception(error)

    async def close(self) -> None:
        """Send what is queued; then leave nothing behind, unless something is still held: that is for a reaper."""
        for _ in range(2):
            if self._task is not None:
                await self._task
        if self._held or self._settles or not self.generations.now:
            return
        await self._store.command("ZREM", self.keys[1], self.process)
        await self._store.command("DEL", self.keys[3])

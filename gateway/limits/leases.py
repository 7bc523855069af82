"""Reservations in bulk for sets of limits that are hit very often: spent locally, so most requests need no call.

A lease is an ordinary reservation of many requests' worth. It can be spent but not passed, so nothing is ever admitted
too much; what other workers cannot see is at most the unspent part, for as long as a lease lasts. Near a limit the
leases shrink until every request is reserved by itself again.
"""

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import Sequence
from operator import sub

from .amounts import NOTHING, Vector
from .engine import Engine, Granted, Refused, State, StoreDown
from .rules import LimitSet

log = logging.getLogger(__name__)

HOT_RATE = 200.0
"""Requests per second on one set of limits from which leases are worth it."""
AHEAD_SECONDS = 0.2
"""How much demand one lease covers."""
LEASE_SECONDS = 1.0
SHARE = 0.25
"""Of what is left that all workers together may hold in leases."""
SMALLEST = 4
"""Requests: below it each is reserved by itself."""
DENIED_SECONDS = 0.05
"""How long a refusal is repeated without asking again, at most."""
DENIED_SLOTS_SECONDS = 0.01
TICK_SECONDS = 0.1


def minus(a: Sequence[int], b: Sequence[int]) -> Vector:
    return tuple(map(sub, a, b))


def times(a: Vector, n: int) -> Vector:
    return tuple(x * n for x in a)  # type: ignore[return-value]  # of the same length


class Lease:
    """A reservation that local requests are taken from."""

    __slots__ = ("count", "ends", "grant", "granted", "is_open", "left", "limits", "rid", "told")

    def __init__(self, rid: str, limits: LimitSet, granted: Vector, grant: Granted) -> None:
        self.rid = rid
        self.limits = limits
        self.granted = granted
        self.grant = grant
        self.ends = time.monotonic() + LEASE_SECONDS
        self.is_open = True
        self.left = list(granted)
        """What is neither used nor held by a request in flight."""
        self.count = 0
        """Requests in flight."""
        self.told = granted

    def covers(self, more: Vector) -> bool:
        """Whether so much more can be kept; what no limit counts does not matter."""
        left = self.left
        for unit in self.limits.units:  # noqa: SIM110 - a generator costs more than all the rest of this
            if more[unit] > left[unit]:
                return False
        return True

    def keep(self, more: Vector) -> None:
        self.left = list(map(sub, self.left, more))

    @property
    def kept(self) -> Vector:
        """What it cannot give back: used, or held by requests in flight."""
        return minus(self.granted, self.left)


class Hot:
    """How often a set of limits is hit, and the lease on it."""

    __slots__ = ("acquiring", "count", "denied", "denied_until", "lease", "rate", "since")

    def __init__(self) -> None:
        self.count = 0
        self.since = time.monotonic()
        self.rate = 0.0
        self.lease: Lease | None = None
        self.acquiring: asyncio.Task[None] | None = None
        self.denied: Refused | None = None
        self.denied_until = 0.0

    def hit(self, now: float) -> None:
        self.count += 1
        elapsed = now - self.since
        if elapsed >= TICK_SECONDS:
            self.rate = (self.rate + self.count / elapsed) / 2
            self.count, self.since = 0, now


class LeasedEngine:
    """An engine that leases from another."""

    decides_now = True

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.leased = 0
        """Requests that needed no call."""
        self._hot: dict[LimitSet, Hot] = {}
        self._local: dict[str, tuple[Lease, Vector]] = {}
        self._closed: list[Lease] = []
        self._numbers = itertools.count()
        self._name = secrets.token_hex(6)
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> None:
        await self.engine.start()
        self._task = asyncio.get_running_loop().create_task(self._maintain())

    async def close(self) -> None:
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for hot in self._hot.values():
            self._retire(hot)
        for lease in self._closed:
            if not lease.count:
                self.engine.settle(lease.rid, lease.kept)
        await self.engine.close()

    def reserve_now(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused | None:
        """From the lease, or as it was refused a moment ago."""
        local = self._local.get(rid)
        if local is not None:
            return local[0].grant
        hot = self._hot.get(limits)
        if hot is None:
            hot = self._hot[limits] = Hot()
        now, denied, lease = time.monotonic(), hot.denied, hot.lease
        if denied is not None and now < hot.denied_until and need[denied.limit.unit] >= denied.need:
            hot.hit(now)
            return denied
        if lease is None or not lease.is_open or not lease.covers(need):
            return None
        hot.hit(now)
        return self._take(rid, need, lease)

    async def reserve(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        outcome = self.reserve_now(rid, limits, need)
        if outcome is not None:
            return outcome
        hot = self._hot.setdefault(limits, Hot())
        hot.hit(time.monotonic())
        if hot.rate < HOT_RATE:
            return await self._exactly(rid, limits, need, hot)
        await self._acquire(limits, need, hot)
        lease = hot.lease
        if lease is None or not lease.is_open or not lease.covers(need):
            return await self._exactly(rid, limits, need, hot)
        return self._take(rid, need, lease)

    def _take(self, rid: str, need: Vector, lease: Lease) -> Granted:
        lease.keep(need)
        lease.count += 1
        self._local[rid] = (lease, need)
        self.leased += 1
        return lease.grant

    async def _exactly(self, rid: str, limits: LimitSet, need: Vector, hot: Hot) -> Granted | Refused:
        outcome = await self.engine.reserve(rid, limits, need)
        if isinstance(outcome, Refused):
            pause = DENIED_SLOTS_SECONDS if outcome.wait == 0 else DENIED_SECONDS
            if outcome.wait:
                pause = min(pause, outcome.wait / 1000)
            hot.denied, hot.denied_until = outcome, time.monotonic() + pause
        return outcome

    async def _acquire(self, limits: LimitSet, need: Vector, hot: Hot) -> None:
        """Lease for all who need it now; one asks, the others wait for the same answer."""
        if hot.acquiring is None:
            hot.acquiring = asyncio.get_running_loop().create_task(self._lease(limits, need, hot))
        # Whoever is cancelled does not take the lease away from the others.
        await asyncio.shield(hot.acquiring)

    async def _lease(self, limits: LimitSet, need: Vector, hot: Hot) -> None:
        try:
            self._retire(hot)
            states = await self.engine.states(limits)
            number = self._size(limits, need, states, hot)
            if number < SMALLEST:
                return
            rid = f"lease:{self._name}.{next(self._numbers)}"
            wanted = times(need, number)
            outcome = await self.engine.reserve(rid, limits, wanted)
            if not isinstance(outcome, Refused):
                hot.lease = Lease(rid, limits, wanted, outcome)
        except StoreDown:
            pass  # whoever waits asks by himself, and is told
        finally:
            hot.acquiring = None

    def _size(self, limits: LimitSet, need: Vector, states: Sequence[State], hot: Hot) -> int:
        """How many requests like this one to lease."""
        room = min((s.remaining // need[s.limit.unit] for s in states if need[s.limit.unit]), default=0)
        share = room * SHARE / max(self.engine.workers(limits.shard), 1)
        return int(min(hot.rate * AHEAD_SECONDS, share))

    def _retire(self, hot: Hot) -> None:
        """Spend no more of a lease; what is left goes back with the next tick."""
        if hot.lease is not None:
            hot.lease.is_open = False
            self._closed.append(hot.lease)
            hot.lease = None

    async def _maintain(self) -> None:
        while not self._closing:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            for limits, hot in list(self._hot.items()):
                if hot.lease is not None and now > hot.lease.ends:
                    self._retire(hot)
                if hot.lease is None and hot.acquiring is None and now - hot.since > 60:
                    del self._hot[limits]
            closed, self._closed = self._closed, []
            for lease in closed:
                if lease.count:
                    self._closed.append(lease)
                    await self._give_back(lease)
                else:
                    self.engine.settle(lease.rid, lease.kept)

    async def _give_back(self, lease: Lease) -> None:
        """Long answers are still under way: hold no more than they may need."""
        kept = lease.kept
        if kept != lease.told:
            try:
                await self.engine.adjust(lease.rid, lease.limits, kept)
                lease.told = kept
            except StoreDown as e:
                log.info("a lease is not given back yet: %s", e)

    async def adjust(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        local = self._local.get(rid)
        if local is None:
            return await self.engine.adjust(rid, limits, need)
        lease, before = local
        more = minus(need, before)
        if not lease.covers(more):
            # By itself, then: the part of the lease is given back only once it is certain.
            outcome = await self.engine.reserve(rid, limits, need)
            if isinstance(outcome, Refused):
                return outcome
            if self._local.pop(rid, None) is None:  # settled meanwhile
                self.engine.settle(rid, NOTHING)
                return outcome
            self._leave(lease, before, NOTHING)
            return outcome
        lease.keep(more)
        self._local[rid] = (lease, need)
        return lease.grant

    def settle(self, rid: str, actual: Vector) -> None:
        local = self._local.pop(rid, None)
        if local is None:
            self.engine.settle(rid, actual)
        else:
            self._leave(*local, actual)

    def _leave(self, lease: Lease, need: Vector, actual: Vector) -> None:
        requests, tokens, prompt, completion, cost, _ = actual
        lease.keep(minus((requests, tokens, prompt, completion, cost, 0), need))  # slots are held, never used up
        lease.count -= 1

    def debit(self, rid: str, limits: LimitSet, actual: Vector) -> None:
        self.engine.debit(rid, limits, actual)

    def correct(self, rid: str, limits: LimitSet, difference: Vector, at: int) -> None:
        self.engine.correct(rid, limits, difference, at)

    def checkpoint(self, rid: str, used: Vector) -> None:
        if rid not in self._local:
            self.engine.checkpoint(rid, used)

    async def states(self, limits: LimitSet) -> Sequence[State]:
        return await self.engine.states(limits)

    def workers(self, shard: str) -> int:
        return self.engine.workers(shard)

"""Reservations in bulk for sets of limits that are hit often: spent locally, so that most requests need no call.

A lease is an ordinary reservation of many requests' worth, of a part of what is left. It can be spent but not
passed, so nothing is ever admitted too much; and nothing is refused for it: who meets with one waits until it is over,
and until the limit has recovered every request is reserved by itself (``reserve.lua``, ``may_come_back``).
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import Sequence

from .amounts import COST, NOTHING, Vector, minus
from .engine import Granted, Refused, State, StoreDown
from .redis import RedisEngine
from .rules import BUCKET, CONCURRENCY, WINDOW, LimitSet

HOT_RATE = 50.0
"""Requests per second on one set of limits from which leases are worth it: they cost five calls a second."""
BURST = 25
"""Requests within a tick that need no second one to be sure."""
LEASE_SECONDS = 0.6
"""How long a lease may be spent, and how much demand it is to cover."""
RENEW_SECONDS = 0.4
HOLD_MS = 800
"""After which every lease is back in Redis: time to tell it of the end, too."""
TICK_SECONDS = 0.05
LEARNING = 0.25
"""How much of a rate each tick decides."""
REST_SECONDS = 0.3
"""Without another try where a lease could not be had."""
DENIED_SECONDS = 0.05
"""How long a refusal is repeated without asking again, at most."""
LEAST = 4
"""Requests that are asked for; ``reserve.lua`` grants no fewer."""
UNCOUNTED = 2**62
"""Of what no limit counts there is always enough."""


class Lease(Granted):
    """A reservation that local requests are taken from; to each of them it is the grant."""

    __slots__ = ("_found", "_remaining", "count", "ends", "enough", "granted", "is_open", "left", "noted",
                 "renews", "rid", "taken", "told_count", "used")  # fmt: skip

    def __init__(self, rid: str, limits: LimitSet, granted: Vector, found: Sequence[State], sent: float) -> None:
        super().__init__(limits)
        self.rid = rid
        # No request may be booked to a window that it did not begin in.
        over = [state.reset / 1000 for state in found if state.limit.kind == WINDOW and state.reset is not None]
        self.ends = sent + min([LEASE_SECONDS, *over])
        self.renews = sent + RENEW_SECONDS
        counted = [granted[unit] if unit in limits.units else UNCOUNTED for unit in range(len(granted))]
        self.granted = counted
        self.left = counted.copy()
        """What is neither used nor held by a request in flight."""
        self.used = list(NOTHING)
        """What Redis has not been told of."""
        self.is_open = True
        self.count = 0
        """Requests in flight."""
        self.taken = 0
        self.enough = max(granted[0] // 2, 1)
        """Requests after which the next lease is asked for."""
        self.told_count = -1
        """``count`` as Redis knows it; -1: there is something else to tell."""
        self.noted: dict[str, Vector] = {}
        """Request -> what it will not be charged, should this worker die."""
        self._found = found
        self._remaining = [state.remaining for state in found]

    def covers(self, more: Vector) -> bool:
        return self.is_open and all(amount <= left for amount, left in zip(more, self.left, strict=True))

    def take(self, more: Vector) -> None:
        self.left = [left - amount for left, amount in zip(self.left, more, strict=True)]

    def fold(self) -> tuple[Vector, Vector]:
        """What was used since the last time, and what requests in flight hold; nothing else is kept."""
        used: Vector = tuple(self.used)  # type: ignore[assignment]  # of six
        rest = tuple([g - x - u for g, x, u in zip(self.granted, self.left, used, strict=True)])
        self._remaining = self.remaining()
        self.granted, self.left, self.used = list(rest), list(NOTHING), list(NOTHING)
        return used, rest  # type: ignore[return-value]  # of six

    def states(self) -> Sequence[State]:
        return [self._state(state, left) for state, left in zip(self._found, self.remaining(), strict=True)]

    def _state(self, state: State, remaining: int) -> State:
        limit, unit = state.limit, state.limit.unit
        if limit.kind != WINDOW:
            return state._replace(used=limit.cap - remaining, remaining=remaining)
        used = self.used[unit]
        reserved = max(state.reserved - used - self.left[unit], 0)
        return state._replace(used=state.used + used, reserved=reserved, remaining=remaining)

    def remaining(self) -> list[int]:
        assert self.limits is not None, "it is of some"
        return [known + self.left[limit.unit] for known, limit in zip(self._remaining, self.limits.limits, strict=True)]

    def reset(self, position: int) -> int | None:
        limit = self._found[position].limit
        if limit.kind != BUCKET or not limit.rate:
            return 0 if limit.kind == CONCURRENCY else self._found[position].reset
        missing = limit.cap - self._remaining[position] - self.left[limit.unit]
        return max(-(-missing * limit.period // limit.rate), 0)

    def spent(self, position: int) -> int:
        return self._found[position].used + self.used[COST]


class Hot:
    """How often a set of limits is hit, and the lease on it."""

    __slots__ = ("asking", "before", "count", "denied", "denied_until", "lease", "limits", "need", "rate", "rests")

    def __init__(self, limits: LimitSet) -> None:
        self.limits = limits
        self.need: Vector = NOTHING
        """Of the last request that had to ask, or of the one before the last lease."""
        self.count = 0
        """Requests since the last tick."""
        self.before = 0
        """Requests of the tick before."""
        self.rate = 0.0
        self.lease: Lease | None = None
        self.asking: asyncio.Task[None] | None = None
        self.rests = 0.0
        """Until when no lease is asked for."""
        self.denied: Refused | None = None
        self.denied_until = 0.0


class LeasedEngine:
    """An engine that leases from the one in Redis."""

    decides_now = True

    def __init__(self, engine: RedisEngine) -> None:
        self.engine = engine
        self.leased = 0
        """Requests that needed no call, of leases that are over."""
        self._hot: dict[LimitSet, Hot] = {}
        self._local: dict[str, tuple[Lease, Vector]] = {}
        self._closed: list[Lease] = []
        """Spent no more, but not settled as a whole."""
        self._numbers = itertools.count()
        self._name = secrets.token_hex(6)
        self._ticker: asyncio.TimerHandle | None = None
        self._ticked = 0.0
        self._closing = False
        engine.on_recall = self._recall
        engine.on_lost = self._lost

    async def start(self) -> None:
        await self.engine.start()

    async def close(self) -> None:
        self._closing = True
        asking = [hot.asking for hot in self._hot.values() if hot.asking is not None]
        await asyncio.gather(*asking, return_exceptions=True)
        if self._ticker is not None:
            self._ticker.cancel()
        for hot in self._hot.values():
            self._retire(hot)
        self._give_back()
        await self.engine.close()

    def reserve_now(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused | None:
        """From the lease, or as it was refused a moment ago."""
        hot = self._hot.get(limits)
        if hot is None:
            return None
        lease = hot.lease
        if lease is None:
            return None if hot.denied is None else self._denied(hot, hot.denied, need)
        left = lease.left
        requests, tokens, prompt, completion, cost, slots = need
        if (
            requests > left[0] or tokens > left[1] or prompt > left[2] or completion > left[3] or cost > left[4]
            or slots > left[5] or time.monotonic() >= lease.ends or rid in self._local
        ):  # fmt: skip
            return None
        left[0] -= requests
        left[1] -= tokens
        left[2] -= prompt
        left[3] -= completion
        left[4] -= cost
        left[5] -= slots
        self._local[rid] = (lease, need)
        lease.count += 1
        lease.told = None  # headers tell what this one left
        hot.count += 1
        lease.taken += 1
        if lease.taken == lease.enough:
            self._ask(hot, need)
        return lease

    def settle(self, rid: str, actual: Vector) -> None:
        local = self._local.pop(rid, None)
        if local is None:
            self.engine.settle(rid, actual)
            return
        lease, need = local
        left, used = lease.left, lease.used
        requests, tokens, prompt, completion, cost, _ = actual
        left[0] += need[0] - requests
        left[1] += need[1] - tokens
        left[2] += need[2] - prompt
        left[3] += need[3] - completion
        left[4] += need[4] - cost
        left[5] += need[5]  # slots are held, never used up
        used[0] += requests
        used[1] += tokens
        used[2] += prompt
        used[3] += completion
        used[4] += cost
        lease.count -= 1
        if lease.noted:
            lease.noted.pop(rid, None)

    def _denied(self, hot: Hot, denied: Refused, need: Vector) -> Refused | None:
        if need[denied.limit.unit] < denied.need or time.monotonic() >= hot.denied_until:
            return None
        hot.count += 1
        return denied

    async def reserve(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        if (local := self._local.get(rid)) is not None:
            return local[0]
        if limits.shard.startswith("d:"):  # a capacity is paced: what is taken of it is sent at once
            return await self.engine.reserve(rid, limits, need)
        outcome = self.reserve_now(rid, limits, need)
        if outcome is not None:
            return outcome
        hot = self._hot.get(limits)
        if hot is None:
            hot = self._hot[limits] = Hot(limits)
            self._keep_ticking()
        hot.count += 1
        hot.need = need
        if hot.lease is not None or hot.count >= BURST:  # it is too small, or wanted before the rate is known
            self._ask(hot, need)
        outcome = await self.engine.reserve(rid, limits, need)
        if isinstance(outcome, Refused) and is_final(outcome):
            hot.denied, hot.denied_until = outcome, time.monotonic() + DENIED_SECONDS
        return outcome

    def _ask(self, hot: Hot, need: Vector) -> None:
        """Lease in the background: the old one is spent meanwhile."""
        if hot.asking is None and time.monotonic() >= hot.rests and need[0] and not self._closing:
            hot.need = need
            hot.asking = asyncio.get_running_loop().create_task(self._lease(hot))

    async def _lease(self, hot: Hot) -> None:
        rid, sent = f"lease:{self._name}.{next(self._numbers)}", time.monotonic()
        number = max(int(hot.rate * LEASE_SECONDS), hot.count, LEAST)
        try:
            leased = await self.engine.lease(rid, hot.limits, hot.need, number, HOLD_MS)
        except StoreDown:
            hot.rests = time.monotonic() + REST_SECONDS
            return  # what is left of the old one was paid for
        finally:
            hot.asking = None
        self._retire(hot)
        if leased is None:
            hot.rests = time.monotonic() + REST_SECONDS
            self._give_back()
        elif self._closing or hot.rests > sent:  # called back meanwhile
            self.engine.settle(rid, NOTHING)
        else:
            grant, granted = leased
            hot.lease = Lease(rid, hot.limits, granted, grant.states(), sent)
            hot.denied = None

    def _retire(self, hot: Hot) -> None:
        """Spend no more of a lease."""
        lease, hot.lease = hot.lease, None
        if lease is not None:
            lease.is_open = False
            self.leased += lease.taken
            self._closed.append(lease)

    def _give_back(self) -> None:
        """Tell Redis what was used of closed leases, and hold no more than requests in flight may need."""
        closed, self._closed = self._closed, []
        for lease in closed:
            if lease.count != lease.told_count:
                used, rest = lease.fold()
                lease.told_count = lease.count
                if not lease.count:
                    self.engine.settle(lease.rid, used)
                    continue
                self.engine.part(lease.rid, used, rest)
                if lease.noted:
                    for less in lease.noted.values():
                        rest = minus(rest, less)
                    self.engine.checkpoint(lease.rid, rest)
            self._closed.append(lease)

    def _recall(self, shard: str) -> None:
        """Somebody met with a lease: give back what this worker holds."""
        now = time.monotonic()
        for hot in self._hot.values():
            if hot.limits.shard == shard and (hot.lease is not None or hot.asking is not None):
                hot.rests = now + REST_SECONDS
                self._retire(hot)
        self._give_back()

    def _lost(self, shard: str) -> Sequence[str]:
        """The counters are lost: tell what was used so far, lease anew, and name the requests that still run."""
        self._recall(shard)
        held = self._local.items()
        return [rid for rid, (lease, _) in held if lease.limits and lease.limits.shard == shard]

    def _keep_ticking(self) -> None:
        if self._ticker is None:
            self._ticked = time.monotonic()
            self._ticker = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        now = time.monotonic()
        elapsed = now - self._ticked
        for hot in list(self._hot.values()):
            self._look(hot, now, elapsed)
        self._give_back()
        if self._hot or self._closed:
            self._keep_ticking()

    def _look(self, hot: Hot, now: float, elapsed: float) -> None:
        """Learn how much a set is in demand; lease, or give back."""
        hot.rate += (hot.count / elapsed - hot.rate) * LEARNING
        is_steady, is_idle = hot.count and hot.before, not hot.count and not hot.before
        hot.before, hot.count = hot.count, 0
        lease = hot.lease
        if lease is None:
            if hot.rate >= HOT_RATE and is_steady:
                self._ask(hot, hot.need)
            elif hot.rate < 1 and hot.asking is None:
                del self._hot[hot.limits]
        elif is_idle or now >= lease.ends:
            self._retire(hot)
        elif now >= lease.renews and hot.rate >= HOT_RATE / 2:
            self._ask(hot, hot.need)

    async def adjust(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        local = self._local.get(rid)
        if local is None:
            return await self.engine.adjust(rid, limits, need)
        lease, before = local
        more = minus(need, before)
        if max(more) <= 0 or lease.covers(more):
            lease.take(more)
            lease.told_count = -1
            self._local[rid] = (lease, need)
            return lease
        # By itself, then: the part of the lease is given back only once it is certain.
        outcome = await self.engine.reserve(rid, limits, need)
        if isinstance(outcome, Refused):
            return outcome
        self.settle(rid, NOTHING)  # its part of the lease; where it was settled meanwhile, what was reserved just now
        return outcome

    def debit(self, rid: str, limits: LimitSet, actual: Vector) -> None:
        self.engine.debit(rid, limits, actual)

    def correct(self, rid: str, limits: LimitSet, difference: Vector, at: int, *, least: bool = False) -> None:
        self.engine.correct(rid, limits, difference, at, least=least)

    def checkpoint(self, rid: str, used: Vector) -> None:
        local = self._local.get(rid)
        if local is None:
            self.engine.checkpoint(rid, used)
        else:
            lease, need = local
            lease.noted[rid] = minus(need, used)
            lease.told_count = -1

    async def states(self, limits: LimitSet) -> Sequence[State]:
        """What this worker leased of them is given back first."""
        counters = set(limits.limits)
        for hot in [hot for hot in self._hot.values() if hot.limits.shard == limits.shard]:
            if counters.isdisjoint(hot.limits.limits):
                continue
            if hot.asking is not None:
                await asyncio.wait([hot.asking])
            self._retire(hot)
        self._give_back()
        return await self.engine.states(limits)

    def workers(self, shard: str) -> int:
        return self.engine.workers(shard)


def is_final(refused: Refused) -> bool:
    """Whether what is spent alone refuses it: nothing that is given back can help before the window is over."""
    limit = refused.limit
    return limit.kind == WINDOW and refused.states()[refused.position].used + refused.need > limit.most

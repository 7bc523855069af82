"""How fast the traffic of a dear tier may grow: the rule by which providers downgrade priority, kept before they do.

A minute may have so many percent more tokens than there were so many minutes ago (on average around then, because single
minutes vary), and always a floor. Counted per owner and model, or per model for everybody; across workers through Redis,
which decides by its own clock.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from config.schema import Config, Ramp

from .call import Principal, Route
from .errors import LimitExceeded
from .limits.engine import Broken, Slow, StoreDown
from .limits.rules import quote
from .tiers import DEAR

if TYPE_CHECKING:
    from .limits.store import Store

log = logging.getLogger(__name__)

BACK_SECONDS = 0.25
"""So long tokens that were reserved and not used wait for others before Redis is told."""
SILENT_SECONDS = 1.0
"""So long Redis is not asked again that did not answer."""
KEEP_SECONDS = 7_500
"""Two hours are looked back on at most."""
MOST_COUNTERS = 10_000
"""In memory; those that have nothing to say go first."""


class RampExceeded(LimitExceeded):
    """The traffic of a tier grows too fast."""


class Counter(NamedTuple):
    """What is counted together, and how fast it may grow."""

    shard: str
    scope: str
    rule: Ramp


class Decided(NamedTuple):
    """What became of the tokens of one request."""

    failed: int
    """The counter, from 1 on, that would grow too fast; 0: they are counted."""
    minute: int
    rest: float
    """Seconds until the next minute."""
    shared: bool
    """Whether Redis has counted them, and not this worker alone."""


class Growth:
    """Tokens of one request in the counters of its minute, until it is known how many it used.

    They are corrected where they were counted (``shared``: in Redis), though Redis may have fallen silent since, or be back.
    """

    __slots__ = ("_counters", "_minute", "_ramps", "_shared", "_tokens")

    def __init__(
        self, ramps: "Ramps | None", counters: Sequence[Counter], minute: int, tokens: int, *, shared: bool
    ) -> None:
        self._ramps = ramps
        self._counters = counters
        self._minute = minute
        self._tokens = tokens
        self._shared = shared

    def settle(self, used: int) -> None:
        """Count what was used at a dear tier instead; any number of times. Never raises, never awaits."""
        if self._ramps is not None and used != self._tokens:
            self._ramps.add(self._counters, self._minute, used - self._tokens, shared=self._shared)
            self._tokens = used


NO_GROWTH = Growth(None, (), 0, 0, shared=False)
"""Of a request that no such rule concerns."""


class Ramps:
    """Every such counter of this worker. ``store``: where the workers count together."""

    def __init__(self, store: "Store | None" = None, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._counts: dict[tuple[str, str], dict[int, int]] = {}
        """(shard, scope) -> minute -> tokens: without Redis, or while it is silent."""
        self._back: dict[tuple[str, str, int], int] = {}
        self._telling: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._silent_until = 0.0

    @classmethod
    def of(cls, config: Config) -> "Ramps":
        """With a connection of its own where there is Redis."""
        if config.redis is None:
            return cls()
        from .limits.store import Store  # a fifth of the start-up time of a gateway that has no Redis

        return cls(Store(config.redis))

    async def close(self) -> None:
        """Tell what is left to tell; raises nothing."""
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)
        if self._store is not None:
            await self._store.close()

    def apply(self, principal: Principal, route: Route) -> bool:
        """Whether any such rule concerns these requests at a dear tier."""
        return route.config.ramp is not None or any(owner.tiers.ramp is not None for owner in principal.owners)

    async def take(self, principal: Principal, route: Route, tier: str, tokens: int) -> Growth:
        """Count a request's tokens, or raise RampExceeded and count nothing, where a rule for its tier applies."""
        if tier not in DEAR:
            return NO_GROWTH
        counters = _counters(principal, route)
        if not counters:
            return NO_GROWTH
        taken: list[Growth] = []
        for shard in dict.fromkeys(counter.shard for counter in counters):  # a hash slot for each
            group = [counter for counter in counters if counter.shard == shard]
            decided = await self._take(group, tokens)
            if decided.failed:
                for growth in taken:
                    growth.settle(0)
                raise _refusal(group[decided.failed - 1], decided.rest)
            taken.append(Growth(self, group, decided.minute, tokens, shared=decided.shared))
        return taken[0] if len(taken) == 1 else _Several(taken)

    async def _take(self, counters: Sequence[Counter], tokens: int) -> Decided:
        if self._store is not None:
            async with self._turn:  # one connection: a burst of requests must not become a burst of connections
                decided = await self._ask(self._store, counters, tokens)
            if decided is not None:
                return decided
        return self._decide(counters, tokens)

    async def _ask(self, store: "Store", counters: Sequence[Counter], tokens: int) -> Decided | None:
        """What Redis decides; None while it is silent."""
        if time.monotonic() < self._silent_until:
            return None
        keys = [f"g:{{{c.shard}}}{c.scope}" for c in counters]
        rules = [n for c in counters for n in (c.rule.above_tpm, c.rule.percent, c.rule.minutes)]
        try:
            failed, minute, rest = await store.ramp(keys, [tokens, *rules])
        except (StoreDown, Slow, Broken):
            log.warning("Redis is silent: the growth of tiers is counted by this worker alone")
            self._silent_until = time.monotonic() + SILENT_SECONDS
            return None
        return Decided(failed, minute, rest / 1000, shared=True)

    def _decide(self, counters: Sequence[Counter], tokens: int) -> Decided:
        now = self._clock()
        minute = int(now // 60)
        for position, counter in enumerate(counters):
            counts, span = self._counts.get((counter.shard, counter.scope), {}), counter.rule.minutes
            wanted, third = counts.get(minute, 0) + tokens, span // 3
            before = sum(n for at, n in counts.items() if abs(minute - span - at) <= third)
            most = before * (100 + counter.rule.percent)
            if wanted > counter.rule.above_tpm and wanted * 100 * (2 * third + 1) > most:
                return Decided(position + 1, minute, 60 - now % 60, shared=False)
        for counter in counters:
            self._count(counter, minute, tokens)
        return Decided(0, minute, 0.0, shared=False)

    def _count(self, counter: Counter, minute: int, tokens: int) -> None:
        counts = self._counts.setdefault((counter.shard, counter.scope), {})
        if minute not in counts:
            for old in [at for at in counts if at < minute - 2 * counter.rule.minutes]:
                del counts[old]
            if len(self._counts) > MOST_COUNTERS:
                self._counts = {k: v for k, v in self._counts.items() if any(at >= minute - 80 for at in v)}
        counts[minute] = max(counts.get(minute, 0) + tokens, 0)

    def add(self, counters: Sequence[Counter], minute: int, tokens: int, *, shared: bool) -> None:
        """Correct what was counted in a minute, in Redis or here. Never raises, never awaits."""
        for counter in counters:
            if not shared:
                self._count(counter, minute, tokens)
                continue
            key = (counter.shard, counter.scope, minute)
            self._back[key] = self._back.get(key, 0) + tokens
        if self._back and self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        assert self._store is not None, "else nothing waits"
        try:
            while self._back:
                await asyncio.sleep(BACK_SECONDS)
                told, self._back = self._back, {}
                for (shard, scope, minute), tokens in told.items():
                    key = f"g:{{{shard}}}{scope}"
                    left = await self._store.command("HINCRBY", key, minute, tokens)
                    if left < 0:  # Redis has lost what was reserved
                        await self._store.command("HINCRBY", key, minute, -left)
                    await self._store.command("EXPIRE", key, KEEP_SECONDS)  # it may have expired, and be there anew
        except StoreDown:
            pass  # those minutes look fuller than they were
        finally:
            self._telling = None


class _Several(Growth):
    """Of counters in more than one hash slot."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Growth]) -> None:
        super().__init__(None, (), 0, 0, shared=False)
        self._parts = parts

    def settle(self, used: int) -> None:
        for part in self._parts:
            part.settle(used)


def _counters(principal: Principal, route: Route) -> list[Counter]:
    model, shard = quote(route.name), quote(principal.organization)
    found = [
        Counter(shard, f"{owner.id[:2]}{quote(owner.id[2:])}|m:{model}", rule)
        for owner in principal.owners
        if (rule := owner.tiers.ramp) is not None
    ]
    if (rule := route.config.ramp) is not None:
        found.append(Counter(f"m:{model}", "", rule))
    return found


def _refusal(counter: Counter, wait: float) -> RampExceeded:
    rule = counter.rule
    return RampExceeded(
        f"The traffic at this service tier grows too fast: above {rule.above_tpm} tokens per minute it may grow by "
        f"{rule.percent} % within {rule.minutes} minutes.",
        type="tokens",
        retry_after=math.ceil(wait),
    )

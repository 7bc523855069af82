"""While the counters cannot be reached: who is told at once, and what each worker may admit by itself."""

import asyncio
from collections.abc import Callable, Sequence

from config.schema import Outage

from .amounts import COST, Vector
from .engine import Engine, Granted, Refused, State, StoreDown
from .memory import MemoryEngine
from .rules import BUCKET, Limit, LimitSet

OPEN_SECONDS = 0.5
"""Between two attempts to reach the counters again."""


class Breaker:
    """Lets calls fail at once while a store does not answer; one caller tries again and tells the rest."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: set[Callable[[], None]] = set()

    def trip(self, probe: Callable[[], None]) -> None:
        """Open; ``probe`` is called when it is time to try again."""
        self.is_open = True
        asyncio.get_running_loop().call_later(OPEN_SECONDS, probe)

    def wait(self, resume: Callable[[], None]) -> None:
        """Have ``resume`` called once it is closed again."""
        self._waiting.add(resume)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            waiting, self._waiting = self._waiting, set()
            for resume in waiting:
                resume()


class LocalShare:
    """Rates by this worker alone: of each limit the share that lets all workers together keep it.

    What is used meanwhile is booked in the store as soon as it is back.
    """

    decides_now = False

    def __init__(self, store: Engine, policy: Outage) -> None:
        self.policy = policy
        self._store = store
        self._memory = MemoryEngine()
        self._granted: dict[str, LimitSet] = {}
        self._shares: dict[tuple[LimitSet, int], LimitSet | None] = {}

    async def start(self) -> None:
        await self._memory.start()

    async def close(self) -> None:
        await self._memory.close()

    def reserve_now(self, rid: str, limits: LimitSet, need: Vector) -> None:
        """Only once the store has failed."""

    async def reserve(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        """Decide without the store. Raises StoreDown where the policy says that nobody may pass."""
        share = self._allowed(limits)
        outcome = Unlimited() if share is None else await self._memory.reserve(rid, share, need)
        if not isinstance(outcome, Refused):
            self._granted[rid] = limits
        return outcome

    async def adjust(self, rid: str, limits: LimitSet, need: Vector) -> Granted | Refused:
        share = self._allowed(limits)
        return Unlimited() if share is None else await self._memory.adjust(rid, share, need)

    def settle(self, rid: str, actual: Vector) -> None:
        limits = self._granted.pop(rid, None)
        if limits is not None:
            self._memory.settle(rid, actual)
            self._store.debit(rid, limits, actual)

    def debit(self, rid: str, limits: LimitSet, actual: Vector) -> None:
        self._store.debit(rid, limits, actual)

    def correct(self, rid: str, limits: LimitSet, difference: Vector, at: int, *, least: bool = False) -> None:
        self._store.correct(rid, limits, difference, at, least=least)

    def checkpoint(self, rid: str, used: Vector) -> None:
        """Nobody could be told."""

    async def states(self, limits: LimitSet) -> Sequence[State]:
        return await self._store.states(limits)

    def workers(self, shard: str) -> int:
        return self._store.workers(shard)

    def _allowed(self, limits: LimitSet) -> LimitSet | None:
        if limits.budgets and self.policy.money == "closed":
            raise StoreDown("budgets cannot be enforced")
        if self.policy.rates == "closed" and len(limits.budgets) < len(limits.limits):
            raise StoreDown("limits cannot be enforced")
        return self._share(limits, self._store.workers(limits.shard))

    def _share(self, limits: LimitSet, workers: int) -> LimitSet | None:
        key = (limits, workers)
        if key not in self._shares:
            if len(self._shares) > 10_000:
                self._shares.clear()
            rates = () if self.policy.rates == "open" else (x for x in limits.limits if x.unit != COST)
            share = tuple(divided(limit, workers) for limit in rates)
            self._shares[key] = LimitSet(limits.shard, share) if share else None
        return self._shares[key]


def divided(limit: Limit, workers: int) -> Limit:
    """A worker's share, rounded down: together they never pass the limit."""
    cap = limit.cap // workers
    return limit._replace(cap=cap, rate=min(cap, limit.rate // workers) if limit.kind == BUCKET else 0)


class Unlimited(Granted):
    """Granted because nothing is enforced at the moment."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(None)

    def states(self) -> tuple[()]:
        return ()

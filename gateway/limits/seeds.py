"""What counters begin with when they are seen for the first time or were lost: never less than is known to be spent."""

import time
from collections.abc import Iterable, Sequence

from .amounts import NOTHING, Vector
from .batch import Seed
from .engine import Spent, ask
from .rules import WINDOW, Limit, LimitSet
from .windows import DAY_MS, end, start, window

_REMEMBERED = 200_000


class Seeds:
    """Asks the ledger, and remembers what this worker settled: rows may still be on their way to the ledger."""

    def __init__(self, spent: Spent | None) -> None:
        self._spent = spent
        self._own: dict[tuple[str, str, str, int], int] = {}
        """(shard, scope, field, window) -> what this worker settled."""
        self._day = -1
        self._numbers: dict[int, int] = {}

    def count(self, limits: LimitSet, actual: Vector, at: int) -> None:
        """Remember a settlement."""
        if at // DAY_MS != self._day:
            self._day, self._numbers = at // DAY_MS, {}
        for position in limits.windows:
            limit = limits.limits[position]
            number = self._numbers.get(limit.period)
            if number is None:
                number = self._numbers[limit.period] = window(limit.period, at)
            key = (limits.shard, limit.scope, limit.field, number)
            self._own[key] = self._own.get(key, 0) + actual[limit.unit]
        if len(self._own) > _REMEMBERED:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        for key in list(self._own)[: _REMEMBERED // 2]:
            del self._own[key]

    async def tell(self, shard: str) -> None:
        """Have the ledger know all that this worker settled. Raises StoreDown when it does not answer."""
        if self._spent is not None:
            now = int(time.time() * 1000)
            await ask(self._spent, shard, shard if shard.startswith("d:") else f"o:{shard}", now - 1, now)

    async def ask(
        self, limits: LimitSet, positions: Iterable[int], now: int, without: Sequence[str] = ()
    ) -> list[Seed]:
        """The seeds of some counters of a set; requests ``without`` are booked since the counters were lost.

        Raises StoreDown when the ledger does not answer.
        """
        seeds: dict[str, list[tuple[str, int, int]]] = {}
        for position in positions:
            limit = limits.limits[position]
            values = seeds.setdefault(limit.scope, [])
            if limit.kind == WINDOW:
                number = window(limit.period, now)
                used = (await self._ask(limits.shard, limit, number, now, without))[limit.unit]
                if self._spent is None or not without:  # some of it is perhaps of them
                    used = max(used, self._own.get((limits.shard, limit.scope, limit.field, number), 0))
                values.append((limit.field, number, used))
        return [Seed(scope, values, exact=self._spent is not None) for scope, values in seeds.items()]

    async def _ask(self, shard: str, limit: Limit, number: int, now: int, without: Sequence[str]) -> Vector:
        if self._spent is None:
            return NOTHING
        begin, over = start(limit.period, number), end(limit.period, number) or now
        return (await ask(self._spent, shard, limit.scope, begin, over, without)).vector()

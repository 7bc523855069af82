"""Soft thresholds of budgets: told once per window when the money spent passes a percentage."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .amounts import COST
from .engine import Granted, State
from .rules import NAMES, Limit

_REMEMBERED = 100_000


class Threshold(NamedTuple):
    """A budget has been used up to ``percent``. Money is in nano-dollars."""

    scope: str
    budget: str
    """``budget.day`` and so on."""
    percent: int
    spent: int
    cap: int


class Thresholds:
    """Remembers what was told, by scope and window."""

    def __init__(self, percents: Sequence[int]) -> None:
        self.configure(percents)
        self._told: dict[tuple[str, str, str], tuple[int, int]] = {}
        """Counter -> (spent when last told or seen lower, the percentage told)."""

    def configure(self, percents: Sequence[int]) -> None:
        """Tell at other percentages from now on, and nothing again that was told."""
        self._percents = tuple(sorted(percents))

    def may_pass(self, grant: Granted) -> bool:
        """Whether ``passed`` could have something to tell or to remember: nearly never."""
        limits = grant.limits
        if limits is None:
            return False
        for position in limits.budgets:
            limit = limits.limits[position]
            told = self._told.get((limits.shard, limit.scope, limit.field))
            spent = grant.spent(position)
            if told is not None and spent < told[0]:
                return True  # a new window
            if self._highest(spent, limit.cap) > (told[1] if told is not None else 0):
                return True
        return False

    def passed(self, shard: str, states: Iterable[State], exhausted: Limit | None = None) -> Iterator[Threshold]:
        """The highest threshold that each budget has passed and that was not told yet.

        The budget ``exhausted`` has just refused a request: nobody comes nearer to all of it than that.
        """
        for limit, spent, reserved, *_ in states:
            if limit.unit != COST:
                continue
            is_used_up = limit == exhausted and not reserved
            percent = self._highest(limit.cap if is_used_up else spent, limit.cap)
            key = (shard, limit.scope, limit.field)
            before_spent, before = self._told.get(key, (0, 0))
            if spent < before_spent:
                before = 0  # a new window
            if percent > before:
                yield Threshold(limit.scope, NAMES[limit.field], percent, spent, limit.cap)
            if percent or before:
                if len(self._told) >= _REMEMBERED:
                    self._told.clear()
                self._told[key] = (spent, max(percent, before))

    def _highest(self, spent: int, cap: int) -> int:
        highest = 0
        for percent in self._percents:
            if not cap or spent * 100 < cap * percent:
                break
            highest = percent
        return highest

"""Soft thresholds of budgets: told once per window when the money spent passes a percentage."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .amounts import COST
from .engine import Granted, State
from .rules import NAMES, Limit, LimitSet

_REMEMBERED = 100_000
ENDLESS = 2**63
"""More than any budget."""


class Threshold(NamedTuple):
    """A budget has been used up to ``percent``. Money is in nano-dollars."""

    scope: str
    budget: str
    """``budget.day`` and so on."""
    percent: int
    spent: int
    cap: int
    shard: str
    """Whose it is: an organization's team may have the name of another's."""


class Thresholds:
    """Remembers what was told, by scope and window."""

    def __init__(self, percents: Sequence[int]) -> None:
        self._told: dict[tuple[str, str, str], tuple[int, int, int]] = {}
        """Counter -> (spent when last looked at, the percentage told, in which window)."""
        self._calm: dict[LimitSet, tuple[tuple[int, int, int], ...]] = {}
        """Of each budget of a set its position, and what may be spent with nothing to tell: from, and below."""
        self.configure(percents)

    def configure(self, percents: Sequence[int]) -> None:
        """Tell at other percentages from now on, and nothing again that was told."""
        self._percents = tuple(sorted(percents))
        self._calm.clear()

    def may_pass(self, grant: Granted) -> bool:
        """Whether ``passed`` could have something to tell or to remember: nearly never."""
        limits = grant.limits
        if limits is None:
            return False
        for position, least, below in self._calm.get(limits) or self._calm_of(limits):
            if not least <= grant.spent(position) < below:
                return True
        return False

    def _calm_of(self, limits: LimitSet) -> tuple[tuple[int, int, int], ...]:
        found = []
        for position in limits.budgets:
            limit = limits.limits[position]
            spent, told, _ = self._told.get((limits.shard, limit.scope, limit.field), (0, 0, 0))
            following = next((percent for percent in self._percents if percent > told), None)
            below = ENDLESS if following is None or not limit.cap else -(-limit.cap * following // 100)
            found.append((position, spent, below))
        if len(self._calm) >= _REMEMBERED:
            self._calm.clear()
        self._calm[limits] = tuple(found)
        return self._calm[limits]

    def passed(self, shard: str, states: Iterable[State], exhausted: Limit | None = None) -> Iterator[Threshold]:
        """The highest threshold that each budget has passed and that was not told yet.

        The budget ``exhausted`` has just refused a request: nobody comes nearer to all of it than that.
        """
        for limit, spent, reserved, _, _, window in states:
            if limit.unit != COST:
                continue
            is_used_up = limit == exhausted and not reserved
            percent = self._highest(limit.cap if is_used_up else spent, limit.cap)
            key = (shard, limit.scope, limit.field)
            known = self._told.get(key)
            before_spent, before, told_in = known or (0, 0, 0)
            if spent < before_spent and window != told_in:
                before = 0  # within a window what one lease knows may be less than what another told
            if percent > before:
                yield Threshold(limit.scope, NAMES[limit.field], percent, spent, limit.cap, shard)
            if percent or known is not None:
                self._remember(key, (spent, max(percent, before), window))

    def _remember(self, key: tuple[str, str, str], told: tuple[int, int, int]) -> None:
        if self._told.get(key) != told:
            if len(self._told) >= _REMEMBERED:
                self._told.clear()
            self._told[key] = told
            self._calm.clear()

    def _highest(self, spent: int, cap: int) -> int:
        highest = 0
        for percent in self._percents:
            if not cap or spent * 100 < cap * percent:
                break
            highest = percent
        return highest

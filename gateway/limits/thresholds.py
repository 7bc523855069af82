"""Soft thresholds of budgets: told once per window when the money spent passes a percentage."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .engine import State
from .rules import NAMES, LimitSet

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
        self._percents = tuple(sorted(percents))
        self._told: dict[tuple[str, str, str], tuple[int, int]] = {}
        """Counter -> (spent when last told or seen lower, the percentage told)."""

    def passed(self, limits: LimitSet, states: Sequence[State], exhausted: int | None = None) -> Iterator[Threshold]:
        """The highest threshold that each budget has passed and that was not told yet.

        The budget at position ``exhausted`` has just refused a request: nobody comes nearer to all of it than that.
        """
        for position in limits.budgets:
            limit, spent, reserved, *_ = states[position]
            is_used_up = position == exhausted and not reserved
            percent = self._highest(limit.cap if is_used_up else spent, limit.cap)
            key = (limits.shard, limit.scope, limit.field)
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
        return max((p for p in self._percents if cap and spent * 100 >= cap * p), default=0)

"""Calendar windows in UTC: days, weeks from Monday, months, and the one that never ends.

A window is a whole number that only grows; ``reserve.lua`` computes the same numbers from the clock of Redis.
All times are milliseconds since 1970.
"""

import datetime as dt
from functools import lru_cache

DAY, WEEK, MONTH, TOTAL = 1, 2, 3, 4
"""The ``period`` of a calendar limit."""

DAY_MS = 86_400_000
_EPOCH = dt.date(1970, 1, 1).toordinal()
_THURSDAY = 3
"""Day 0 was a Thursday: three days after a Monday."""


def window(period: int, now: int) -> int:
    """The number of the window that holds ``now``."""
    day = now // DAY_MS
    if period == DAY:
        return day
    if period == WEEK:
        return (day + _THURSDAY) // 7
    if period == MONTH:
        date = dt.date.fromordinal(_EPOCH + day)
        return date.year * 12 + date.month - 1
    return 0


def start(period: int, number: int) -> int:
    """When window ``number`` begins."""
    if period == DAY:
        return number * DAY_MS
    if period == WEEK:
        return (number * 7 - _THURSDAY) * DAY_MS
    if period == MONTH:
        return (dt.date(number // 12, number % 12 + 1, 1).toordinal() - _EPOCH) * DAY_MS
    return 0


@lru_cache(maxsize=64)
def end(period: int, number: int) -> int | None:
    """When window ``number`` is over; None for the one that never is."""
    return None if period == TOTAL else start(period, number + 1)

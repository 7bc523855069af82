"""Failed authentications per client address: counted, bounded in memory, refused when there are too many."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from .errors import LimitExceeded

MAX_ADDRESSES = 10_000
"""The oldest go first: somebody with many addresses must not fill memory."""


class Failures:
    """``limit`` is per address and minute. Valid credentials are never slowed down by what others of the address do."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Address -> (minute, failures in it)."""

    def count(self, address: str) -> None:
        """Note a failure; raises LimitExceeded when there were too many in this minute."""
        minute = int(self._clock() // 60)
        at, failures = self._counts.pop(address, (minute, 0))
        failures = failures + 1 if at == minute else 1
        self._counts[address] = (minute, failures)
        if len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)
        if failures > self._limit:
            raise self._refusal()

    def check(self, address: str) -> None:
        """Raise LimitExceeded when there were too many: where not even the next attempt shall be looked at."""
        at, failures = self._counts.get(address, (0, 0))
        if failures >= self._limit and at == int(self._clock() // 60):
            raise self._refusal()

    def _refusal(self) -> LimitExceeded:
        wait = 60 - math.fmod(self._clock(), 60)
        return LimitExceeded("Too many failed authentications from this address.", retry_after=wait)

"""What happened in the last seconds: two counts that forget."""

from collections import deque

SECONDS = 10
"""The window of success rates and retry budgets."""


class Recent:
    """Two counts over the last SECONDS seconds, in slots of one second."""

    __slots__ = ("_left", "_right", "_slots")

    def __init__(self) -> None:
        self._slots: deque[list[int]] = deque()
        self._left = 0
        self._right = 0

    def add(self, now: float, left: int, right: int) -> None:
        second = int(now)
        if not self._slots or self._slots[-1][0] != second:
            self._expire(second)
            self._slots.append([second, 0, 0])
        slot = self._slots[-1]
        slot[1] += left
        slot[2] += right
        self._left += left
        self._right += right

    def totals(self, now: float) -> tuple[int, int]:
        self._expire(int(now))
        return self._left, self._right

    def span(self, now: float) -> float:
        """Seconds that the counts cover: from the second of the oldest one until now, at least 1, at most SECONDS."""
        self._expire(int(now))
        return min(max(now - self._slots[0][0], 1.0), SECONDS) if self._slots else 1.0

    def clear(self) -> None:
        self._slots.clear()
        self._left = self._right = 0

    def _expire(self, second: int) -> None:
        while self._slots and self._slots[0][0] <= second - SECONDS:
            _, left, right = self._slots.popleft()
            self._left -= left
            self._right -= right

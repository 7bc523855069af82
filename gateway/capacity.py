"""How many requests an upstream pool can take at once: found out by what it answers, not by a formula.

Additive increase, multiplicative decrease. The capacity is a fraction of what this worker may use, so that a change
of its share (see ``pools``) scales it. Plain latency is no signal, because it depends on the length of answers; the
time to the first token, among prompts of about the same size, is one. What providers tell of their rate limits holds
requests back before they are refused.
"""

import math

DECREASE = 0.7
"""On a loss: a 429, 503, 529 or an overload told inside a stream."""
INFLATED_DECREASE = 0.9
INFLATION = 1.5
"""Recent times to the first token over the usual ones, above which a queue has built up inside the upstream."""
RECENT, USUAL = 0.05, 0.005
"""Weight of one observation in the two moving averages, of logarithms: single times vary by half and more, and the recent
average must not pass for inflated because a few of them were long."""
ENOUGH = 50
"""Observations of a size before its inflation says anything."""


class Capacity:
    """At most ``most`` at once, never less than ``least``."""

    def __init__(self, most: float, least: float) -> None:
        self.share = float(most)
        """The most this worker may have in flight; changes with the other workers' demand."""
        self._floor = min(least / most, 1.0)
        self._fraction = 1.0
        self._decreased = float("-inf")
        self._times: dict[int, list[float]] = {}
        """Size bucket -> logarithms of the recent and the usual time to the first token, observations."""
        self._left: dict[str, list[float]] = {}
        """Deployment -> requests that its provider would still take, the moment until which that is believed."""

    @property
    def limit(self) -> float:
        """Requests in flight at most; at least one wherever there is a share."""
        return max(self._fraction * self.share, 1.0) if self.share else 0.0

    def clean(self, in_flight: int) -> None:
        """A request ended well: one more for every ``limit`` of them, if the pool was in use at all."""
        if in_flight >= self.limit / 2 and self.share:
            self._fraction = min(1.0, self._fraction + 1 / (self.limit * self.share))

    def overloaded(self, admitted: float, now: float, in_flight: int, factor: float = DECREASE) -> None:
        """A loss. Those admitted before the last decrease tell of what was decreased for already."""
        if admitted >= self._decreased and in_flight >= self.limit / 2:
            self._decreased = now
            self._fraction = max(self._floor, self._fraction * factor)

    def told(self, deployment: str, left: float, until: float) -> None:
        """A provider said how many more requests it takes now: more than the limit says nothing."""
        if left >= self.limit:
            self._left.pop(deployment, None)
        else:
            self._left[deployment] = [left, until]

    def held_until(self, deployments: int, now: float) -> float | None:
        """Until when none may begin, because all of so many providers would refuse it; None: one may."""
        if not self._left:
            return None
        self._left = {name: told for name, told in self._left.items() if told[1] > now}
        if len(self._left) < deployments or any(left >= 1 for left, _ in self._left.values()):
            return None
        return min(until for _, until in self._left.values())

    def begun(self) -> None:
        """One more request is on its way to whichever deployment has most left."""
        if self._left:
            most = max(self._left.values(), key=lambda told: told[0])
            most[0] = max(most[0] - 1, 0.0)

    def first_token(self, seconds: float, size: int, admitted: float, now: float, in_flight: int) -> None:
        """A time to the first token of a stream, of a prompt of ``size`` tokens."""
        seen = math.log(max(seconds, 0.001))
        times = self._times.setdefault(size.bit_length(), [seen, seen, 0])
        times[2] += 1
        for average, weight in ((0, RECENT), (1, USUAL)):  # a plain average first: the very first one says little
            times[average] += max(weight, 1 / times[2]) * (seen - times[average])
        if times[2] >= ENOUGH and times[0] - times[1] > math.log(INFLATION):
            self.overloaded(admitted, now, in_flight, INFLATED_DECREASE)

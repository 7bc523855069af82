"""How hard something is pressed, in steps that do not flap, and who goes first when it is too hard.

Sans clock, as ``scheduler`` is: a simulation runs the same code.
"""

import zlib
from collections.abc import Callable, Sequence

COHORTS = 128
"""Into so many parts keys are divided: whole parts are turned away, so that the other keys go on undisturbed."""
TURN_SECONDS = 3600
"""After so long other keys are the first to go."""


class Pressure:
    """A level from 0 up: it rises at once, and comes down one step at a time when it has been calm for a while."""

    def __init__(
        self, steps: Sequence[float], clock: Callable[[], float], *, slack: float = 0.1, calm: float = 1.0
    ) -> None:
        """``steps``: the loads at which each level begins. A level ends ``slack`` below its step, after ``calm`` seconds."""
        self.level = 0
        self._steps = tuple(steps)
        self._clock = clock
        self._slack = slack
        self._calm = calm
        self._since = float("inf")
        """Since when the load has been low enough for one level less; for ever where it is not."""
        self._noted = clock()

    def note(self, load: float) -> int:
        """Take a load into account (1 is all that can be borne); gives the level.

        Between two notes that are further apart than ``calm`` there was nothing to note: that is calm, too.
        """
        reached, now = sum([load >= step for step in self._steps]), self._clock()
        if self._since == float("inf") and now - self._noted >= self._calm:
            self._since = self._noted
        self._noted = now
        if reached >= self.level or not self._is_low(load):
            self.level, self._since = max(reached, self.level), float("inf")
            return self.level
        self._since = min(self._since, now)
        while self.level > reached and self._is_low(load) and now - self._since >= self._calm:
            self.level -= 1
            self._since += self._calm
        return self.level

    def _is_low(self, load: float) -> bool:
        """Whether the load is low enough for one level less."""
        return load < self._steps[self.level - 1] - self._slack


def cohort(key: str, now: float) -> int:
    """The part that a key belongs to, from 0 on: the same at every worker, another one every hour."""
    return zlib.crc32(f"{int(now // TURN_SECONDS)}:{key}".encode()) % COHORTS

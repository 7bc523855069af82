"""A worker's protection of itself: with too much to do it turns flex away first, then default, priority last.

Two signals: how late the event loop runs, and how many requests are in flight. A lag counts once it has lasted, so that
one long step (a garbage collection, a large body) turns nobody away.
"""

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable

import orjson

from config.schema import Server

from .call import CallRecord
from .errors import CapacityUnavailable, Overloaded
from .pressure import COHORTS, Pressure, cohort
from .scheduler import DEFAULT, FLEX, LEVELS, PRIORITY

LOGGER = logging.getLogger("sluice.protection")
LOOK_SECONDS = 0.1
"""Between two looks at the event loop."""
LASTING = 5
"""Looks in a row that must be late: the least of them is believed."""
NO_FLEX, SOME_DEFAULT, NO_DEFAULT = 1, 2, 3
FLEX_SHARE = 0.5
"""Of the requests there is room for: flex that waits for minutes must not take the room of others."""
STEPS = (0.8, 0.9, 1.0)
"""The loads at which flex, part of default and all of default are turned away."""


class Protection:
    """One per worker. ``admit`` is called for each request, the rest ten times a second."""

    def __init__(
        self, config: Server, in_flight: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most_lag = config.max_loop_lag
        self._most = config.max_requests_in_flight
        self._in_flight = in_flight
        self._flex = 0
        """Requests of flex in flight."""
        self._lags = deque([0.0] * LASTING, maxlen=LASTING)
        self._late = 0.0
        """The load that the lag amounts to."""
        self._pressure = Pressure(STEPS, clock, slack=0.05)
        self._logged = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._look())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self.note_lag(loop.time() - due)

    def note_lag(self, seconds: float) -> None:
        """Note how late the event loop was once."""
        self._lags.append(seconds)
        lag, most = min(self._lags), self._most_lag
        self._late = STEPS[0] + math.log2(lag / most) / 10 if most is not None and lag >= most else 0.0
        level = self._pressure.note(self._load())
        if level != self._logged:
            self._logged = level
            LOGGER.warning(
                "%s", orjson.dumps({"event": "worker pressed", "level": level, "lag": round(lag, 3), "in_flight": self._in_flight()}).decode()
            )  # fmt: skip

    def _load(self) -> float:
        """1 is all that can be borne: every request there is room for, or four times the lag that may be."""
        used = self._in_flight() / self._most
        return max(self._late, used)

    def admit(self, record: CallRecord, key: str) -> None:
        """Raise CapacityUnavailable (flex) or Overloaded when a request's tier must give way; notes so in the record."""
        load, flex = self._load(), record.effective_tier == "flex"
        if load < STEPS[0] and not flex and not self._pressure.level:
            return  # nearly always
        pressure = self._pressure.note(load)
        if not pressure and not flex:
            return
        level = LEVELS.get(record.effective_tier or "default", PRIORITY)
        if level == FLEX:
            if not pressure and self._flex < FLEX_SHARE * self._most:
                self._flex += 1
                record.counted = True
                return
            record.shed = True
            wait = random.uniform(5, 15)  # noqa: S311 - so that they do not come back all at once
            raise CapacityUnavailable(
                "Resource Unavailable: there is no capacity for this service tier right now.", retry_after=wait
            )
        if level == DEFAULT and pressure >= SOME_DEFAULT:
            parts = COHORTS * (load - STEPS[1]) / (STEPS[2] - STEPS[1]) if pressure < NO_DEFAULT else COHORTS
            if cohort(key, time.time()) < max(parts, 1):
                record.shed = True
                raise Overloaded(
                    "The gateway is overloaded right now.",
                    retry_after=random.uniform(1, 3),  # noqa: S311 - as above
                )

    def leave(self, record: CallRecord) -> None:
        """A request that was admitted is over; any number of times."""
        if record.counted:
            record.counted = False
            self._flex -= 1

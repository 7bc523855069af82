"""Whether a deployment is worth an attempt now.

A breaker for failures (closed, open, half open), a cool-down for rate limits, and reluctance: a deployment that is
slow, nearly out of its rate limit or just back is tried after the others, not left out.
"""

import random
import time
from collections.abc import Callable
from typing import NamedTuple

from adapters.errors import ErrorKind, ProviderError
from adapters.ratelimits import RateLimits
from config.schema import Health as HealthConfig

from .recent import Recent

BREAKS = frozenset(
    {ErrorKind.OVERLOADED, ErrorKind.SERVER, ErrorKind.TIMEOUT, ErrorKind.CONNECTION, ErrorKind.INCOMPLETE, ErrorKind.PROTOCOL}
)  # fmt: skip
"""Failures of the deployment itself. A rate limit counts to the cool-down, a bad request to nothing."""
COOLS = {ErrorKind.RATE_LIMITED: 1.0, ErrorKind.QUOTA: 60.0, ErrorKind.AUTHENTICATION: 60.0}
"""Seconds to leave a deployment alone when it did not say how long. A refusal of flex says nothing of other tiers."""
KINDS = tuple(ErrorKind)
MAX_COOL_DOWN = 300.0
OUTAGE_RETRY = 5.0
MAX_HINT = 10.0
"""Seconds that rate-limit headers may make us reluctant: a bucket gives its first token long before it is full."""
ENOUGH = 20
"""Answers in the window below which a success rate says nothing."""
PROVEN = 50
"""Answers in the window after which one that was out is believed to be well again."""
PROBE_SECONDS = 60.0
LEAST_SHARE = 0.1
"""Of its turns that a deployment gets when it has just come back."""
MOST_BAD = 10
"""Percent of failures up to which a deployment bears other ones' traffic."""


class Known(NamedTuple):
    """What of a deployment's health other workers shall know, in seconds."""

    open_seconds: float
    """How long the breaker is open this time; 0: it is closed."""
    open_left: float
    back_ago: float
    """Since it was closed again; negative: it never was."""
    cool_left: float
    hint_left: float
    slow_left: float
    slow_seconds: float
    """How long it is left alone this time for being slow."""
    why: float
    """The place among the kinds of failure of the one that took it out; negative: none did."""


class Health:
    """The state of one deployment, as this worker sees it. Times are seconds of ``clock``.

    ``changed`` is told of every change that other workers should know, and whether it is of the breaker. ``elected``
    is asked whether this worker may make a probe that could be made since then.
    """

    def __init__(
        self,
        config: HealthConfig,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[bool], None] = lambda _: None,
        elected: Callable[[float], bool] = lambda _: True,
    ) -> None:
        self.config = config
        self._clock = clock
        self._changed = changed
        self._elected = elected
        self.why: ErrorKind | None = None
        """What took it out last."""
        self.opened_at = float("-inf")
        """When the breaker opened, or a probe failed."""
        self._failures = 0
        self._answers = Recent()
        self._open_until = 0.0
        self._open_seconds = 0.0
        self._probing = 0.0
        """Until when a probe is under way; 0: none is."""
        self._taken = True
        """Whether the probe's maker knows that it makes one."""
        self._back_since: float | None = None
        self._cool_until = 0.0
        self._hint_until = 0.0
        self._slow_until = 0.0
        self._slow_seconds = 0.0

    @property
    def closed(self) -> bool:
        """Whether the breaker lets everything through (a cool-down may not)."""
        return not self._open_seconds

    @property
    def serves(self) -> bool:
        """Whether it takes requests: its breaker is closed and it is not cooling down."""
        return not self._open_seconds and self._cool_until <= self._clock()

    @property
    def cooling(self) -> float:
        """Seconds of the cool-down that are left."""
        return max(self._cool_until - self._clock(), 0.0)

    def available(self) -> bool:
        """Whether to try now. When the breaker is half open, exactly one caller is told yes."""
        now = self._clock()
        if now < self._cool_until:
            return False
        if not self._open_seconds:
            return True
        if now < self._open_until or now < self._probing:
            return False
        return self._elected(self._open_until) and self._claim()

    def ready(self, now: float) -> bool:
        """Whether nothing speaks against it: it is ``available`` and not ``reluctant``, whatever the dice say."""
        if self._open_seconds or now < max(self._cool_until, self._hint_until, self._slow_until):
            return False
        return self._back_since is None or now - self._back_since >= self.config.slow_start

    def probe(self) -> bool:
        """Whether to try although the breaker is open, because there is no other: one caller at a time."""
        return self._clock() >= self._cool_until and (self.closed or self._claim())

    def _claim(self) -> bool:
        """One probe at a time. One that never ends, because who should make it was gone, counts for so long only."""
        now = self._clock()
        if now < self._probing:
            return False
        self._probing, self._taken = now + PROBE_SECONDS, False
        return True

    def take(self) -> bool:
        """Whether the attempt that begins now is the probe that was said yes to."""
        probe, self._taken = not self._taken, True
        return probe

    def reluctant(self) -> bool:
        """Whether the others come first. Just after a recovery the dice say so, less and less often."""
        now = self._clock()
        if now < self._hint_until or now < self._slow_until:
            return True
        ramp = self.config.slow_start
        if self._back_since is None:
            return False
        back = now - self._back_since
        return back < ramp and random.random() > max(back / ramp, LEAST_SHARE)  # noqa: S311

    def well(self) -> bool:
        """Whether it answers well enough to bear the traffic of another one that fails.

        One of which little is known is believed to; one that was out has to show it first.
        """
        good, bad = self._answers.totals(self._clock())
        if not self.closed or (self._back_since is not None and good + bad < PROVEN):
            return False
        return 100 * bad <= MOST_BAD * max(good + bad, ENOUGH)

    def release(self) -> None:
        """A probe ended without telling anything about the deployment (the client left, say)."""
        self._probing, self._taken = 0.0, True

    def succeeded(self, now: float | None = None) -> None:
        if now is None:
            now = self._clock()
        self._failures = 0
        self._probing, self._taken = 0.0, True
        if self._open_seconds:
            self._close(now)
            self._answers.add(now, 1, 0)
            self._changed(True)
        else:
            self._answers.add(now, 1, 0)

    def _close(self, since: float) -> None:
        self._back_since = since
        self._open_seconds = 0.0
        self._failures = 0
        self._answers.clear()

    def failed(
        self, error: ProviderError, *, last: bool = False, queued: bool = False, probe: bool | None = None
    ) -> None:
        """``last`` tells that no other deployment could serve: then more is needed to take it out.

        ``queued`` tells that a queue in front of it waits instead while it limits our rate. ``probe``: whether it was
        the probe that failed; None: it was, if one is under way.
        """
        now = self._clock()
        if probe is None:
            probe = now < self._probing
        if error.kind in COOLS and not (queued and error.kind is ErrorKind.RATE_LIMITED):
            wait = error.retry_after if error.retry_after is not None else COOLS[error.kind]
            self._cool_until = max(self._cool_until, now + min(wait, MAX_COOL_DOWN))
            self.why = error.kind
            self._changed(False)
        if error.kind not in BREAKS:
            if probe:
                self.release()
            return
        self._answers.add(now, 0, 1)
        self._failures += 1
        allowed = self.config.consecutive_failures * (2 if last else 1)
        if not self.closed:
            if probe:
                self._open(now, error.kind)  # others were under way when it opened: they tell nothing new
        elif self._failures >= allowed or (not last and self._poor(now)):
            self._open(now, error.kind)

    def hinted(self, limits: RateLimits) -> None:
        """Rate-limit headers of an answer: with nothing left, others come first for a while."""
        if 0 in (limits.requests, limits.tokens):
            self._hint_until = self._clock() + min(limits.reset or 1.0, MAX_HINT)
            self._changed(False)

    def slow(self) -> None:
        """It answers much more slowly than another: others come first, each time for longer."""
        now = self._clock()
        if now >= self._slow_until:
            fresh = now - self._slow_until > 2 * self._slow_seconds
            self._slow_seconds = self._longer(0.0 if fresh else self._slow_seconds)
            self._slow_until = now + self._slow_seconds
            self._changed(False)

    @property
    def known(self) -> Known:
        """For other workers."""
        now = self._clock()
        return Known(
            self._open_seconds,
            max(self._open_until - now, 0.0) if self._open_seconds else 0.0,
            now - self._back_since if self._back_since is not None else -1.0,
            max(self._cool_until - now, 0.0),
            max(self._hint_until - now, 0.0),
            max(self._slow_until - now, 0.0),
            self._slow_seconds,
            KINDS.index(self.why) if self.why is not None else -1.0,
        )

    def learn(self, known: Known, *, breaker: bool) -> None:
        """What another worker knows: the longest wait counts, and of a breaker what is news."""
        now = self._clock()
        if 0 <= known.why < len(KINDS) and (known.cool_left > self.cooling or (breaker and known.open_seconds)):
            self.why = KINDS[int(known.why)]
        self._cool_until = max(self._cool_until, now + min(known.cool_left, MAX_COOL_DOWN))
        self._hint_until = max(self._hint_until, now + min(known.hint_left, MAX_HINT))
        if now + known.slow_left > self._slow_until:
            self._slow_until, self._slow_seconds = now + known.slow_left, known.slow_seconds
        if not breaker:
            return
        if known.open_seconds:
            self._open_seconds, self._open_until = known.open_seconds, now + known.open_left
            self.opened_at = now
        elif self._open_seconds:
            self._close(now - max(known.back_ago, 0.0))
            self.release()

    def _poor(self, now: float) -> bool:
        good, bad = self._answers.totals(now)
        return good + bad >= ENOUGH and good * 100 < self.config.success_percent * (good + bad)

    def _longer(self, seconds: float) -> float:
        return min(seconds * 2 if seconds else self.config.open_seconds, self.config.max_open_seconds)

    def _open(self, now: float, why: ErrorKind) -> None:
        self._open_seconds = self._longer(self._open_seconds)
        self._open_until = now + self._open_seconds * random.uniform(0.5, 1.5)  # noqa: S311
        self.release()
        self.opened_at = now
        self.why = why
        self._changed(True)

    @property
    def retry_in(self) -> float:
        """Seconds until it may be tried again; not above 0 when it may be tried now."""
        return max(self._cool_until, self._open_until if self._open_seconds else 0.0, 0.0) - self._clock()

    @property
    def worth_waiting(self) -> float:
        """Seconds after which a client should come again that found everything out: an outage is probed every second."""
        return self.cooling or min(self.retry_in, OUTAGE_RETRY)

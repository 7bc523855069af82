"""Whether a deployment is worth an attempt now: a breaker for failures, a cool-down for rate limits."""

import random
import time
from collections.abc import Callable

from adapters.errors import ErrorKind, ProviderError
from config.schema import Health as HealthConfig

BREAKS = frozenset(
    {ErrorKind.OVERLOADED, ErrorKind.SERVER, ErrorKind.TIMEOUT, ErrorKind.CONNECTION, ErrorKind.INCOMPLETE, ErrorKind.PROTOCOL}
)  # fmt: skip
"""Failures of the deployment itself. A rate limit counts to the cool-down, a bad request to nothing."""
COOLS = {ErrorKind.RATE_LIMITED: 1.0, ErrorKind.QUOTA: 60.0, ErrorKind.AUTHENTICATION: 60.0}
"""Seconds to leave a deployment alone when it did not say how long. A refusal of flex says nothing of other tiers."""
MAX_COOL_DOWN = 300.0


class Health:
    """The state of one deployment, as this worker sees it."""

    def __init__(self, config: HealthConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._open_seconds = 0.0
        self._probing = False
        self._cool_until = 0.0

    def available(self) -> bool:
        """Whether to try now. When the breaker is half open, exactly one caller is told yes."""
        now = self._clock()
        if now < self._cool_until:
            return False
        if not self._open_seconds:
            return True
        if now < self._open_until or self._probing:
            return False
        self._probing = True
        return True

    def release(self) -> None:
        """A probe ended without telling anything about the deployment (the client left, say)."""
        self._probing = False

    def succeeded(self) -> None:
        self._failures = 0
        self._open_seconds = 0.0
        self._probing = False

    def failed(self, error: ProviderError) -> None:
        now = self._clock()
        if error.kind in COOLS:
            wait = error.retry_after if error.retry_after is not None else COOLS[error.kind]
            self._cool_until = max(self._cool_until, now + min(wait, MAX_COOL_DOWN))
        if error.kind not in BREAKS:
            self._probing = False
            return
        self._failures += 1
        if self._probing or self._failures >= self._config.consecutive_failures:
            self._open(now)

    def _open(self, now: float) -> None:
        grown = self._open_seconds * 2 if self._open_seconds else self._config.open_seconds
        self._open_seconds = min(grown, self._config.max_open_seconds)
        self._open_until = now + self._open_seconds * random.uniform(0.5, 1.5)  # noqa: S311
        self._probing = False

    @property
    def retry_in(self) -> float:
        """Seconds until it may be tried again; 0 when it may be tried now."""
        return max(self._cool_until, self._open_until if self._open_seconds else 0.0, 0.0) - self._clock()

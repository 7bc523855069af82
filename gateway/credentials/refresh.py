"""A value that expires, renewed ahead of time by one task at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from adapters.errors import ErrorKind, ProviderError

from ..upstream import NotSent

logger = logging.getLogger(__name__)
T = TypeVar("T")

AHEAD = 300.0
"""Seconds before its end from which a value is renewed; a fifth of its life where that is shorter."""
SETTLED = 60.0
"""Seconds after which a value that is refused is renewed: a younger one would be refused again."""
LAST_MOMENT = 5.0
"""Seconds before its end from which a value is not used any more: requests take time."""
PAUSE = 10.0
"""Seconds between attempts to renew a value that is still good."""
PAUSES = (0.2, 0.8)
"""Seconds before an issuer that did not answer, or is not well, is asked again while requests wait."""
BUSY = frozenset({408, 425, 429})
RETRY, LONGEST_RETRY = 1.0, 30.0
"""Seconds for which a failure answers the requests that have no value at all; doubled by each one after it, up to the second."""


class NoCredential(NotSent):
    """There is none to send. Other workers and replicas may have theirs, so it is no word on the deployment."""


@dataclass(frozen=True, slots=True)
class Issued(Generic[T]):
    value: T = field(repr=False)
    expires: float = float("inf")
    """Seconds since the epoch."""


class Refreshed(Generic[T]):
    """``get`` gives the value and renews it when its end is near: the old one serves as long as it is good."""

    def __init__(
        self, kind: str, issue: Callable[[], Awaitable[Issued[T]]], clock: Callable[[], float], timeout: float
    ) -> None:
        self._kind, self._issue, self._clock, self._timeout = kind, issue, clock, timeout
        self._held: Issued[T] | None = None
        self._issued_at = 0.0
        self._doubted = False
        """Whether the value was ever renewed because it was refused."""
        self._renew_at = 0.0
        self._failures = 0
        """In a row, without a value that is still good."""
        self._task: asyncio.Task[Issued[T]] | None = None

    async def get(self) -> T:
        """Raises NoCredential when there is no good value and none can be had."""
        now = self._clock()
        held = self._held
        good = held is not None and now < held.expires - LAST_MOMENT
        if self._task is None and now >= self._renew_at:
            self._begin()
        if held is not None and good:
            return held.value
        if self._task is None:  # an attempt has just failed
            raise _none()
        # shielded: a request that is cancelled must not take the renewal of all others with it
        return (await asyncio.shield(self._task)).value

    def ask_by(self, issue: Callable[[], Awaitable[Issued[T]]]) -> None:
        """Renew by ``issue`` from now on, and soon: what it reads may be different."""
        self._issue, self._renew_at = issue, 0.0

    def refused(self, ago: float) -> bool:
        """The provider refused the value of a request that began ``ago`` seconds before: whether there is, or soon will be, another.

        It may have ended early: sessions are revoked, roles granted. The old one serves meanwhile, for elsewhere it may
        be good.
        """
        held, age = self._held, self._clock() - self._issued_at
        if self._task is None and held is not None and age >= SETTLED and held.expires != float("inf"):
            self._doubted = True
            self._begin()
        return self._task is not None or (self._doubted and age < ago)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._renew())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _renew(self) -> Issued[T]:
        try:
            async with asyncio.timeout(self._timeout):
                issued = await self._ask()
        except (ProviderError, OSError, TimeoutError, ValueError) as exc:
            self._renew_at = self._after_failure()
            reason = exc.message if isinstance(exc, ProviderError) else type(exc).__name__
            logger.warning("renewing a credential of %s failed: %s", self._kind, reason)
            raise _none() from None
        else:
            now = self._clock()
            self._held, self._issued_at, self._failures = issued, now, 0
            self._renew_at = issued.expires - max(LAST_MOMENT, min(AHEAD, (issued.expires - now) / 5))
            return issued
        finally:
            if self._task is not None:
                self._task.add_done_callback(_retrieve)
            self._task = None

    async def _ask(self) -> Issued[T]:
        """The issuer's answer, which may be had a moment later: metadata services begin after the gateway they serve."""
        for pause in PAUSES:
            try:
                return await self._issue()
            except ProviderError as exc:
                if not _passes(exc):
                    raise
            await asyncio.sleep(pause)
        return await self._issue()

    def _after_failure(self) -> float:
        """When to try again: at once when the old value ends, after a pause while it is good or when there is none."""
        now = self._clock()
        end = self._held.expires - LAST_MOMENT if self._held is not None else now
        if now < end:
            return min(now + PAUSE, end)
        pause = min(RETRY * 2.0 ** min(self._failures, 8), LONGEST_RETRY)
        self._failures += 1
        return now + pause


def _none() -> NoCredential:
    return NoCredential(ErrorKind.AUTHENTICATION, "The gateway could not get its credential for the provider.")


def _passes(failure: ProviderError) -> bool:
    """Whether an issuer's failure is one of the moment."""
    status = failure.status
    return failure.kind is ErrorKind.CONNECTION if status is None else status >= 500 or status in BUSY


def _retrieve(task: "asyncio.Task[Issued[T]]") -> None:
    """Nobody may be waiting for a renewal that failed."""
    if not task.cancelled():
        task.exception()

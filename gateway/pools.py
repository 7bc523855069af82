"""The gateway's own service tiers, on the clock of the event loop and across workers: ``scheduler`` with a body."""

import asyncio
import contextlib
import logging
import math
import random
import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from adapters.errors import ErrorKind, ProviderError
from adapters.ratelimits import RateLimits
from config.schema import Config, Redis
from config.schema import Queue as QueueConfig

from .capacity import Capacity
from .errors import CapacityUnavailable, GatewayError, Overloaded
from .limits.engine import Broken, Slow, StoreDown
from .scheduler import DEFAULT, FLEX, LEVELS, PRIORITY, Outcome, Scheduler, State, Ticket

if TYPE_CHECKING:
    from .limits.store import Store

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.25
"""Between two looks at what the other workers need."""
LEASE_SECONDS = 3.0
"""A worker silent for so long has no share any more; one that hears nothing for so long takes an equal part."""

TOLD_SECONDS = 1.0
"""So long the rate-limit headers of an answer are believed: with anything in flight the next answer tells anew."""
LONGEST_PAUSE = 10.0
"""Seconds that a provider's ``Retry-After`` may keep a pool waiting."""
LOSSES = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED})
"""Failures that tell of too much traffic."""


class QueueFull(Overloaded):
    """Nobody left in time, or the queue has no room."""


class FlexFull(CapacityUnavailable):
    """There is no place for flex."""

    kind = ErrorKind.CAPACITY


class Slot:
    """A request's place in a pool, until ``leave``."""

    __slots__ = ("_pool", "_ticket", "waited")

    def __init__(self, pool: "Pool", ticket: Ticket) -> None:
        self._pool = pool
        self._ticket = ticket
        self.waited = ticket.admitted - ticket.entered
        """In seconds."""

    def leave(self, outcome: Outcome = Outcome.OTHER, first_token: float | None = None) -> None:
        """Give it back; any number of times. ``first_token`` is in seconds from the admission."""
        self._pool.scheduler.leave(self._ticket, outcome, first_token)

    def told(self, deployment: str, word: RateLimits | ProviderError) -> None:
        """The provider said what is left of its rate limits, or when to come again."""
        self._pool.told(deployment, word, self._ticket)


class Pool:
    """The deployments of one public model, with a queue in front."""

    def __init__(self, name: str, config: QueueConfig, deployments: int = 1) -> None:
        self.name = name
        self.config = config
        loop = asyncio.get_running_loop()
        self.scheduler = Scheduler(
            Capacity(config.capacity, config.min_capacity), config.max_queue, loop.time, loop.call_later, deployments
        )
        self._clock = loop.time
        self._waits = {PRIORITY: config.wait_priority, DEFAULT: config.wait_default}

    async def enter(self, tier: str, key: str, cost: int, flex_wait: float, size: int = 0) -> Slot:
        """Wait for a place, as long as the tier may; raises FlexFull or QueueFull.

        ``cost`` are the tokens that are reserved for it, ``size`` those of the prompt.
        """
        level = LEVELS.get(tier, PRIORITY)
        decision: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def decided(_: Ticket) -> None:
            if not decision.done():
                decision.set_result(None)

        ticket = self.scheduler.enter(level, key, cost, self._waits.get(level, flex_wait), decided, size)
        if ticket.state is State.WAITING:
            try:
                await decision
            except asyncio.CancelledError:
                self.scheduler.leave(ticket)  # also if it was admitted a moment ago
                raise
        if ticket.state is State.SHED:
            raise _refusal(level)
        return Slot(self, ticket)

    def told(self, deployment: str, word: RateLimits | ProviderError, asked: Ticket) -> None:
        """A provider said to ``asked`` what it still takes: what it would refuse waits here instead."""
        scheduler, now = self.scheduler, self._clock()
        if isinstance(word, ProviderError):
            if word.kind in LOSSES and word.retry_after:
                scheduler.capacity.told(deployment, 0, now + min(word.retry_after, LONGEST_PAUSE))
            return
        left = math.inf if word.requests is None else float(word.requests)
        if word.tokens is not None and scheduler.usual_cost:
            left = min(left, word.tokens / scheduler.usual_cost)
        # The other workers read the same headers, and all together may use what is left. Those let in later than this
        # one are not yet in what its answer says.
        later = (scheduler.admissions - asked.number) / scheduler.deployments
        until = now + min(word.reset or TOLD_SECONDS, TOLD_SECONDS)
        scheduler.capacity.told(deployment, max(left / scheduler.workers - later, 0), until)
        scheduler.admit()


def _refusal(level: int) -> GatewayError:
    wait = random.uniform(1, 3)  # noqa: S311 - so that they do not come back all at once
    if level == FLEX:
        return FlexFull(
            "Resource Unavailable: there is no capacity for this service tier right now.", retry_after=5 * wait
        )
    return QueueFull("This model is overloaded right now.", retry_after=wait)


class Pools:
    """Every pool of a configuration. With Redis, the workers share each pool's capacity by their demand."""

    def __init__(self, config: Config) -> None:
        self._pools = {
            name: Pool(name, m.queue, len(m.deployments)) for name, m in config.models.items() if m.queue is not None
        }
        self._store = _store(config.redis) if config.redis is not None and self._pools else None
        self._worker = secrets.token_hex(6)
        self._beats: list[asyncio.Task[None]] = []
        self._closing = False

    def get(self, model: str) -> Pool | None:
        return self._pools.get(model)

    @property
    def all(self) -> Mapping[str, Pool]:
        return self._pools

    def configure(self, config: Config) -> None:
        """Another configuration: a queue stays as it is, but there may be more or fewer deployments behind it."""
        for name, pool in self._pools.items():
            if name in config.models:
                pool.scheduler.deployments = len(config.models[name].deployments)

    async def start(self) -> None:
        """Learn this worker's share of each pool, and go on learning. Raises StoreDown when Redis is unfit for use."""
        if self._store is None:
            return
        await self._store.start()
        for pool in self._pools.values():
            pool.scheduler.capacity.share = 0
            await self._beat(self._store, pool)
            self._beats.append(asyncio.get_running_loop().create_task(self._keep_beating(self._store, pool)))

    async def close(self) -> None:
        """Give the shares back; raises nothing."""
        self._closing = True  # redis-py can swallow a cancellation that meets a reply
        for beat in self._beats:
            beat.cancel()
        await asyncio.gather(*self._beats, return_exceptions=True)
        if self._store is not None:
            for name in self._pools:
                with contextlib.suppress(StoreDown):
                    await self._store.leave(name, self._worker)
            await self._store.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _keep_beating(self, store: "Store", pool: Pool) -> None:
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while not self._closing:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._beat(store, pool)
                heard = loop.time()
                continue
            except (StoreDown, Slow, Broken):
                pass
            except Exception:  # a worker that no longer told of itself would go on with a share that others have taken
                log.exception("the share of pool %s could not be told", pool.name)
            if loop.time() - heard > LEASE_SECONDS:
                self._take_part(pool)

    async def _beat(self, store: "Store", pool: Pool) -> None:
        scheduler, lease = pool.scheduler, int(LEASE_SECONDS * 1000)
        holds = int(scheduler.capacity.share)
        arguments = (self._worker, lease, pool.config.capacity, holds, *scheduler.running, *scheduler.waiting)
        granted, target, scheduler.workers, high, middle, low, flex = await store.share(pool.name, arguments)
        scheduler.capacity.share = max(min(granted, target), min(granted, scheduler.in_flight))
        scheduler.elsewhere, scheduler.flex_elsewhere = (high, middle, low), flex
        scheduler.admit()

    def _take_part(self, pool: Pool) -> None:
        """Redis is silent: an equal part of the capacity, by the last known number of workers."""
        pool.scheduler.capacity.share = max(math.floor(pool.config.capacity / pool.scheduler.workers), 1)
        pool.scheduler.elsewhere, pool.scheduler.flex_elsewhere = (0, 0, 0), 0
        pool.scheduler.admit()


__all__ = ["FlexFull", "Outcome", "Pool", "Pools", "QueueFull", "Slot"]


def _store(config: Redis) -> "Store":
    from .limits.store import Store  # a fifth of the start-up time of a gateway that has no Redis

    return Store(config)

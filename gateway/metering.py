"""Reserve before a call, settle after it, whatever happened: tokens, money, and the row that proves it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from adapters.usage import NO_USAGE, Usage

from .answer import StreamedAnswer, WholeAnswer
from .call import Attempt, Call, CallRecord, Deployment, Plan, Principal, Route
from .errors import InvalidRequest
from .limits import Amounts, Limiter, Reservation
from .limits.estimate import Bound, Estimator
from .outgoing import outgoing
from .pricing import PriceBook

DURABLE_WITHIN = 5.0
"""Seconds that an answer's last byte waits for its row at most; the row is safe from our own death long before."""


class Ledger(Protocol):
    """Where rows become durable: ``gateway.records.ledger``."""

    def open(
        self, call_id: str, principal: Principal, model: str, *, reserved: int, started: float, stream: bool,
        requested_tier: str | None, effective_tier: str | None,
    ) -> None:  # fmt: skip
        """Note that a request runs; raises StoreUnavailable when nothing can be noted."""
        ...

    def append(self, record: CallRecord) -> Awaitable[None]:
        """Keep the attempts of a call: safe from the death of this process at once, on disk when awaited."""
        ...


class Meter:
    """Makes a Metered for each call. One per configuration."""

    def __init__(self, limiter: Limiter, prices: PriceBook, estimator: Estimator, ledger: Ledger | None) -> None:
        self.limiter = limiter
        self.prices = prices
        self.estimator = estimator
        self.ledger = ledger

    async def reserve(
        self, call: Call, principal: Principal, route: Route, plan: Plan, record: CallRecord
    ) -> "Metered":
        """Hold what the call may cost at worst, on every limit or none; raises LimitExceeded and its kin."""
        tier = record.effective_tier or "default"
        limits = self.limiter.applies(principal, route.name, tier)
        hard = limits is not None and bool(limits.budgets)
        bound = self.estimator.bound(call, plan, route.config.params.default, hard=hard)
        cost = self._worst_case(plan, bound, tier, hard=hard)
        amounts = Amounts(1, bound.input_tokens, bound.output_tokens, cost)
        reservation = await self.limiter.reserve(call.id, principal, route.name, tier, amounts)
        metered = Metered(self, call, route, tier, reservation, bound)
        if self.ledger is not None:
            try:
                self.ledger.open(
                    call.id, principal, route.name, reserved=cost, started=record.started, stream=call.stream,
                    requested_tier=record.requested_tier, effective_tier=tier,
                )  # fmt: skip
            except BaseException:
                reservation.settle(Amounts(0))
                raise
        return metered

    def _worst_case(self, plan: Plan, bound: Bound, tier: str, *, hard: bool) -> int:
        """The dearest that any deployment of the plan can be, at any tier it may be served at."""
        costs = [self.prices.worst_case(d, bound.most, tier) for d in plan]
        if hard and None in costs:
            raise InvalidRequest(
                "This model has no price in the gateway's configuration, so no budget can bound it.",
                param="model",
                code="model_not_priced",
            )
        return max((c for c in costs if c is not None), default=0)


class Metered:
    """The reservation of one call, and its settlement: exactly once, never awaiting, never raising."""

    def __init__(
        self, meter: Meter, call: Call, route: Route, tier: str, reservation: Reservation, bound: Bound
    ) -> None:
        self.call = call
        self.answer: StreamedAnswer | WholeAnswer | None = None
        self._meter = meter
        self._route = route
        self._tier = tier
        self._reservation = reservation
        self._bound = bound
        self._started = time.perf_counter()
        self._accounted = False

    def outgoing(self, deployment: Deployment) -> tuple[Mapping[str, Any], str | None]:
        """What is sent to a deployment: see ``gateway.outgoing``."""
        return outgoing(self.call, self._route, deployment, self._tier, self._bound.max_output)

    def limit_headers(self) -> Mapping[str, str]:
        return self._reservation.headers

    def headers(self, answer: StreamedAnswer | WholeAnswer, record: CallRecord) -> dict[str, str]:
        """What the answer's head says of limits, routing and dropped parameters."""
        headers = {**self._reservation.headers, "x-sluice-deployment": answer.deployment.id}
        if len(record.attempts) > 1:
            headers["x-sluice-attempts"] = str(len(record.attempts))
        if record.dropped:
            headers["x-sluice-dropped-params"] = ",".join(record.dropped)
        headers["openai-processing-ms"] = str(int((time.perf_counter() - self._started) * 1000))
        return headers

    async def settled(self, answer: StreamedAnswer | WholeAnswer, record: CallRecord) -> None:
        """Account for a complete answer and wait until its row is on disk: before the client has the last byte."""
        self.answer = answer
        ticket = self._account(record)
        if ticket is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DURABLE_WITHIN):
                    await ticket

    def close(self, record: CallRecord) -> None:
        """Account for whatever happened, if ``settled`` did not: no await, so no cancellation can come between."""
        if not self._accounted:
            self._account(record)

    def _account(self, record: CallRecord) -> Awaitable[None] | None:
        self._accounted = True
        if record.attempts and self.answer is not None:
            record.attempts[-1] = self._billed(record.attempts[-1], self.answer, record)
        record.usage = total = _sum(a.usage for a in record.attempts)
        record.cost = sum(a.cost for a in record.attempts)
        self._reservation.settle(
            Amounts(1, total.prompt_tokens, total.completion_tokens, record.cost, total.cache_read)
        )
        return self._meter.ledger.append(record) if self._meter.ledger is not None else None

    def _billed(self, attempt: Attempt, answer: StreamedAnswer | WholeAnswer, record: CallRecord) -> Attempt:
        usage, estimated = answer.usage, False
        if usage is None:
            usage, estimated = self._meter.estimator.settle_without_usage(self._bound, answer.text_bytes), True
        else:
            self._meter.estimator.learn(self._bound, usage, answer.text_bytes)
        tier = answer.served_tier or attempt.sent_tier or "default"
        record.served_tier = tier
        cost = self._meter.prices.cost(answer.deployment, usage, tier)
        seconds = time.perf_counter() - self._started
        return replace(attempt, usage=usage, estimated=estimated, cost=cost, served_tier=tier, seconds=seconds)


def _sum(usages: Iterable[Usage]) -> Usage:
    total = NO_USAGE
    for usage in usages:
        total = usage if total is NO_USAGE else total.plus(usage)
    return total

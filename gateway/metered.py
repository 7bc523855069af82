"""A reservation while its call runs, and its settlement, whatever happened: tokens, money, and the row that proves it."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.ratelimits import RateLimits

from . import tiers
from .answer import StreamedAnswer, WholeAnswer
from .call import Attempt, Call, CallRecord, Deployment, Plan, Principal, Route
from .errors import CapacityUnavailable, InvalidRequest, LimitExceeded, Overloaded, StoreUnavailable
from .limits import Amounts, Reservation
from .limits.estimate import Bound
from .outgoing import outgoing
from .pools import Slot
from .ramps import NO_GROWTH, Growth
from .settlement import NOTHING_USED, Held, Ticket, amounts_of, billed_tier, less, outcome_of, sum_of
from .terms import NO_PRICE, Means, Terms
from .tiers import AttemptTier
from .walk import CapacityUsedUp

DURABLE_WITHIN = 5.0
"""Seconds that an answer's last byte waits for its row at most; the row is safe from our own death long before."""
CHECKPOINT_SECONDS = 5.0
"""Between two notes of what a stream has used so far: what is charged for it should this process die."""
KINDS: Mapping[str, ErrorKind] = {kind.value: kind for kind in ErrorKind}


class Metered:
    """The reservation of one call, and its settlement: exactly once, never awaiting, never raising.

    What is reserved covers, at every moment, what finished attempts may be billed and what running ones may cost.
    """

    # What most calls never change:
    downgraded: str | None = None
    """Why it runs at a lower tier than it was allowed to."""
    queued: float | None = None
    """Seconds in the gateway's own queue; None where there is none."""
    flex_until = 0.0
    """The moment (``time.monotonic``) until which a flex request may wait."""
    _paid = 0
    """Nano-dollars that failed attempts may be billed and that are not booked yet."""
    _first: Deployment | None = None
    """Of attempt 1, while it runs and holds nothing besides its part of the reservation."""
    _whole: Bound | None = None
    """The bound of the whole answer, while that of its rest holds."""
    _timer: asyncio.TimerHandle | None = None
    _record: CallRecord | None = None
    """Of the call, once the ledger knows that it runs."""
    _accounted = False
    _moves = 0
    _failed: tuple[Attempt, ...] = ()

    def __init__(
        self,
        means: Means,
        call: Call,
        principal: Principal,
        route: Route,
        plan: Plan,
        tier: str,
        terms: Terms,
        reservation: Reservation,
        bound: Bound,
    ) -> None:
        self.call = call
        self.principal = principal
        self.tier = tier
        """The tier that is asked for from now on: what was reserved for."""
        self.route = route
        """The model that is to serve: another one after ``fall_back``."""
        self.plan = plan
        self._means = means
        self._terms = terms
        """Of ``route``, ``plan`` and ``tier``."""
        self._reservation = reservation
        self.bound = bound
        """What it may use: less than was asked for, where a budget shortened it."""
        self._started = time.perf_counter()
        self.answer: StreamedAnswer | WholeAnswer | None = None
        self.growth: Growth = NO_GROWTH
        self._held: Mapping[int, Held] = {}
        """By the attempt's number."""
        self._bounds: Mapping[str, Bound] = {}
        """Of deployments of models that the call has left."""
        self._booked = NOTHING_USED
        """What was settled on the limits of models and tiers that the call has left."""

    def give_back(self) -> None:
        """Nothing will run."""
        self._reservation.settle(NOTHING_USED)

    def admit_now(self, deployment: Deployment, number: int) -> bool:
        """``admit`` of a first attempt that needs no more than was reserved; False: nothing was done."""
        if number > 1 or self._moves or not self._terms.is_simple or id(deployment) not in self._terms.ways:
            return False
        self._first = deployment
        return True

    async def admit(self, deployment: Deployment, number: int) -> None:
        """See ``dispatch.Prepared``: more is reserved where the plan's dearest deployment is not enough."""
        slot = await self._enter(deployment) if deployment.pool is not None else None
        try:
            bound, capacity = self._bound_of(deployment), None
            worst = self._means.worst_case(deployment, bound, self.tier)
            if self._terms.hard:
                if self._means.prices.price(deployment) is None:
                    raise UnsupportedParameter("model", NO_PRICE)
                need = self._paid + self._running() + worst
                if need > self._reservation.amounts.cost:
                    await self._reservation.adjust(self._reservation.amounts.costing(need))
                    self._note_again()
            if self._means.limiter.has_capacity(deployment.id):
                capacity = await self._take_capacity(deployment, number, bound, worst)
        except BaseException:
            if slot is not None:
                slot.leave()
            raise
        self._held = {**self._held, number: Held(worst, capacity, slot)}

    def _running(self) -> int:
        """The most nano-dollars that the attempts under way may cost."""
        first = self._first
        most = 0 if first is None else self._means.worst_case(first, self._bound_of(first), self.tier)
        return most + sum([held.worst for held in self._held.values()])

    async def _take_capacity(self, deployment: Deployment, number: int, bound: Bound, worst: int) -> Reservation:
        amounts = Amounts(1, bound.input_tokens, bound.output_tokens, worst)
        try:
            return await self._means.limiter.reserve_capacity(f"{self.call.id}.{number}", deployment.id, amounts)
        except LimitExceeded as exc:
            raise CapacityUsedUp(exc, alone=len(self.plan) == 1) from exc

    async def _enter(self, deployment: Deployment) -> Slot | None:
        """A place in the deployment's pool, if the gateway has a queue in front of it.

        A dear tier that finds none in time queues as default, and is billed as it.
        """
        pool = self._means.pools.get(deployment.pool) if deployment.pool is not None else None
        if pool is None:
            return None
        key, size = self.principal.key_id, self.bound.input_tokens
        cost, started = size + self.bound.output_tokens, time.perf_counter()
        try:
            try:
                return await pool.enter(self.tier, key, cost, max(self.flex_until - time.monotonic(), 0.0), size)
            except Overloaded:
                lower = tiers.instead(self.tier, self.principal)
                if lower is None:
                    raise
            await self.move(lower)
            self.downgraded = "capacity"
            return await pool.enter(lower, key, cost, 0, size)
        finally:
            self.queued = (self.queued or 0.0) + time.perf_counter() - started

    def told(self, deployment: Deployment, word: RateLimits | ProviderError) -> None:
        """See ``dispatch.Prepared``: the queue in front of the deployment waits for what it would refuse."""
        slot = next((held.slot for held in self._held.values() if held.slot is not None), None)
        if slot is not None:
            slot.told(deployment.id, word)

    def outgoing(self, deployment: Deployment) -> tuple[Mapping[str, Any], AttemptTier]:
        """What is sent to a deployment: see ``gateway.outgoing``."""
        way = self._terms.ways.get(id(deployment))
        if way is None:
            bound, chosen = self._bound_of(deployment), tiers.attempt(deployment, self.tier)
        else:
            bound, chosen = self.bound, way.tier
        return outgoing(self.call, self.route, deployment, self.tier, bound.max_output, chosen)

    def over(self, attempt: Attempt, deployment: Deployment, *, maybe_billed: bool) -> None:
        """See ``dispatch.Prepared``: what nobody refused may be billed for its prompt."""
        if maybe_billed:
            usage = self._means.estimator.settle_without_usage(self._bound_of(deployment), 0)
            tier = tiers.attempt(deployment, self.tier).expected
            cost = self._terms.cost(deployment, usage, tier)
            attempt.usage, attempt.estimated, attempt.cost, attempt.served_tier = usage, True, cost, tier
            self._paid += cost
            self._failed += (attempt,)
        self._let_go(attempt)

    def broke_off(self, answer: StreamedAnswer, record: CallRecord, kind: ErrorKind) -> Attempt:
        """Bill the beginning of an answer; from now on what is reserved for is its rest."""
        row = record.attempts[-1]
        if self._timer is not None:
            self._timer.cancel()
        self._bill(row, answer, complete=False)
        row.status, row.error = kind.value, kind
        self._paid += row.cost
        self._failed += (row,)
        self._let_go(row)
        self._whole, self.bound = self.bound, self._means.estimator.rest(self.bound, answer.text_bytes)
        return row

    def gave_up(self, row: Attempt, record: CallRecord) -> None:
        """Nobody went on with the answer: what it was is its beginning, whose row is the last."""
        assert self._whole is not None, "set when it broke off"
        self.bound = self._whole
        self._paid -= row.cost
        self._failed = tuple([attempt for attempt in self._failed if attempt is not row])
        record.attempts.sort(key=lambda attempt: attempt is row)

    async def fall_back(self, route: Route, plan: Plan) -> None:
        """Reserve for another model instead; raises LimitExceeded and its kin, and then holds nothing or what it held."""
        if self.tier == "flex":
            plan = tiers.able(plan, "flex")
            if not plan:
                raise CapacityUnavailable("The model's fallback has no flex.")
        terms = self._means.terms(self.principal, route, plan, self.tier)
        if terms.unpriced:
            raise InvalidRequest(NO_PRICE, param="model", code="model_not_priced")
        bound = self._means.estimator.bound_by(terms.facts, self.call, terms.defaults, terms.hard)
        worst = terms.worst_case(bound.most)
        if terms.limits is self._reservation.limits and not self._reservation.settled:
            if self._paid + worst > self._reservation.amounts.cost:
                await self._reservation.adjust(self._reservation.amounts.costing(self._paid + worst))
        else:
            await self._change(route, self.tier, Amounts(1, bound.input_tokens, bound.output_tokens, worst))
        self.route, self.plan, self._terms, self.bound = route, plan, terms, bound
        self._note_again()

    async def move(self, tier: str) -> None:
        """Reserve for another tier instead; raises LimitExceeded and its kin, and then holds nothing."""
        amounts = self._reservation.amounts
        await self._change(self.route, tier, amounts.costing(max(amounts.cost - self._paid, 0)))
        self.tier, self._terms = tier, self._means.terms(self.principal, self.route, self.plan, tier)
        self._note_again()

    async def _change(self, route: Route, tier: str, amounts: Amounts) -> None:
        """Reserve under another model or tier. What is held goes back first, or a key with one slot never could."""
        self._book()
        self._moves += 1
        rid = f"{self.call.id}:{self._moves}"
        self._reservation = await self._means.limiter.reserve(rid, self.principal, route.name, tier, amounts)

    def _book(self) -> None:
        """Settle what failed attempts may be billed on the limits that were reserved for them."""
        failed = amounts_of(0, sum_of(a.usage for a in self._failed), sum(a.cost for a in self._failed))
        self._reservation.settle(less(failed, self._booked))
        self._booked, self._paid = failed, 0

    def limit_headers(self) -> Mapping[str, str]:
        return self._reservation.headers

    def headers(self, answer: StreamedAnswer | WholeAnswer, record: CallRecord) -> dict[str, str]:
        """What the answer's head says of limits, routing and dropped parameters."""
        headers = {
            **self._reservation.headers,
            "x-sluice-deployment": answer.deployment.id,
            "x-sluice-attempts": str(len(record.attempts)),
        }
        if record.fallback is not None:
            headers["x-sluice-fallback"] = record.fallback
        if record.dropped:
            headers["x-sluice-dropped-params"] = ",".join(record.dropped)
        reason = self._downgrade(answer, record) if self.downgraded or record.effective_tier in tiers.DEAR else None
        if reason is not None:
            headers["x-sluice-tier-downgrade"] = reason
        headers["openai-processing-ms"] = str(int((time.perf_counter() - self._started) * 1000))
        return headers

    def _downgrade(self, answer: StreamedAnswer | WholeAnswer, record: CallRecord) -> str | None:
        """Asked only of a call that was downgraded, or whose tier is dear."""
        return self.downgraded or tiers.downgrade(record.effective_tier or "default", answer.tier, answer.served_tier)

    def note(self, record: CallRecord, used: int | None = None) -> None:
        """Note in the ledger that the call runs, and what it is charged should this process die: ``used``, or all it may."""
        self._record = record
        if self._means.ledger is not None:
            asked, serves = record.model, self.route.name
            most = self._reservation.amounts.cost + self._booked.cost
            self._means.ledger.open(
                self.call.id, self.principal, asked, fallback=None if serves == asked else serves,
                reserved=most if used is None else used, started=record.started,
                stream=self.call.stream, requested_tier=record.requested_tier, effective_tier=self.tier,
            )  # fmt: skip

    def _note_again(self) -> None:
        """What it is charged is another sum from now on; raises StoreUnavailable, as before a call begins."""
        if self._record is not None:
            self.note(self._record)

    def streaming(self, answer: StreamedAnswer, record: CallRecord) -> None:
        """A stream begins: from now on what it has used is noted every few seconds."""
        self.answer = answer
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(CHECKPOINT_SECONDS, self._checkpoint, record)

    def _checkpoint(self, record: CallRecord) -> None:
        assert self.answer is not None, "set when the timer was"
        self._bill(record.attempts[-1], self.answer, complete=False)
        used = amounts_of(1, sum_of(a.usage for a in record.attempts), sum(a.cost for a in record.attempts))
        self._reservation.checkpoint(less(used, self._booked))
        with contextlib.suppress(StoreUnavailable):  # then the whole reservation stays noted
            self.note(record, used.cost)
        self._timer = asyncio.get_running_loop().call_later(CHECKPOINT_SECONDS, self._checkpoint, record)

    def settled(self, answer: StreamedAnswer | WholeAnswer, record: CallRecord) -> "asyncio.Future[None] | None":
        """Account for a complete answer. Gives what the client's last byte waits for: its row on the disk."""
        self.answer = answer
        ticket = self._account(record, complete=True)
        return None if ticket is None else ticket.waiter(DURABLE_WITHIN)

    def close(self, record: CallRecord) -> None:
        """Account for whatever happened, if ``settled`` did not: no await, so no cancellation can come between."""
        if not self._accounted:
            self._account(record, complete=False)

    def _account(self, record: CallRecord, *, complete: bool) -> Ticket | None:
        self._accounted = True
        if self._timer is not None:
            self._timer.cancel()
        attempts, answer = record.attempts, self.answer
        if attempts and answer is not None:
            last = attempts[-1]
            self._bill(last, answer, complete=complete)
            record.served_tier = last.served_tier
            if self.downgraded or record.effective_tier in tiers.DEAR:
                record.downgrade = self._downgrade(answer, record)
            if not complete:
                last.status = record.code.removeprefix("stream_")  # whose fault it was
                last.error = KINDS.get(last.status)
            if self._held:
                self._let_go(last)
        for held in self._held.values():  # of an attempt that answered and was never read
            if held.capacity is not None:
                held.capacity.settle(held.capacity.amounts)
            if held.slot is not None:
                held.slot.leave()
        record.queued = self.queued
        if len(attempts) == 1:
            record.usage, record.cost = attempts[0].usage, attempts[0].cost
        else:
            record.usage = sum_of([a.usage for a in attempts])
            record.cost = sum([a.cost for a in attempts])
        self._settle(record)
        return None if self._means.ledger is None else self._means.ledger.append(record)

    def _settle(self, record: CallRecord) -> None:
        """Replace what is still reserved by what all attempts used, less what was booked elsewhere."""
        requests = 1 if record.ran else 0
        served = record.served_tier or (self._booked is NOTHING_USED and billed_tier(record)) or self.tier
        if requests and (last := record.attempts[-1]).served_tier is None:
            last.served_tier = served  # a failure that cost nothing: its row counts where the counter does
        if served == self.tier and self.growth is NO_GROWTH and self._booked is NOTHING_USED:  # nearly always
            usage = record.usage
            self._reservation.use(requests, usage.prompt_tokens, usage.completion_tokens, record.cost, usage.cache_read)
            return
        actual = amounts_of(requests, record.usage, record.cost)
        if self.growth is not NO_GROWTH:
            self.growth.settle(actual.input_tokens + actual.output_tokens if served in tiers.DEAR else 0)
        actual = less(actual, self._booked)
        if served == self.tier and not self._reservation.settled:
            self._reservation.settle(actual)
        else:  # settled: a fallback was refused after what was held had gone back for it
            self._means.limiter.settle_as(self._reservation, self.principal, self.route.name, served, actual)

    def _bill(self, attempt: Attempt, answer: StreamedAnswer | WholeAnswer, *, complete: bool) -> None:
        """Fill in the attempt that answered. Usage told before an answer broke off is only the beginning of it."""
        usage, estimated, estimator = answer.usage, False, self._means.estimator
        if usage is None or not (complete or answer.finished):
            bound = self._bound_of(answer.deployment)
            usage, estimated = estimator.settle_without_usage(bound, answer.text_bytes, usage), True
        elif complete and estimator.wants_to_learn():
            text = 0 if answer.called_tools else answer.text_bytes
            estimator.learn(self._bound_of(answer.deployment), usage, text)
        tier = answer.served_tier
        attempt.usage, attempt.estimated, attempt.served_tier = usage, estimated, tier
        attempt.cost = self._terms.cost(answer.deployment, usage, tier)
        attempt.seconds = time.perf_counter() - self._started

    def _bound_of(self, deployment: Deployment) -> Bound:
        """That of the plan; a fallback's deployment has its own, because another model may write longer answers."""
        if id(deployment) in self._terms.ways:
            return self.bound
        found = self._bounds.get(deployment.id)
        if found is None:
            defaults = self.route.config.params.default
            found = self._means.estimator.bound(self.call, (deployment,), defaults, hard=self._terms.hard)
            self._bounds = {**self._bounds, deployment.id: found}
        return found

    def _let_go(self, attempt: Attempt) -> None:
        if attempt.number == 1:
            self._first = None
        held = self._held.get(attempt.number)
        if held is not None:
            self._held = {number: other for number, other in self._held.items() if other is not held}
            if held.slot is not None:
                streamed = attempt.ttft if self.call.stream else None  # a whole answer's time tells of its length
                first_token = None if streamed is None else max(streamed - held.slot.waited, 0.0)
                held.slot.leave(outcome_of(attempt), first_token)
            if held.capacity is not None:
                held.capacity.settle(amounts_of(1, attempt.usage, attempt.cost))

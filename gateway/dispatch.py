"""Try the deployments of a plan until one answers: retry, fall back, until the first content is in hand."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from adapters import ratelimits
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.ratelimits import RateLimits
from config.schema import Retries

from . import tiers
from .answer import MAX_BODY, StreamedAnswer, WholeAnswer
from .call import Attempt, Call, CallRecord, Deployment, Plan, Principal, Route
from .credentials import Credentials
from .errors import GatewayError, InvalidRequest, NoHealthyUpstream
from .failures import to_gateway_error
from .fleet import SAMPLES, Fleet, Load, Member
from .pools import FlexFull, QueueFull
from .routing import Router
from .tiers import AttemptTier
from .upstream import Upstream
from .walk import Walk

STATUSES_OK = range(200, 300)
NOTICEABLE = 0.05
"""Seconds by which a deployment must be slower than another before that counts."""
HEDGE_LOST = "hedge_lost"
Answer: TypeAlias = StreamedAnswer | WholeAnswer


class NobodyAvailable(Exception):
    """Every deployment of a model is open or cooling down; nothing was tried."""

    def __init__(self, wait: float) -> None:
        super().__init__(wait)
        self.wait = wait


FAILURES = (ProviderError, UnsupportedParameter, NobodyAvailable, QueueFull, FlexFull)


class Prepared(Protocol):
    """A call that has been reserved for: what is sent to each deployment is bounded by the reservation."""

    call: Call
    principal: Principal
    route: Route
    plan: Plan

    async def admit(self, deployment: Deployment, number: int) -> None:
        """Hold what attempt ``number`` may cost at worst, and the deployment's own capacity.

        Raises ProviderError where the deployment is full, UnsupportedParameter where a budget cannot bound it, and
        GatewayError where a budget has not enough left.
        """
        ...

    def outgoing(self, deployment: Deployment) -> tuple[Mapping[str, Any], AttemptTier]:
        """The request to translate, and the tier it runs at."""
        ...

    def told(self, deployment: Deployment, word: RateLimits | ProviderError) -> None:
        """A provider said what it still takes, or refused."""
        ...

    def over(self, attempt: Attempt, deployment: Deployment, *, maybe_billed: bool) -> None:
        """Let go of what a failed attempt held; notes in its row what the provider may bill for it."""
        ...

    async def fall_back(self, route: Route, plan: Plan) -> None:
        """Reserve for another model instead; raises the GatewayError of the limit that forbids it."""
        ...


class Dispatcher:
    """Walks plans. One per configuration; ``answer`` is the only entry."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        credentials: Credentials,
        retries: Retries,
        fleet: Fleet,
        router: Router,
        latency_ejection: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstreams = upstreams
        self._credentials = credentials
        self._retries = retries
        self._fleet = fleet
        self._router = router
        self._latency_ejection = latency_ejection
        self._clock = clock

    async def answer(self, call: Prepared, record: CallRecord) -> Answer:
        """The first answer any deployment gives, of a fallback model too; raises the error of the last failure."""
        waiting: list[Route] = []
        seen = {call.route.name}
        while True:
            try:
                return await self._model(call, record)
            except FAILURES as exc:
                kind = exc.kind if isinstance(exc, ProviderError | FlexFull) else ErrorKind.OVERLOADED
                if not isinstance(exc, UnsupportedParameter):
                    waiting[:0] = self._router.fallbacks(call.route, kind, call.principal)
                if not await self._fall_back(call, waiting, seen, record):
                    if isinstance(exc, GatewayError):
                        raise
                    raise _told(exc, record) from exc

    async def _fall_back(self, call: Prepared, waiting: list[Route], seen: set[str], record: CallRecord) -> bool:
        """Move to the first model that was not tried yet and that the limits allow."""
        while waiting:
            route = waiting.pop(0)
            if route.name in seen:
                continue
            seen.add(route.name)
            try:
                plan = self._router.plan(route, call.call)
                plan = tiers.fitting(plan, record, call.principal)
                await call.fall_back(route, plan)
            except GatewayError:
                continue  # the failure that brought us here tells the client more
            record.fallback = route.name
            return True
        return False

    async def _model(self, call: Prepared, record: CallRecord) -> Answer:
        """The deployments of one model. Where it has fallbacks, they come before a second turn of its own."""
        plan, repeat = call.plan, call.route.config.fallbacks.is_empty
        walk = Walk(call.route.name, plan, self._fleet, self._retries, repeat=repeat)
        first = walk.first()
        if first is None:
            raise NobodyAvailable(min((self._fleet[d.id].health.retry_in for d in plan), default=1.0))
        hedging = call.route.config.hedging
        try:
            if hedging is not None and len(plan) > 1:
                return await self._hedged(call, walk, first, record, hedging.after)
            return await self._attempt(call, first, record)
        except (ProviderError, UnsupportedParameter) as exc:
            return await self._again(call, walk, record, exc)
        finally:
            record.retry_denied = record.retry_denied or walk.denied

    async def _again(self, call: Prepared, walk: Walk, record: CallRecord, failure: Exception) -> Answer:
        """The further attempts. The first one is made without this, because most calls need no second."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(self._retries.attempts),
            wait=lambda _: walk.delay,
            retry=retry_if_exception(walk.goes_on),
            sleep=_pause,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise failure  # stands for the attempt that was made already
                assert walk.following is not None, "the walk goes on"
                return await self._attempt(call, walk.following, record)
        raise failure

    async def _hedged(self, call: Prepared, walk: Walk, first: Deployment, record: CallRecord, after: float) -> Answer:
        """The first attempt, and another beside it when it keeps us waiting: the first answer wins."""
        tasks = {asyncio.create_task(self._attempt(call, first, record))}
        winner: asyncio.Task[Answer] | None = None
        try:
            done, _ = await asyncio.wait(tasks, timeout=after)
            if not done and (other := walk.beside()) is not None:
                tasks.add(asyncio.create_task(self._attempt(call, other, record)))
            winner = await _first_answer(tasks)
            return winner.result()
        finally:
            await self._lose(tasks - {winner}, call, record, HEDGE_LOST if winner is not None else None)

    async def _lose(
        self, losers: set[asyncio.Task[Answer]], call: Prepared, record: CallRecord, why: str | None
    ) -> None:
        """Cancel what is no longer wanted and account for it; the row of the answer, if there is one, comes last."""
        if not losers:
            return
        for task in losers:
            task.cancel(why)
        for answer in await asyncio.gather(*losers, return_exceptions=True):
            if isinstance(answer, BaseException):
                continue
            if isinstance(answer, StreamedAnswer):
                answer.abort()
            for row in record.attempts:  # it answered at the same moment
                if row.deployment == answer.deployment.id and row.status == "ok":
                    row.status = HEDGE_LOST
                    call.over(row, answer.deployment, maybe_billed=True)
        record.attempts.sort(key=lambda row: row.status == "ok")

    async def _attempt(self, call: Prepared, deployment: Deployment, record: CallRecord) -> Answer:
        """One attempt, with its row in the record and its mark on what is known of the deployment."""
        member, started = self._fleet[deployment.id], self._clock()
        record.begun += 1
        row = Attempt(record.begun, deployment.id, deployment.provider, deployment.target.model)
        try:
            await call.admit(deployment, row.number)
        except BaseException:
            member.health.release()
            raise  # nothing was sent: no row
        member.load.in_flight += 1
        answer: Answer | None = None
        try:
            request, tier = call.outgoing(deployment)
            row.sent_tier = tier.sent
            answer = await self._exchange(
                call.call, request, tier, deployment, call.told, record.passed_on, hints=len(call.plan) > 1
            )
        except UnsupportedParameter:
            member.health.release()
            call.over(row, deployment, maybe_billed=False)
            raise  # nothing was sent: no row
        except ProviderError as exc:
            queued = deployment.pool is not None and not self._ready(call.plan, deployment)
            member.health.failed(exc, last=not self._others(call.plan, deployment), queued=queued)
            call.told(deployment, exc)
            row.status, row.error, row.seconds = exc.kind.value, exc.kind, self._clock() - started
            call.over(row, deployment, maybe_billed=exc.maybe_billed)
            record.attempts.append(row)
            raise
        except BaseException as exc:
            member.health.release()
            row.status = HEDGE_LOST if exc.args == (HEDGE_LOST,) else "client_closed"
            row.seconds = self._clock() - started
            call.over(row, deployment, maybe_billed=True)
            record.attempts.append(row)
            raise
        finally:
            if not isinstance(answer, StreamedAnswer):
                member.load.in_flight -= 1
        seconds = self._clock() - started
        if isinstance(answer, StreamedAnswer):
            answer.on_end(lambda: _leave(member.load))
        self._answered(call, deployment, member, seconds)
        record.dropped = answer.sent.dropped
        best, own = call.plan[0].config.capacity, deployment.config.capacity
        record.spillover = (best, own) if best != own else None
        row.ttft = seconds
        record.attempts.append(row)
        return answer

    def _answered(self, call: Prepared, deployment: Deployment, member: Member, seconds: float) -> None:
        """Note a success, and whether it took much longer than the best of the others does."""
        stream, size = call.call.stream, call.call.size
        member.health.succeeded()
        member.load.observe(stream, size, seconds)
        if self._latency_ejection is None or len(call.plan) == 1:
            return
        others = [
            known
            for d in call.plan
            if d.id != deployment.id and (known := self._fleet[d.id].load.latency(stream, size, SAMPLES)) is not None
        ]
        own = member.load.latency(stream, size, SAMPLES)
        if others and own is not None and own > max(min(others) * self._latency_ejection, min(others) + NOTICEABLE):
            member.health.slow()
            member.load.forget()

    def died(self, answer: StreamedAnswer, error: ProviderError) -> None:
        """A stream broke off after its first content."""
        self._fleet[answer.deployment.id].health.failed(error)

    def _ready(self, plan: Plan, deployment: Deployment) -> bool:
        """Whether another deployment could serve at once."""
        return any(d.id != deployment.id and (h := self._fleet[d.id].health).closed and not h.cooling for d in plan)

    def _others(self, plan: Plan, deployment: Deployment) -> bool:
        return any(d.id != deployment.id and self._fleet[d.id].health.closed for d in plan)

    async def _exchange(
        self,
        call: Call,
        request: Mapping[str, Any],
        tier: AttemptTier,
        deployment: Deployment,
        told: Callable[[Deployment, RateLimits], None],
        trace: str | None,
        *,
        hints: bool,
    ) -> Answer:
        target = deployment.target
        if deployment.credential is not None:
            target = replace(target, api_key=await self._credentials.token(deployment.credential))
        sent = call.operation.prepare(deployment.adapter, request, target)
        if deployment.credential is not None:
            sent = await self._credentials.sign(sent, deployment.credential)
        if trace is not None:  # last: a signature does not cover it, for proxies may change it
            sent = replace(sent, headers={**sent.headers, "traceparent": trace})
        timeouts = deployment.tier_timeouts.get(tier.expected, deployment.timeouts)
        began = time.perf_counter()
        response = await self._upstreams[deployment.provider].open(sent, timeouts)
        reached = response.opened - began
        try:
            if response.status not in STATUSES_OK:
                body = await response.read(MAX_BODY)
                error = deployment.adapter.error(response.status, response.headers, body)
                raise tiers.refused(deployment, tier, error)
            if (hints or deployment.pool is not None) and (limits := ratelimits.read(response.headers)) is not None:
                self._fleet[deployment.id].health.hinted(limits)
                told(deployment, limits)
            answer: Answer = await call.operation.read(call, deployment, sent, tier, response)
            answer.waited, answer.reached = response.taken, reached
            return answer
        except BaseException as exc:
            if isinstance(exc, ProviderError):
                exc.maybe_billed = response.status in STATUSES_OK
            response.abort()
            raise


async def _first_answer(tasks: set[asyncio.Task[Answer]]) -> asyncio.Task[Answer]:
    """The first task that succeeds; raises what the last one failed with when all fail."""
    waiting = tasks
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = next((task for task in done if task.exception() is None), None)
        if answered is not None:
            return answered
        if not waiting:
            return done.pop()  # its result is the failure


async def _pause(seconds: float) -> None:
    # Without a pause nothing may come between a half-open breaker's yes and its probe, not even a cancellation.
    if seconds:
        await asyncio.sleep(seconds)


def _leave(load: Load) -> None:
    load.in_flight -= 1


def _told(failure: Exception, record: CallRecord) -> GatewayError:
    """What the client is told of the last failure."""
    if isinstance(failure, ProviderError):
        error = to_gateway_error(failure, tried=len(record.attempts))
        if record.retry_denied:
            error.should_retry = False  # what we may not do the client should not do either
        return error
    if isinstance(failure, UnsupportedParameter):
        return InvalidRequest(failure.message, param=failure.param, code="unsupported_parameter")
    wait = failure.wait if isinstance(failure, NobodyAvailable) else 1.0
    return NoHealthyUpstream("No provider of this model is available right now.", retry_after=max(wait, 1.0))

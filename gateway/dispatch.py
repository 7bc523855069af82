"""Try the deployments of a plan until one answers: retry, fall back, until the first content is in hand."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from adapters import ratelimits
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import CredentialSpec, UpstreamRequest
from config.schema import Retries, Timeouts

from . import tiers
from .answer import MAX_BODY, Answer, StreamedAnswer
from .call import Attempt, CallRecord, Deployment, Plan, Route
from .continuation import CONTINUED, Rest, Resumable, Sendable
from .credentials import Credentials
from .errors import GatewayError
from .failures import NONSENSE, NobodyAvailable, told, unforeseen
from .fleet import SAMPLES, Fleet, Load, Member
from .hedging import HEDGE_LOST, hedged
from .plaintext import plain
from .pools import FlexFull, QueueFull
from .routing import Router
from .tiers import AttemptTier
from .upstream import Upstream
from .walk import Walk

NOTICEABLE = 0.05
"""Seconds by which a deployment must be slower than another before that counts."""
FAILURES = (ProviderError, UnsupportedParameter, NobodyAvailable, QueueFull, FlexFull)


class Prepared(Sendable, Protocol):
    """A call as it can go on: to another model, or to the rest of its answer."""

    def broke_off(self, answer: StreamedAnswer, record: CallRecord, kind: ErrorKind) -> Attempt:
        """Bill the beginning of an answer, and reserve for its rest from now on; gives its row."""
        ...

    def gave_up(self, row: Attempt, record: CallRecord) -> None:
        """Nobody went on with the answer of ``row``."""
        ...

    def streaming(self, answer: StreamedAnswer, record: CallRecord) -> None:
        """The answer's rest has begun."""
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
        record.dispatched = self._clock()
        before, first, failure = len(record.attempts), self._straight(call), None
        if first is not None:
            try:
                return self._resumable(await self._attempt(call, first, record), call, record)
            except (ProviderError, UnsupportedParameter) as exc:
                failure = exc
        most = before + self._retries.attempts  # one allowance, however many models serve
        return self._resumable(await self._onward(call, record, most, first, failure), call, record)

    def _straight(self, call: Prepared) -> Deployment | None:
        """The plan's first deployment, where nothing speaks against it and nothing is asked beside it: nearly always.

        Who is next needs no thought then until it fails.
        """
        plan = call.plan
        first = plan[0]
        if first.pool is not None or (len(plan) > 1 and call.route.config.hedging is not None):
            return None
        return first if self._fleet[first.id].begin() else None

    def _resumable(self, answer: Answer, call: Prepared, record: CallRecord) -> Answer:
        """The answer, as one that another deployment goes on with where it breaks off, if one may."""
        if answer.deployment.resumable and isinstance(answer, StreamedAnswer) and plain(call.call):
            return Resumable(answer, partial(self._resume, call, record))
        return answer

    async def _onward(
        self, call: Prepared, record: CallRecord, most: int, begun: Deployment | None, failure: Exception | None
    ) -> Answer:
        """The answer of the model asked for, else of a fallback model, within ``most`` attempts.

        ``failure`` is that of the first attempt, if ``begun`` was tried already.
        """
        waiting: list[Route] = []
        seen = {call.route.name}
        left = self._retries.attempts
        while True:
            # Where a model has fallbacks, they come before a second turn of its own.
            repeat = call.route.config.fallbacks.is_empty
            walk = Walk(
                call.route.name, call.plan, self._fleet, self._retries, repeat=repeat, left=max(left, 1), begun=begun
            )
            try:
                return await self._model(call, walk, record, failure)
            except FAILURES as exc:
                kinds = _kinds(exc)
                waiting[:0] = [
                    route for kind in kinds for route in self._router.fallbacks(call.route, kind, call.principal)
                ]
                if self._left(call, record) <= 0 or not await self._fall_back(call, waiting, seen, record):
                    if isinstance(exc, GatewayError):
                        raise
                    raise told(exc, record) from exc
            begun, failure, left = None, None, most - len(record.attempts)

    def _left(self, call: Sendable, record: CallRecord) -> float:
        """Seconds that all attempts of a call together have left."""
        first, tier = call.plan[0], record.attempts[-1].sent_tier if record.attempts else None
        timeouts = first.tier_timeouts.get(tier or "default", first.timeouts)
        return record.dispatched + timeouts.request - self._clock()

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

    async def _model(self, call: Prepared, walk: Walk, record: CallRecord, failure: Exception | None) -> Answer:
        """The deployments of one model, from the first on or from what follows its failure."""
        try:
            if failure is not None:
                return await self._again(call, walk, record, failure)
            first = walk.first()
            if first is None:
                raise self._nobody(call.plan)
            hedging = call.route.config.hedging
            try:
                if hedging is not None and len(call.plan) > 1:
                    return await hedged(self._attempt, call, walk, first, record, hedging.after)
                return await self._attempt(call, first, record)
            except (ProviderError, UnsupportedParameter) as exc:
                return await self._again(call, walk, record, exc)
        finally:
            record.retry_denied = record.retry_denied or walk.denied

    def _nobody(self, plan: Plan) -> NobodyAvailable:
        out = [self._fleet[d.id].health for d in plan]
        wait = min((health.worth_waiting for health in out), default=1.0)
        return NobodyAvailable(wait, (*dict.fromkeys(h.why for h in out if h.why), ErrorKind.OVERLOADED))

    async def _again(self, call: Prepared, walk: Walk, record: CallRecord, failure: Exception) -> Answer:
        """The further attempts. The first one is made without this, because most calls need no second."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(self._retries.attempts),
            wait=lambda _: walk.delay,
            retry=retry_if_exception(lambda exc: walk.goes_on(exc, self._left(call, record))),
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

    async def _attempt(self, call: Sendable, deployment: Deployment, record: CallRecord) -> Answer:
        """One attempt, with its row in the record and its mark on what is known of the deployment."""
        member, started = self._fleet[deployment.id], self._clock()
        probe = member.health.take()
        record.begun += 1
        row = Attempt(record.begun, deployment.id, deployment.provider, deployment.target.model)
        try:
            await call.admit(deployment, row.number)
        except BaseException:
            if probe:
                member.health.release()
            raise  # nothing was sent: no row
        member.load.in_flight += 1
        answer: Answer | None = None
        try:
            request, tier = call.outgoing(deployment)
            row.sent_tier = tier.sent
            answer = await self._exchange(call, record, request, tier, deployment)
        except UnsupportedParameter:
            if probe:
                member.health.release()
            call.over(row, deployment, maybe_billed=False)
            raise  # nothing was sent: no row
        except ProviderError as exc:
            others = self._others(call.plan, deployment)
            queued = deployment.pool is not None and not others
            member.health.failed(exc, last=not others, queued=queued, probe=probe)
            call.told(deployment, exc)
            row.status, row.error, row.seconds = exc.kind.value, exc.kind, self._clock() - started
            call.over(row, deployment, maybe_billed=exc.maybe_billed)
            record.attempts.append(row)
            raise
        except BaseException as exc:
            if probe:
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

    def _answered(self, call: Sendable, deployment: Deployment, member: Member, seconds: float) -> None:
        """Note a success, and whether it took much longer than the best of the others does."""
        stream, size = call.call.stream, call.call.size
        member.answered(stream, size, seconds)
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
        self._fleet[answer.deployment.id].health.failed(error, probe=False)

    async def _resume(self, call: Prepared, record: CallRecord, answer: Resumable, error: ProviderError) -> bool:
        """Have another deployment go on with an answer that broke off; False when none does."""
        relay, broken = answer.relay, answer.deployment
        if relay is None or not answer.said.strip():
            return False
        answer.abort()
        row = call.broke_off(answer, record, error.kind)
        rest = None
        try:
            rest = await self._rest(Rest(call, answer, relay, row.usage), record, broken)
        except GatewayError:
            pass  # a limit forbids the second attempt: the stream ends as it would have
        finally:
            if rest is None:
                call.gave_up(row, record)
        if rest is None:
            return False
        row.status = CONTINUED
        self._fleet[broken.id].health.failed(error, probe=False)
        answer.adopt(rest)
        call.streaming(answer, record)
        return True

    async def _rest(self, call: Rest, record: CallRecord, broken: Deployment) -> StreamedAnswer | None:
        """From the first that goes on, within the retry budget; the one that broke off is asked last."""
        left = self._retries.attempts - 1
        record.dispatched = self._clock()
        for deployment in sorted(call.plan, key=lambda d: d.id == broken.id):
            member = self._fleet[deployment.id]
            if left < 1 or not member.health.available():
                continue
            if not self._fleet[broken.id].retries.spend(self._fleet[d.id].retries for d in call.plan):
                member.health.release()
                record.retry_denied = True
                return None
            left -= 1
            try:
                answer = await self._attempt(call, deployment, record)
            except (ProviderError, UnsupportedParameter):
                continue
            assert isinstance(answer, StreamedAnswer), "the rest of a stream is one"
            return answer
        return None

    def _others(self, plan: Plan, deployment: Deployment) -> bool:
        return any(d.id != deployment.id and self._fleet[d.id].health.serves for d in plan)

    async def _exchange(
        self, call: Sendable, record: CallRecord, request: Mapping[str, Any], tier: AttemptTier, deployment: Deployment
    ) -> Answer:
        """Send a request and read its answer, up to the first content of a stream."""
        operation = call.call.operation
        if deployment.credential is None:
            sent: UpstreamRequest = operation.prepare(deployment.adapter, request, deployment.target)
        else:
            sent = await self._signed(operation, request, deployment, deployment.credential)
        if record.passed_on is not None:  # last: a signature does not cover it, for proxies may change it
            sent = replace(sent, headers={**sent.headers, "traceparent": record.passed_on})
        timeouts = deployment.tier_timeouts.get(tier.expected, deployment.timeouts)
        if record.attempts:
            timeouts = _within(timeouts, self._left(call, record))
        began = time.perf_counter()
        response = await self._upstreams[deployment.provider].open(sent, timeouts)
        try:
            if not 200 <= response.status < 300:
                body = await response.read(MAX_BODY)
                error = deployment.adapter.error(response.status, response.headers, body)
                raise tiers.refused(deployment, tier, error)
            hinted = len(call.plan) > 1 or deployment.pool is not None
            if hinted and (limits := ratelimits.read(response.headers)) is not None:
                self._fleet[deployment.id].health.hinted(limits)
                call.told(deployment, limits)
            here = None if call.call.stream else response.here(MAX_BODY)
            try:
                if here is not None:
                    answer: Answer = operation.whole(call.call, deployment, sent, tier, here)
                else:
                    answer = await operation.read(call.call, deployment, sent, tier, response)
            except NONSENSE as exc:
                raise unforeseen(exc) from exc  # another deployment may give a better one
            answer.waited, answer.reached = response.taken, response.opened - began
            return answer
        except BaseException as exc:
            if isinstance(exc, ProviderError):
                exc.maybe_billed = 200 <= response.status < 300
            response.abort()
            raise

    async def _signed(
        self, operation: Any, request: Mapping[str, Any], deployment: Deployment, credential: CredentialSpec
    ) -> UpstreamRequest:
        """The request with a credential that expires."""
        target = replace(deployment.target, api_key=await self._credentials.token(credential))
        return await self._credentials.sign(operation.prepare(deployment.adapter, request, target), credential)


def _kinds(failure: Exception) -> Sequence[ErrorKind]:
    """The kinds of failure whose fallbacks hold, in order; none where only this provider lacks something."""
    if isinstance(failure, ProviderError | FlexFull):
        return (failure.kind,)
    if isinstance(failure, UnsupportedParameter):
        return ()
    return failure.kinds if isinstance(failure, NobodyAvailable) else (ErrorKind.OVERLOADED,)


def _within(timeouts: Timeouts, left: float) -> Timeouts:
    """Time-outs of an attempt that has only so many seconds until it must have answered."""
    left = max(left, 0.001)
    return timeouts.model_copy(
        update={name: min(getattr(timeouts, name), left) for name in ("connect", "first_byte", "response")}
    )


async def _pause(seconds: float) -> None:
    # Without a pause nothing may come between a half-open breaker's yes and its probe, not even a cancellation.
    if seconds:
        await asyncio.sleep(seconds)


def _leave(load: Load) -> None:
    load.in_flight -= 1

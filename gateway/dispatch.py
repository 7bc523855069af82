"""Try the deployments of a plan until one answers: retry, fall back, until the first content is in hand."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeAlias

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from adapters import ratelimits
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from config.schema import Retries, Timeouts

from . import tiers
from .answer import MAX_BODY, StreamedAnswer, WholeAnswer
from .call import Attempt, CallRecord, Deployment, Plan, Route
from .continuation import CONTINUED, Rest, Resumable, Sendable
from .credentials import Credentials
from .errors import GatewayError
from .failures import NONSENSE, NobodyAvailable, told, unforeseen
from .fleet import SAMPLES, Fleet, Load, Member
from .plaintext import plain
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
        waiting: list[Route] = []
        seen = {call.route.name}
        record.dispatched = self._clock()
        most = len(record.attempts) + self._retries.attempts  # one allowance, however many models serve
        while True:
            try:
                answer = await self._model(call, record, max(most - len(record.attempts), 1))
                if answer.deployment.resumable and isinstance(answer, StreamedAnswer) and plain(call.call):
                    return Resumable(answer, partial(self._resume, call, record))
                return answer
            except FAILURES as exc:
                kinds = _kinds(exc)
                waiting[:0] = [
                    route for kind in kinds for route in self._router.fallbacks(call.route, kind, call.principal)
                ]
                if self._left(call, record) <= 0 or not await self._fall_back(call, waiting, seen, record):
                    if isinstance(exc, GatewayError):
                        raise
                    raise told(exc, record) from exc

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

    async def _model(self, call: Prepared, record: CallRecord, left: int) -> Answer:
        """The deployments of one model. Where it has fallbacks, they come before a second turn of its own."""
        plan, repeat = call.plan, call.route.config.fallbacks.is_empty
        walk = Walk(call.route.name, plan, self._fleet, self._retries, repeat=repeat, left=left)
        first = walk.first()
        if first is None:
            out = [self._fleet[d.id].health for d in plan]
            wait = min((health.worth_waiting for health in out), default=1.0)
            raise NobodyAvailable(wait, (*dict.fromkeys(h.why for h in out if h.why), ErrorKind.OVERLOADED))
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

    async def _attempt(self, call: Sendable, deployment: Deployment, record: CallRecord) -> Answer:
        """One attempt, with its row in the record and its mark on what is known of the deployment."""
        member, started = self._fleet[deployment.id], self._clock()
        probe = member.health.take()
        record.begun += 1
        row = Attempt(record.begun, deployment.id, deployment.provider, deployment.target.model)
        try:
            if not call.admit_now(deployment, row.number):
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
        target = deployment.target
        if deployment.credential is not None:
            target = replace(target, api_key=await self._credentials.token(deployment.credential))
        sent = call.call.operation.prepare(deployment.adapter, request, target)
        if deployment.credential is not None:
            sent = await self._credentials.sign(sent, deployment.credential)
        if record.passed_on is not None:  # last: a signature does not cover it, for proxies may change it
            sent = replace(sent, headers={**sent.headers, "traceparent": record.passed_on})
        timeouts = deployment.tier_timeouts.get(tier.expected, deployment.timeouts)
        if record.attempts:
            timeouts = _within(timeouts, self._left(call, record))
        began = time.perf_counter()
        response = await self._upstreams[deployment.provider].open(sent, timeouts)
        reached = response.opened - began
        try:
            if response.status not in STATUSES_OK:
                body = await response.read(MAX_BODY)
                error = deployment.adapter.error(response.status, response.headers, body)
                raise tiers.refused(deployment, tier, error)
            hinted = len(call.plan) > 1 or deployment.pool is not None
            if hinted and (limits := ratelimits.read(response.headers)) is not None:
                self._fleet[deployment.id].health.hinted(limits)
                call.told(deployment, limits)
            try:
                answer: Answer = await call.call.operation.read(call.call, deployment, sent, tier, response)
            except NONSENSE as exc:
                raise unforeseen(exc) from exc  # another deployment may give a better one
            answer.waited, answer.reached = response.taken, reached
            return answer
        except BaseException as exc:
            if isinstance(exc, ProviderError):
                exc.maybe_billed = response.status in STATUSES_OK
            response.abort()
            raise


def _kinds(failure: Exception) -> Sequence[ErrorKind]:
    """The kinds of failure whose fallbacks hold, in order; none where only this provider lacks something."""
    if isinstance(failure, ProviderError | FlexFull):
        return (failure.kind,)
    if isinstance(failure, UnsupportedParameter):
        return ()
    return failure.kinds if isinstance(failure, NobodyAvailable) else (ErrorKind.OVERLOADED,)


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

"""One attempt at a deployment: its request, its answer up to the first content, and what both tell of the deployment."""

import asyncio
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from adapters import ratelimits
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import CredentialSpec, UpstreamRequest

from . import tiers
from .answer import MAX_BODY, Answer, StreamedAnswer
from .call import Attempt, CallRecord, Deployment, Plan
from .continuation import Sendable
from .credentials import Credentials
from .failures import NONSENSE, unforeseen
from .fleet import SAMPLES, Fleet, Load, Member
from .health import Health
from .hedging import CLIENT_CLOSED, HEDGE_LOST
from .tiers import AttemptTier
from .timeouts import within
from .upstream import PLAIN, DeploymentFull, Upstream, UpstreamResponse

REFUSED_WITHIN = 5.0
"""Seconds that the words of a refusal are waited for: its status is here, and says enough without them."""
MOST_WORDS = 64 * 1024
"""Bytes of a compressed refusal that are read."""
NOTICEABLE = 0.05
"""Seconds by which a deployment must be slower than another before that counts."""
Own = tuple[tuple[str, str], ...]
"""Headers of one request alone."""


class Attempts:
    """Makes attempts. One per configuration."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        credentials: Credentials,
        fleet: Fleet,
        latency_ejection: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstreams = upstreams
        self._credentials = credentials
        self._fleet = fleet
        self._latency_ejection = latency_ejection
        self._clock = clock

    async def make(
        self, call: Sendable, deployment: Deployment, record: CallRecord, member: Member | None = None
    ) -> Answer:
        """One attempt, with its row in the record and its mark on what is known of the deployment: its ``member``.

        In the usual case nothing is awaited but the provider.
        """
        started = self._clock()
        if member is None:
            member = self._fleet[deployment.id]
        load, probe = member.load, member.health.take()
        record.begun = number = record.begun + 1
        row = Attempt(number, deployment.id, deployment.provider, deployment.target.model, fallback=record.fallback)
        if not call.admit_now(deployment, number):
            await _admitted(call, deployment, number, record, member.health if probe else None)
        load.in_flight += 1
        response: UpstreamResponse | None = None
        try:
            request, tier = call.outgoing(deployment)
            row.sent_tier = tier.sent
            if deployment.credential is None:
                sent = call.call.operation.prepare(deployment.adapter, request, deployment.target)
            else:
                sent = await self._signed(call.call.operation, request, deployment, deployment.credential)
            sent, own = (sent, ()) if record.passed_on is None else _traced(sent, record.passed_on)
            timeouts = deployment.tier_timeouts.get(tier.expected, deployment.timeouts)
            if number > 1:
                timeouts = within(timeouts, self.left(call, record))
            began, upstream = time.perf_counter(), self._upstreams[deployment.provider]
            response = upstream.start(sent, timeouts, own=own)
            if response is not None:
                await response.begun
            if response is None or not response.status:
                waits = not self._may_go_elsewhere(call.plan, deployment, record)
                response = await upstream.open(sent, timeouts, own=own, after=response, waits=waits)
            answer = self._at_once(call, deployment, sent, tier, response)
            if answer is None:
                answer = await self._later(call, deployment, sent, tier, response)
        except BaseException as exc:
            load.in_flight -= 1
            row.seconds = self._clock() - started
            if response is not None:
                _drop(response, exc)
            self._failed(call, deployment, record, row, exc, probe=probe)
            raise
        answer.waited, answer.reached = response.taken, response.opened - began
        row.ttft = self._answered(call, deployment, record, member, answer, started)
        record.attempts.append(row)
        return answer

    def _at_once(
        self,
        call: Sendable,
        deployment: Deployment,
        sent: UpstreamRequest,
        tier: AttemptTier,
        response: UpstreamResponse,
    ) -> Answer | None:
        """The answer, where the whole of it has come with its head; None where it must be waited for or is none."""
        if not 200 <= response.status < 300:
            return None
        if len(call.plan) > 1 or deployment.pool is not None:
            self._heed(call, deployment, response)
        body = None if call.call.stream else response.here(MAX_BODY)
        if body is None:
            return None
        try:
            answer: Answer = call.call.operation.whole(call.call, deployment, sent, tier, body)
        except NONSENSE as exc:
            raise unforeseen(exc) from exc  # another deployment may give a better one
        return answer

    async def _later(
        self,
        call: Sendable,
        deployment: Deployment,
        sent: UpstreamRequest,
        tier: AttemptTier,
        response: UpstreamResponse,
    ) -> Answer:
        """The answer, or the beginning of a stream, when it has come; raises ProviderError for what is none."""
        if not 200 <= response.status < 300:
            body = await _refusal(response)
            # A name for what is raised would make it part of a cycle: it knows this frame.
            raise tiers.refused(deployment, tier, deployment.adapter.error(response.status, response.headers, body))
        try:
            answer: Answer = await call.call.operation.read(call.call, deployment, sent, tier, response)
        except NONSENSE as exc:
            raise unforeseen(exc) from exc
        return answer

    def _heed(self, call: Sendable, deployment: Deployment, response: UpstreamResponse) -> None:
        """Note what the provider says it still takes, where that decides who is asked next."""
        if (limits := ratelimits.read(response.only(ratelimits.NAMES))) is not None:
            self._fleet[deployment.id].health.hinted(limits)
            call.told(deployment, limits)

    def _answered(
        self, call: Sendable, deployment: Deployment, record: CallRecord, member: Member, answer: Answer, started: float
    ) -> float:
        """Note what an answer tells of the deployment, of which a stream goes on being a load; gives its seconds."""
        now = self._clock()
        if isinstance(answer, StreamedAnswer):
            answer.on_end(partial(_leave, member.load))
        else:
            member.load.in_flight -= 1
        member.answered(call.call.stream, call.call.size, now - started, now)
        record.spillover = None
        if len(call.plan) > 1:
            if self._latency_ejection is not None:
                self._compare(call, deployment, member, self._latency_ejection)
            best, own = call.plan[0].config.capacity, deployment.config.capacity
            record.spillover = (best, own) if best != own else None
        record.dropped = answer.sent.dropped
        return now - started

    def _failed(
        self,
        call: Sendable,
        deployment: Deployment,
        record: CallRecord,
        row: Attempt,
        why: BaseException,
        *,
        probe: bool,
    ) -> None:
        """Note what a failed attempt tells of the deployment and what it may cost, in its row if anything was sent."""
        health = self._fleet[deployment.id].health
        if isinstance(why, DeploymentFull):
            if probe:
                health.release()
            record.full += (deployment.id,)
            call.over(row, deployment, maybe_billed=False)
            return
        if isinstance(why, ProviderError):
            hurried = self._hurried(call, deployment, record, row, why)
            if not (hurried or self._credentials.at_fault(deployment.credential, why, row.seconds)):
                others = self._others(call.plan, deployment)
                queued = deployment.pool is not None and not others
                health.failed(why, last=not others, queued=queued, probe=probe)
                call.told(deployment, why)
            elif probe:
                health.release()
            row.status, row.error = why.kind.value, why.kind
            call.over(row, deployment, maybe_billed=why.maybe_billed)
        else:
            if probe:
                health.release()
            if isinstance(why, UnsupportedParameter):
                call.over(row, deployment, maybe_billed=False)
                return
            row.status = HEDGE_LOST if why.args == (HEDGE_LOST,) else CLIENT_CLOSED
            call.over(row, deployment, maybe_billed=True)
        record.attempts.append(row)

    def _compare(self, call: Sendable, deployment: Deployment, member: Member, factor: float) -> None:
        """Note that it took much longer, by ``factor``, than the best of the others does."""
        stream, size = call.call.stream, call.call.size
        others = [
            known
            for d in call.plan
            if d.id != deployment.id and (known := self._fleet[d.id].load.latency(stream, size, SAMPLES)) is not None
        ]
        own = member.load.latency(stream, size, SAMPLES)
        if others and own is not None and own > max(min(others) * factor, min(others) + NOTICEABLE):
            member.health.slow()
            member.load.forget()

    def _may_go_elsewhere(self, plan: Plan, deployment: Deployment, record: CallRecord) -> bool:
        """Whether another deployment, which was not asked yet, may have room where this one has none."""
        asked = {*record.full, *[row.deployment for row in record.attempts]}
        return self._others([d for d in plan if d.id not in asked], deployment)

    def _others(self, plan: Plan, deployment: Deployment) -> bool:
        return any(d.id != deployment.id and self._fleet[d.id].health.serves for d in plan)

    async def _signed(
        self, operation: Any, request: Mapping[str, Any], deployment: Deployment, credential: CredentialSpec
    ) -> UpstreamRequest:
        """The request with a credential that expires."""
        target = replace(deployment.target, api_key=await self._credentials.token(credential))
        return await self._credentials.sign(operation.prepare(deployment.adapter, request, target), credential)

    def _hurried(
        self, call: Sendable, deployment: Deployment, record: CallRecord, row: Attempt, why: ProviderError
    ) -> bool:
        """Whether it took too long within less than half of its own time, as those before it left it no more."""
        if row.number == 1 or why.kind is not ErrorKind.TIMEOUT or self.left(call, record) > NOTICEABLE:
            return False
        own = deployment.tier_timeouts.get(row.sent_tier or "default", deployment.timeouts)
        return row.seconds < 0.5 * (own.first_byte if call.call.stream else own.response)

    def left(self, call: Sendable, record: CallRecord) -> float:
        """Seconds that all attempts of a call together have left."""
        return self.until(call, record) - self._clock()

    def until(self, call: Sendable, record: CallRecord) -> float:
        """The moment by which they must have an answer: that of the most patient of the models that were asked."""
        first, tier = call.plan[0], record.attempts[-1].sent_tier if record.attempts else None
        timeouts = first.tier_timeouts.get(tier or "default", first.timeouts)
        return max(record.dispatched + timeouts.request, record.until)


def _traced(sent: UpstreamRequest, context: str) -> tuple[UpstreamRequest, Own]:
    """A request with the trace's context in a header of its own, which no signature covers: proxies may change it."""
    if "traceparent" in sent.headers:  # the configuration's
        sent = replace(sent, headers={k: v for k, v in sent.headers.items() if k != "traceparent"})
    return sent, (("traceparent", context),)


async def _admitted(
    call: Sendable, deployment: Deployment, number: int, record: CallRecord, probed: Health | None
) -> None:
    """Hold what an attempt needs; where it is refused nothing is sent, and there is no row."""
    try:
        await call.admit(deployment, number)
    except BaseException as exc:
        if isinstance(exc, DeploymentFull):
            record.full += (deployment.id,)
        if probed is not None:
            probed.release()
        raise


async def _refusal(response: UpstreamResponse) -> bytes:
    """The words of an answer whose status is a failure; none where they break off or do not come."""
    try:
        async with asyncio.timeout(REFUSED_WITHIN):
            body = await response.read(MAX_BODY)
        if response.headers.get("content-encoding", "").lower().encode() in PLAIN:
            return body
        # Nobody asked for it, but some proxies pack what they say themselves.
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MOST_WORDS)
    except (ProviderError, TimeoutError, zlib.error):
        return b""


def _drop(response: UpstreamResponse, why: BaseException) -> None:
    """An answer that nobody wants, or that is none: what a provider says yes to may be billed."""
    response.abort()
    if response.status and isinstance(why, ProviderError):
        why.maybe_billed = 200 <= response.status < 300


def _leave(load: Load) -> None:
    load.in_flight -= 1

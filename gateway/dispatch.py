"""Try the deployments of a plan until one answers: retry, fall back, until the first content is in hand."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from config.schema import Retries

from .answer import MAX_BODY, StreamedAnswer, WholeAnswer
from .call import Attempt, Call, CallRecord, Deployment, Plan
from .credentials import Credentials
from .errors import GatewayError, InvalidRequest, NoHealthyUpstream
from .failures import to_gateway_error
from .health import Health
from .tiers import AttemptTier
from .upstream import Upstream

FINAL = frozenset({ErrorKind.INVALID_REQUEST, ErrorKind.CONTEXT_LENGTH, ErrorKind.CONTENT_POLICY, ErrorKind.TOO_LARGE})
"""The request's own fault: another deployment of the same model would say the same."""
SAME_AGAIN = frozenset(
    {ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED, ErrorKind.SERVER, ErrorKind.CONNECTION, ErrorKind.INCOMPLETE}
)
"""Worth a second attempt on the same deployment when there is no other."""
STATUSES_OK = range(200, 300)


class Prepared(Protocol):
    """A call that has been reserved for: what is sent to each deployment is bounded by the reservation."""

    call: Call

    async def admit(self, deployment: Deployment, number: int) -> None:
        """Hold what attempt ``number`` may cost at worst, and the deployment's own capacity.

        Raises ProviderError where the deployment is full, UnsupportedParameter where a budget cannot bound it, and
        GatewayError where a budget has not enough left.
        """
        ...

    def outgoing(self, deployment: Deployment) -> tuple[Mapping[str, Any], AttemptTier]:
        """The request to translate, and the tier it runs at."""
        ...

    def over(self, attempt: Attempt, deployment: Deployment, *, maybe_billed: bool) -> Attempt:
        """Let go of what a failed attempt held; gives its row, with what the provider may bill for it."""
        ...


class Dispatcher:
    """Walks a plan. One per configuration; ``answer`` is the only entry."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        credentials: Credentials,
        retries: Retries,
        health: Mapping[str, Health],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstreams = upstreams
        self._credentials = credentials
        self._retries = retries
        self._health = health
        self._clock = clock

    async def answer(self, call: Prepared, plan: Plan, record: CallRecord) -> StreamedAnswer | WholeAnswer:
        """The first answer any deployment gives; raises the GatewayError that fits the last failure."""
        candidates = self._candidates(plan)
        first = next(candidates, None)
        if first is None:
            raise self._nobody(plan)
        try:
            try:
                return await self._attempt(call, first, record)
            except (ProviderError, UnsupportedParameter) as exc:
                return await self._again(call, candidates, record, exc)
        except ProviderError as exc:
            raise to_gateway_error(exc, tried=len(record.attempts)) from exc
        except UnsupportedParameter as exc:
            raise InvalidRequest(exc.message, param=exc.param, code="unsupported_parameter") from exc

    async def _again(
        self, call: Prepared, candidates: Iterator[Deployment], record: CallRecord, failure: Exception
    ) -> StreamedAnswer | WholeAnswer:
        """The further attempts. The first one is made without this, because most calls need no second."""
        upcoming: list[Deployment] = []

        def worth_it(exc: BaseException) -> bool:
            if not _may_try_elsewhere(exc):
                return False
            following = next(candidates, None)
            if following is not None:
                upcoming.append(following)
            return following is not None

        def wait(state: RetryCallState) -> float:
            return self._delay(state, upcoming[-1], record)

        attempts = AsyncRetrying(
            stop=stop_after_attempt(self._retries.attempts), wait=wait, retry=retry_if_exception(worth_it), reraise=True
        )
        async for attempt in attempts:
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    raise failure  # stands for the attempt that was made already
                return await self._attempt(call, upcoming[-1], record)
        raise failure

    def _delay(self, state: RetryCallState, following: Deployment, record: CallRecord) -> float:
        """Nothing when another deployment is next; else full jitter, or what the upstream asked for."""
        if not record.attempts or record.attempts[-1].deployment != following.id:
            return 0.0
        failure = state.outcome.exception() if state.outcome is not None else None
        if isinstance(failure, ProviderError) and failure.retry_after is not None:
            return min(failure.retry_after, self._retries.max_retry_after)
        return float(wait_random_exponential(self._retries.base_delay, self._retries.max_delay)(state))

    def _candidates(self, plan: Plan) -> Iterator[Deployment]:
        """Every healthy deployment once, then again, so that a lone one is retried after the others had their turn."""
        turns = (d for _ in range(self._retries.per_deployment) for d in plan)
        # Cut here and not only by tenacity's stop: a half-open breaker that said yes must be followed by its probe.
        return islice((d for d in turns if self._health[d.id].available()), self._retries.attempts)

    def _nobody(self, plan: Plan) -> GatewayError:
        wait = min((self._health[d.id].retry_in for d in plan), default=1.0)
        return NoHealthyUpstream("No provider of this model is available right now.", retry_after=max(wait, 1.0))

    async def _attempt(
        self, call: Prepared, deployment: Deployment, record: CallRecord
    ) -> StreamedAnswer | WholeAnswer:
        """One attempt, with its row in the record and its mark on the deployment's health."""
        health, started = self._health[deployment.id], self._clock()
        attempt = Attempt(len(record.attempts) + 1, deployment.id, deployment.provider, deployment.target.model)
        try:
            await call.admit(deployment, attempt.number)
        except BaseException:
            health.release()
            raise  # nothing was sent: no row
        try:
            request, tier = call.outgoing(deployment)
            attempt = replace(attempt, sent_tier=tier.sent)
            answer = await self._exchange(call.call, request, tier, deployment)
        except UnsupportedParameter:
            health.release()
            call.over(attempt, deployment, maybe_billed=False)
            raise  # nothing was sent: no row
        except ProviderError as exc:
            health.failed(exc)
            failed = replace(attempt, status=exc.kind.value, error=exc.kind, seconds=self._clock() - started)
            record.attempts.append(call.over(failed, deployment, maybe_billed=exc.maybe_billed))
            raise
        except BaseException:
            health.release()
            left = replace(attempt, status="client_closed", seconds=self._clock() - started)
            record.attempts.append(call.over(left, deployment, maybe_billed=True))
            raise
        health.succeeded()
        record.dropped = answer.sent.dropped
        record.attempts.append(replace(attempt, ttft=self._clock() - started))
        return answer

    async def _exchange(
        self, call: Call, request: Mapping[str, Any], tier: AttemptTier, deployment: Deployment
    ) -> StreamedAnswer | WholeAnswer:
        target = deployment.target
        if deployment.credential is not None:
            target = replace(target, api_key=await self._credentials.token(deployment.credential))
        sent = call.operation.prepare(deployment.adapter, request, target)
        if deployment.credential is not None:
            sent = await self._credentials.sign(sent, deployment.credential)
        timeouts = deployment.tier_timeouts.get(tier.expected, deployment.timeouts)
        response = await self._upstreams[deployment.provider].open(sent, timeouts)
        try:
            if response.status not in STATUSES_OK:
                body = await response.read(MAX_BODY)
                raise deployment.adapter.error(response.status, response.headers, body)
            answer: StreamedAnswer | WholeAnswer = await call.operation.read(call, deployment, sent, tier, response)
            return answer
        except BaseException as exc:
            if isinstance(exc, ProviderError):
                exc.maybe_billed = response.status in STATUSES_OK
            response.abort()
            raise


def _may_try_elsewhere(exc: BaseException) -> bool:
    if isinstance(exc, UnsupportedParameter):
        return True
    return isinstance(exc, ProviderError) and exc.kind not in FINAL

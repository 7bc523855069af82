"""Try the deployments of a plan until one answers: retry, fall back, until the first content is in hand."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

from tenacity import AsyncRetrying, retry_if_exception, retry_never, wait_none

from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter, bare
from config.schema import Retries

from . import tiers
from .answer import Answer, StreamedAnswer
from .attempts import Attempts
from .call import Attempt, CallRecord, Deployment, Plan, Route
from .continuation import CONTINUED, Rest, Resumable, Sendable
from .errors import GatewayError
from .failures import NobodyAvailable, kinds_of, told
from .fleet import Fleet
from .hedging import hedged
from .plaintext import plain
from .pools import FlexFull, QueueFull
from .routing import Router
from .walk import Walk

Failed: TypeAlias = list[Exception]
"""The failure of an attempt, until it is raised again: a local that is raised would know itself, through its frame."""
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
        attempts: Attempts,
        retries: Retries,
        fleet: Fleet,
        router: Router,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._attempts = attempts
        self._retries = retries
        self._fleet = fleet
        self._router = router
        self._clock = clock

    async def answer(self, call: Prepared, record: CallRecord) -> Answer:
        """The first answer any deployment gives, of a fallback model too; raises the error of the last failure.

        The plan's first deployment is tried straight away where nothing speaks against it and nothing is asked beside
        it: nearly always. Who is next needs no thought until it fails.
        """
        record.dispatched = now = self._clock()
        plan, before = call.plan, len(record.attempts)
        first = plan[0]
        failed: Failed = []
        member = self._fleet[first.id]
        alone = first.pool is None and (len(plan) == 1 or call.route.config.hedging is None)
        straight = alone and member.begin(now)
        if straight:
            try:
                answer = await self._attempts.make(call, first, record, member)
            except (ProviderError, UnsupportedParameter) as exc:
                failed.append(bare(exc))
            else:
                return self._resumable(answer, call, record) if first.resumable else answer
        most = before + self._retries.attempts  # one allowance, however many models serve
        answer = await self._onward(call, record, most, first if straight else None, failed)
        return self._resumable(answer, call, record)

    def _resumable(self, answer: Answer, call: Prepared, record: CallRecord) -> Answer:
        """The answer, as one that another deployment goes on with where it breaks off, if one may."""
        if answer.deployment.resumable and isinstance(answer, StreamedAnswer) and plain(call.call):
            return Resumable(answer, partial(self._resume, call, record))
        return answer

    async def _onward(
        self, call: Prepared, record: CallRecord, most: int, begun: Deployment | None, failed: Failed
    ) -> Answer:
        """The answer of the model asked for, else of a fallback model, within ``most`` attempts.

        ``failed`` has the failure of the first attempt, if ``begun`` was tried already.
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
                return await self._model(call, walk, record, failed)
            except FAILURES as exc:
                failure = exc
            try:
                kinds = kinds_of(failure)
                waiting[:0] = [
                    route for kind in kinds for route in self._router.fallbacks(call.route, kind, call.principal)
                ]
                if self._attempts.left(call, record) <= 0 or not await self._fall_back(call, waiting, seen, record):
                    if isinstance(failure, GatewayError):
                        raise failure
                    # Bare: tenacity keeps the exception, which must not keep the call.
                    raise told(failure, record) from bare(failure)
            finally:
                del failure
            begun, left = None, most - len(record.attempts)

    async def _fall_back(self, call: Prepared, waiting: list[Route], seen: set[str], record: CallRecord) -> bool:
        """Move to the first model that was not tried yet and that the limits allow."""
        until = self._attempts.until(call, record)  # its own may be shorter, and over before it has begun
        while waiting:
            route = waiting.pop(0)
            if route.name in seen:
                continue
            seen.add(route.name)
            tier = record.effective_tier
            try:
                plan = self._router.plan(route, call.call)
                plan = tiers.fitting(plan, record, call.principal)
                await call.fall_back(route, plan)
            except GatewayError:
                record.effective_tier = tier
                continue  # the failure that brought us here tells the client more
            record.fallback, record.until = route.name, until
            return True
        return False

    async def _model(self, call: Prepared, walk: Walk, record: CallRecord, failed: Failed) -> Answer:
        """The deployments of one model, from the first on or from what follows its failure."""
        try:
            if failed:
                return await self._again(call, walk, record, failed)
            first = walk.first()
            if first is None:
                raise self._nobody(call.plan)
            hedging = call.route.config.hedging
            try:
                if hedging is not None and len(call.plan) > 1:
                    return await hedged(self._attempts.make, call, walk, first, record, hedging.after)
                return await self._attempts.make(call, first, record)
            except (ProviderError, UnsupportedParameter) as exc:
                failed.append(bare(exc))
            return await self._again(call, walk, record, failed)
        finally:
            record.retry_denied = record.retry_denied or walk.denied

    def _nobody(self, plan: Plan) -> NobodyAvailable:
        out = [self._fleet[d.id].health for d in plan]
        wait = min((health.worth_waiting for health in out), default=1.0)
        return NobodyAvailable(wait, (*dict.fromkeys(h.why for h in out if h.why), ErrorKind.OVERLOADED))

    async def _again(self, call: Prepared, walk: Walk, record: CallRecord, failed: Failed) -> Answer:
        """The further attempts. The first one is made without this, because most calls need no second."""
        attempts = AsyncRetrying(
            wait=lambda _: walk.delay,
            retry=retry_if_exception(lambda exc: walk.goes_on(exc, self._attempts.left(call, record))),
            sleep=_pause,
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    if attempt.retry_state.attempt_number == 1:
                        raise failed.pop()  # stands for the attempt that was made already
                    assert walk.following is not None, "the walk goes on"
                    return await self._attempts.make(call, walk.following, record)
        finally:
            attempts.wait, attempts.retry = (
                wait_none(),
                retry_never,
            )  # its parts know each other, and would keep the call
        raise AssertionError("the last failure is raised again")

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
                answer = await self._attempts.make(call, deployment, record)
            except (ProviderError, UnsupportedParameter):
                continue
            assert isinstance(answer, StreamedAnswer), "the rest of a stream is one"
            return answer
        return None


async def _pause(seconds: float) -> None:
    # Without a pause nothing may come between a half-open breaker's yes and its probe, not even a cancellation.
    if seconds:
        await asyncio.sleep(seconds)

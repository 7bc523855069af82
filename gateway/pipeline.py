"""One call, from credential to record. Read ``Pipeline.run`` top to bottom."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Protocol

from adapters.errors import ProviderError

from . import flex, tiers
from .answer import StreamedAnswer, WholeAnswer
from .auth import Authenticator, tenant_headers
from .call import Call, CallRecord, Principal, Route
from .dispatch import Dispatcher
from .errors import ClientDisconnected, GatewayError, LimitExceeded
from .failures import NONSENSE, to_gateway_error, unforeseen
from .intake import Read, read_call
from .keeping import Keeper
from .limits.headers import dollars
from .logs import log_crash
from .metering import Meter, Metered
from .protection import Protection
from .reply import Reply
from .routing import Router


class Observer(Protocol):
    """Told of each finished call. It must not block; what it raises is logged and goes no further."""

    def call_finished(self, record: CallRecord) -> None: ...


class Incoming(Protocol):
    """A request whose head has been read and whose body has not."""

    id: str
    headers: dict[str, str]
    """Of every answer, a refusal too."""

    @property
    def credential(self) -> str | None: ...

    digest: str | None
    """The credential's, by which a key is found; None where it has not been worked out."""

    @property
    def client_marks(self) -> tuple[str | None, str | None]:
        """The client's own id of the request and the number of its retry, where it sent them."""
        ...

    @property
    def traceparent(self) -> str | None: ...

    async def body(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    auth: Authenticator
    router: Router
    meter: Meter
    dispatch: Dispatcher
    observers: Sequence[Observer]
    allow: frozenset[str] = frozenset()
    """Extensions that some model passes on; which one, its own parameter policy says."""
    keeper: Keeper | None = None
    """Keeps completions with ``store: true``; None: ``store`` is taken for false."""

    protection: Protection | None = None
    """Turns away what a worker with too much to do should not begin."""
    trace: Callable[[CallRecord], str | None] | None = None
    """The trace context that providers get; None: the client's."""
    capture: bool = False
    """Whether observers see prompts and answers."""
    litellm_headers: bool = False
    """Whether answers carry the headers that clients of LiteLLM read."""

    async def run(self, incoming: Incoming, reply: Reply, read: Read = read_call) -> None:
        """Serve one call; raises GatewayError while nothing was sent, ClientDisconnected when nobody is there."""
        record = CallRecord(incoming.id, started=time.time())
        # None or one, settled whatever happens. Not an optional: compiled, it would be taken for there in ``finally``.
        held: list[Metered] = []
        try:
            record.client_request_id, record.client_retries = incoming.client_marks
            record.traceparent = incoming.traceparent
            record.passed_on = record.traceparent if self.trace is None else self.trace(record)
            credential = incoming.credential
            known = self.auth.known(credential, record.started, incoming.digest)
            principal = known or await self.auth.ask(credential or "")
            incoming.headers.update(tenant_headers(principal.organization, principal.team))
            record.principal, record.known = principal, perf_counter()
            call = self._call(read(incoming.id, await incoming.body(), principal, self.allow), principal, record)
            route = self.router.resolve(call.model, principal)
            record.model, record.effective_tier = route.name, tiers.effective(call.request, principal)
            if self.protection is not None:
                self.protection.admit(record, principal.key_id)
            plan = tiers.fitting(self.router.plan(route, call), record, principal)
            metered, refused = None, None
            try:
                now = self.meter.reserve_now(call, principal, route, plan, record)
                metered = now or await self.meter.reserve(call, principal, route, plan, record)
            except LimitExceeded as exc:
                refused = exc
            if metered is None:
                try:
                    metered = await self._cheaper(call, principal, route, record)
                    if metered is None:
                        assert refused is not None, "or it would be reserved"
                        raise refused
                finally:
                    refused = None
            held.append(metered)
            record.reserved = perf_counter()
            answering = self.dispatch.answer if metered.tier != "flex" else partial(flex.answer, self.dispatch)
            answer = await answering(metered, record)
            record.answered(answer.waited, answer.reached)
            if isinstance(answer, StreamedAnswer):
                await self._stream(answer, metered, record, reply)
            else:
                await self._whole(answer, metered, record, reply)
            record.status = 200
        except GatewayError as exc:
            record.status, record.code = exc.status, exc.label
            exc.extra_headers.update(held[0].limit_headers() if held else {})
            raise
        except (ClientDisconnected, asyncio.CancelledError):
            record.status, record.code = record.status or 499, "client_closed" if record.code == "ok" else record.code
            raise
        except BaseException:
            record.status, record.code = 500, "internal_error"
            raise
        finally:
            record.over()
            if held:
                held[0].close(record)  # synchronous: no cancellation can come between
            if record.counted and self.protection is not None:
                self.protection.leave(record)
            self._tell(record)

    def _tell(self, record: CallRecord) -> None:
        """What an observer makes of a call is nothing to the client, nor to the next observer."""
        for observer in self.observers:
            try:
                observer.call_finished(record)
            except Exception as exc:
                log_crash(exc)

    def _call(self, call: Call, principal: Principal, record: CallRecord) -> Call:
        if self.capture:
            call = replace(call, traced=True)
        if call.store and (self.keeper is None or not principal.may_store):
            call = replace(call, store=False)
        record.stream, record.requested_tier = call.stream, call.request.get("service_tier")
        record.operation = call.operation.name
        record.read = perf_counter()
        return call

    async def _cheaper(self, call: Call, principal: Principal, route: Route, record: CallRecord) -> Metered | None:
        """Reserve for the cheaper model, where the key takes that instead of a refusal by a limit."""
        cheaper = self.router.cheaper(route, principal)
        if cheaper is None:
            return None
        tier = record.effective_tier
        try:
            plan = tiers.fitting(self.router.plan(cheaper, call), record, principal)
            metered = await self.meter.reserve(call, principal, cheaper, plan, record)
        except GatewayError:
            record.effective_tier = tier
            return None  # the refusal is about the model that was asked for
        record.fallback = cheaper.name
        return metered

    def _headers(self, answer: StreamedAnswer | WholeAnswer, metered: Metered, record: CallRecord) -> dict[str, str]:
        headers = metered.headers(answer, record)
        if self.litellm_headers:
            headers |= {"x-litellm-model-id": answer.deployment.id, "x-litellm-call-id": record.id}
        return headers

    async def _settle(self, answer: StreamedAnswer | WholeAnswer, metered: Metered, record: CallRecord) -> None:
        """All that must be safe before the client has the last byte: the ledger row, and the copy that is to be kept."""
        durable = metered.settled(answer, record)
        if answer.usage is None:
            answer.charge(record.attempts[-1].usage)
        if durable is not None:
            await durable
        record.settled = perf_counter()
        if metered.call.traced or metered.call.store:
            await self._keep(answer, metered, record)

    async def _whole(self, answer: WholeAnswer, metered: Metered, record: CallRecord, reply: Reply) -> None:
        headers = self._headers(answer, metered, record)
        await self._settle(answer, metered, record)
        if self.litellm_headers:
            headers["x-litellm-response-cost"] = dollars(record.cost)
        await reply.whole(answer.body, headers)

    async def _stream(self, answer: StreamedAnswer, metered: Metered, record: CallRecord, reply: Reply) -> None:
        """Relay until the end. A failure now is an error event and a broken connection, never a clean end."""
        headers = self._headers(answer, metered, record)
        metered.streaming(answer, record)
        try:
            await reply.start(headers)
            await answer.pour(reply)
            record.poured = perf_counter()
            last = answer.last()
            await self._settle(answer, metered, record)
            await reply.finish(last if answer.usage is not None else answer.counted(last))
            await answer.close()
            return
        except (ProviderError, *NONSENSE) as exc:
            why = exc
        except BaseException:
            answer.abort()  # before anything else: the upstream is billed for what nobody reads
            raise
        try:
            await self._broken(answer, record, reply, why)
        finally:
            del why

    async def _broken(self, answer: StreamedAnswer, record: CallRecord, reply: Reply, why: Exception) -> None:
        error = why if isinstance(why, ProviderError) else unforeseen(why)
        record.status, record.code = 200, f"stream_{error.kind.value}"
        answer.abort()
        self.dispatch.died(answer, error)
        await reply.fail(to_gateway_error(error))

    async def _keep(self, answer: StreamedAnswer | WholeAnswer, metered: Metered, record: CallRecord) -> None:
        if metered.call.traced:
            record.content = (metered.call.request.get("messages"), answer.completion(metered.call))
        if metered.call.store and self.keeper is not None and record.principal is not None:
            await self.keeper.keep(metered.call, record.principal, answer)

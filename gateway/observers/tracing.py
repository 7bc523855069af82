"""One OpenTelemetry span for each finished call, by the GenAI semantic conventions; no prompt and no answer unless asked for.

The span continues the client's W3C ``traceparent`` where one came, and providers are told of it before it exists: its ids
follow from the call's. It is made when the call has ended, from its record, so that the request path knows nothing of
tracing; the exporters work in threads of their own. Needs the extra ``otel``.
"""

import base64
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime

import orjson
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from config.schema import Langfuse
from config.schema import Tracing as Options

from ..call import Attempt, CallRecord
from ..tracecontext import span_of
from . import content

EXPORT_SECONDS = 10
"""For one export; spans that do not fit the queue meanwhile are dropped, never waited for."""
NANO = 1_000_000_000


class Ids(IdGenerator):
    """Gives the ids that were announced to the providers."""

    trace = span = 1

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span


class TracingObserver:
    """Exports to an OTLP/HTTP endpoint, to Langfuse, or to both. ``providers`` names the accounts of the configuration."""

    def __init__(self, options: Options, providers: Mapping[str, str], service: str = "sluice") -> None:
        ratio = TraceIdRatioBased(options.sample)
        self._bound = ratio.bound
        self._ids = Ids()
        self._providers = providers
        self._langfuse = options.langfuse is not None
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service}),
            sampler=ParentBased(ratio),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        for endpoint, headers in targets(options):
            exporter = OTLPSpanExporter(endpoint, headers=headers, timeout=EXPORT_SECONDS)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sluice")
        self._propagator = TraceContextTextMapPropagator()

    def announce(self, record: CallRecord) -> str:
        """The ``traceparent`` that providers get: the span that this call will be."""
        return span_of(record.id, record.traceparent, self._bound).header()

    def call_finished(self, record: CallRecord) -> None:
        carrier = {"traceparent": record.traceparent} if record.traceparent else {}
        began = int(record.started * NANO)
        self._ids.trace, self._ids.span, _ = span_of(record.id, record.traceparent, self._bound)
        span = self._tracer.start_span(
            f"{record.operation} {record.model}".rstrip(),
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=began,
        )
        if not span.is_recording():
            return
        span.set_attributes(self._attributes(record))
        for attempt in record.attempts:
            span.add_event("attempt", attempt_attributes(attempt), began)
        if record.status >= 400 or record.code != "ok":
            span.set_status(StatusCode.ERROR, record.code)
        span.end(began + int(record.seconds * NANO))

    def closer(self) -> Callable[[], Awaitable[None]]:
        """Exports what is queued; in a thread, because the exporter blocks."""
        import asyncio

        async def close() -> None:
            await asyncio.to_thread(self._provider.shutdown)

        return close

    def _attributes(self, record: CallRecord) -> dict[str, AttributeValue]:
        last = record.attempts[-1] if record.attempts else None
        found = attributes_of(record, self._providers.get(last.provider) if last else None)
        if record.content is not None:
            found["gen_ai.input.messages"] = content.messages(record.content[0])
            found["gen_ai.output.messages"] = content.answers(record.content[1])
        if self._langfuse:
            found.update(langfuse_attributes(record))
        return found


def targets(options: Options) -> Iterator[tuple[str, dict[str, str]]]:
    """Where spans go: address and headers of each."""
    if options.endpoint is not None:
        yield options.endpoint, {name: value.get_secret_value() for name, value in options.headers.items()}
    if options.langfuse is not None:
        yield langfuse_target(options.langfuse)


def langfuse_target(options: Langfuse) -> tuple[str, dict[str, str]]:
    """Langfuse takes OTLP with the project's two keys as user and password."""
    pair = f"{options.public_key.get_secret_value()}:{options.secret_key.get_secret_value()}"
    headers = {
        "authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
        "x-langfuse-ingestion-version": "4",
    }
    return f"{options.host.rstrip('/')}/api/public/otel/v1/traces", headers


def attributes_of(record: CallRecord, provider: str | None) -> dict[str, AttributeValue]:
    """The call, in the words of the conventions where they have one."""
    principal = record.principal
    values: Mapping[str, AttributeValue | None] = {
        "gen_ai.operation.name": record.operation,
        "gen_ai.request.model": record.model or None,
        "gen_ai.request.stream": record.stream,
        "gen_ai.response.model": record.attempts[-1].model if record.attempts else None,
        "gen_ai.provider.name": provider,
        "gen_ai.usage.input_tokens": record.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": record.usage.completion_tokens,
        "openai.request.service_tier": record.requested_tier,
        "openai.response.service_tier": record.served_tier,
        "gen_ai.response.time_to_first_chunk": record.ttft if record.stream else None,
        "http.response.status_code": record.status,
        "error.type": record.code if record.code != "ok" else None,
        "user.id": principal.user if principal else None,
        "sluice.request_id": record.id,
        "sluice.key": principal.key_id if principal else None,
        "sluice.team": principal.team if principal else None,
        "sluice.cost_nano_usd": record.cost,
        "sluice.attempts": len(record.attempts),
    }
    return {name: value for name, value in values.items() if value is not None}


def langfuse_attributes(record: CallRecord) -> dict[str, AttributeValue]:
    """What Langfuse reads and the conventions have no word for."""
    found: dict[str, AttributeValue] = {
        "langfuse.observation.type": "generation",
        "langfuse.observation.cost_details": orjson.dumps({"total": record.cost / NANO}).decode(),
        "langfuse.trace.tags": record.principal.tags if record.principal else (),
    }
    if record.stream and record.ttft is not None:
        began = datetime.fromtimestamp(record.started + record.ttft, UTC)
        found["langfuse.observation.completion_start_time"] = began.isoformat()
    return found


def attempt_attributes(attempt: Attempt) -> dict[str, AttributeValue]:
    return {
        "sluice.deployment": attempt.deployment,
        "sluice.status": attempt.status,
        "sluice.seconds": attempt.seconds,
        "sluice.cost_nano_usd": attempt.cost,
    }

"""One OpenTelemetry span for each finished call, by the GenAI semantic conventions. No prompt and no answer is in it.

The span continues the client's W3C ``traceparent`` where one came. It is made when the call has ended, from its record,
so that the request path knows nothing of tracing; the exporter works in a thread of its own. Needs the extra ``otel``.
"""

from collections.abc import Awaitable, Callable, Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from config.schema import Tracing as Options

from ..call import Attempt, CallRecord

EXPORT_SECONDS = 10
"""For one export; spans that do not fit the queue meanwhile are dropped, never waited for."""
NANO = 1_000_000_000


class TracingObserver:
    """Exports to an OTLP/HTTP endpoint."""

    def __init__(self, options: Options, service: str = "sluice") -> None:
        assert options.endpoint is not None, "made only where there is an endpoint"
        headers = {name: value.get_secret_value() for name, value in options.headers.items()}
        exporter = OTLPSpanExporter(options.endpoint, headers=headers, timeout=EXPORT_SECONDS)
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service}),
            sampler=ParentBased(TraceIdRatioBased(options.sample)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("sluice")
        self._propagator = TraceContextTextMapPropagator()

    def call_finished(self, record: CallRecord) -> None:
        carrier = {"traceparent": record.traceparent} if record.traceparent else {}
        began = int(record.started * NANO)
        span = self._tracer.start_span(
            f"chat {record.model}".rstrip(),
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=began,
            attributes=attributes_of(record),
        )
        if not span.is_recording():
            return
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


def attributes_of(record: CallRecord) -> dict[str, AttributeValue]:
    """The call, in the words of the conventions where they have one."""
    values: Mapping[str, AttributeValue | None] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": record.model or None,
        "gen_ai.response.model": record.attempts[-1].model if record.attempts else None,
        "gen_ai.provider.name": record.attempts[-1].provider if record.attempts else None,
        "gen_ai.usage.input_tokens": record.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": record.usage.completion_tokens,
        "gen_ai.openai.request.service_tier": record.requested_tier,
        "gen_ai.openai.response.service_tier": record.served_tier,
        "gen_ai.response.time_to_first_chunk": record.ttft if record.stream else None,
        "http.response.status_code": record.status,
        "error.type": record.code if record.code != "ok" else None,
        "sluice.request_id": record.id,
        "sluice.key": record.principal.key_id if record.principal else None,
        "sluice.team": record.principal.team if record.principal else None,
        "sluice.cost_nano_usd": record.cost,
        "sluice.attempts": len(record.attempts),
    }
    return {name: value for name, value in values.items() if value is not None}


def attempt_attributes(attempt: Attempt) -> dict[str, AttributeValue]:
    return {
        "sluice.deployment": attempt.deployment,
        "sluice.status": attempt.status,
        "sluice.seconds": attempt.seconds,
        "sluice.cost_nano_usd": attempt.cost,
    }

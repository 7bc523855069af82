"""One line of JSON for each finished call. No prompt, answer, key or header is in it."""

import logging
from collections.abc import Callable

import orjson

from ..call import CallRecord

LOGGER = logging.getLogger("sluice.access")


class AccessLog:
    """``traced`` gives the trace context of a call's span, where calls are traced."""

    def __init__(self, traced: Callable[[CallRecord], str | None] | None = None) -> None:
        self._traced = traced

    def call_finished(self, record: CallRecord) -> None:
        if not LOGGER.isEnabledFor(logging.INFO):
            return
        principal = record.principal
        LOGGER.info(
            "%s",
            orjson.dumps(
                {
                    "event": "call",
                    "time": round(record.started, 3),
                    "request_id": record.id,
                    "client_request_id": record.client_request_id,
                    "client_retries": record.client_retries,
                    "trace_id": self._trace_id(record),
                    "key": principal.key_id if principal else None,
                    "team": principal.team if principal else None,
                    "operation": record.operation,
                    "model": record.model or None,
                    "status": record.status,
                    "code": record.code,
                    "stream": record.stream,
                    "tier": record.served_tier,
                    "attempts": [f"{a.deployment}:{a.status}" for a in record.attempts],
                    "prompt_tokens": record.usage.prompt_tokens,
                    "completion_tokens": record.usage.completion_tokens,
                    "cost_nano_usd": record.cost,
                    "ttft_ms": round(record.ttft * 1000, 1) if record.ttft is not None else None,
                    "ms": round(record.seconds * 1000, 1),
                }
            ).decode(),
        )

    def _trace_id(self, record: CallRecord) -> str | None:
        """Where the call is found among traces: the client's trace, or one of our own."""
        context = record.passed_on or record.traceparent
        if context is None and self._traced is not None:  # providers are told nothing of it
            context = self._traced(record)
        return context[3:35] if context is not None else None

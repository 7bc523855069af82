"""The metrics that OpenTelemetry's conventions for generative AI define, under their names, labels and buckets."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Histogram

from ..call import CallRecord
from .bounded import Bounded
from .conventions import NOBODY

DURATION = (
    0.01,
    0.02,
    0.04,
    0.08,
    0.16,
    0.32,
    0.64,
    1.28,
    2.56,
    5.12,
    10.24,
    20.48,
    40.96,
    81.92,
    163.84,
    327.68,
    655.36,
)
"""The conventions' boundaries and three more: streams of reasoning models run for minutes."""
TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
TOKENS = tuple(4**n for n in range(14))
UNKNOWN = "unknown"
"""The model of requests that never reached a known one: a client cannot make series."""
LABELS = ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"]

Child = TypeVar("Child")


class GenAIMetrics:
    """``providers`` names the accounts of the configuration that runs, and may change; ``cap`` bounds the models."""

    def __init__(self, registry: CollectorRegistry, providers: Mapping[str, str], cap: int) -> None:
        self._providers = providers
        self._models = Bounded(cap)
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the head of a request to its last byte; error_type is the error's code, empty where there was none.",
            [*LABELS, "error_type"],
            buckets=DURATION,
            registry=registry,
        )
        self._ttft = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the head of a streamed request to its first content.",
            [*LABELS, "openai_response_service_tier"],
            buckets=TTFT,
            registry=registry,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Between two tokens of a stream, after the first: a mean for each stream.",
            [*LABELS, "openai_response_service_tier"],
            buckets=PER_TOKEN,
            registry=registry,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a call at its provider; gen_ai_token_type is input or output.",
            [*LABELS, "gen_ai_token_type"],
            buckets=TOKENS,
            registry=registry,
        )
        self._children: dict[tuple[str, ...], object] = {}

    def call_finished(self, record: CallRecord) -> None:
        provider = self._providers.get(record.attempts[-1].provider, NOBODY) if record.attempts else NOBODY
        who = (record.operation, provider, self._models(record.model) if record.model else UNKNOWN)
        failed = "" if record.code == "ok" else record.code
        self._child(("d", *who, failed), self._duration.labels).observe(record.seconds)
        if record.stream and record.ttft is not None:
            served = (*who, record.served_tier or record.effective_tier or "default")
            self._child(("f", *served), self._ttft.labels).observe(record.ttft)
            after = record.usage.completion_tokens - 1
            if after > 0 and not failed:
                self._child(("p", *served), self._per_token.labels).observe((record.seconds - record.ttft) / after)
        if record.usage.prompt_tokens:
            self._child(("t", *who, "input"), self._tokens.labels).observe(record.usage.prompt_tokens)
        if record.usage.completion_tokens:
            self._child(("t", *who, "output"), self._tokens.labels).observe(record.usage.completion_tokens)

    def _child(self, key: tuple[str, ...], labels: Callable[..., Child]) -> Child:
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = labels(*key[1:])
        return child  # type: ignore[return-value]  # a key's first letter says which metric it belongs to

"""Prometheus metrics of finished calls. Label values are known names only, so the number of series is bounded."""

from collections.abc import Callable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from ..call import Attempt, CallRecord

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
UNKNOWN = "unknown"
"""The model label of requests that never reached a known model: a client cannot make series."""
BUCKETS = ("input", "cache_read", "cache_write", "cache_write_1h", "audio_input", "output", "reasoning", "audio_output")
NANO = 1e-9

Child = TypeVar("Child")


class PrometheusObserver:
    """Counts calls, attempts, tokens and money. Children are looked up once per label set."""

    def __init__(self, registry: CollectorRegistry) -> None:
        model = ["model", "tier"]
        self._requests = Counter(
            "sluice_requests", "Requests by outcome.", ["model", "code", "status"], registry=registry
        )
        self._attempts = Counter(
            "sluice_attempts", "Upstream attempts by outcome.", ["deployment", "status"], registry=registry
        )
        self._duration = Histogram(
            "sluice_request_duration_seconds",
            "From the head of a request to its last byte.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._ttft = Histogram(
            "sluice_time_to_first_token_seconds",
            "To the first content of a stream.",
            model,
            buckets=TTFT,
            registry=registry,
        )
        self._tokens = Counter(
            "sluice_tokens", "Tokens by kind.", ["model", "deployment", "tier", "kind"], registry=registry
        )
        self._cost = Counter(
            "sluice_cost_usd", "Money, in US dollars.", ["model", "deployment", "tier"], registry=registry
        )
        self._spillover = Counter(
            "sluice_spillover",
            "Answers by a lower rung of the capacity ladder than the first one of the model.",
            ["model", "from", "to"],
            registry=registry,
        )
        self._fallbacks = Counter(
            "sluice_fallbacks", "Answers by another model than the one asked for.", ["model", "to"], registry=registry
        )
        self._denied = Counter(
            "sluice_retries_denied",
            "Requests that the retry budget kept from another attempt.",
            ["model"],
            registry=registry,
        )
        self._children: dict[tuple[str, ...], object] = {}

    def call_finished(self, record: CallRecord) -> None:
        name = record.model or UNKNOWN
        self._child(("r", name, record.code, str(record.status)), self._requests.labels).inc()
        self._child(("d", name), self._duration.labels).observe(record.seconds)
        tier = record.served_tier or record.effective_tier or "default"
        if record.stream and record.ttft is not None:
            self._child(("f", name, tier), self._ttft.labels).observe(record.ttft)
        if record.spillover is not None:
            self._child(("s", name, *record.spillover), self._spillover.labels).inc()
        if record.fallback is not None and record.status == 200:
            self._child(("b", name, record.fallback), self._fallbacks.labels).inc()
        if record.retry_denied:
            self._child(("n", name), self._denied.labels).inc()
        for attempt in record.attempts:
            self._attempt(name, attempt)

    def _attempt(self, name: str, attempt: Attempt) -> None:
        self._child(("a", attempt.deployment, attempt.status), self._attempts.labels).inc()
        tier = attempt.served_tier or "default"
        if attempt.cost:
            self._child(("c", name, attempt.deployment, tier), self._cost.labels).inc(attempt.cost * NANO)
        for kind in BUCKETS:
            if amount := getattr(attempt.usage, kind):
                self._child(("t", name, attempt.deployment, tier, kind), self._tokens.labels).inc(amount)

    def _child(self, key: tuple[str, ...], labels: Callable[..., Child]) -> Child:
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = labels(*key[1:])
        return child  # type: ignore[return-value]  # a key's first letter says which metric it belongs to

"""The metrics that OpenTelemetry's conventions for generative AI define, under their names, labels and buckets."""

from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Histogram

from ..call import CallRecord
from .bounded import Bounded
from .bulk import BulkHistogram, Refreshed
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


class Series(NamedTuple):
    """Of calls that are alike."""

    duration: BulkHistogram
    first: BulkHistogram
    per_token: BulkHistogram
    input: BulkHistogram
    output: BulkHistogram

    def add(self, record: CallRecord, prompt: int, completion: int) -> None:
        """Count a call of so many tokens."""
        self.duration.observe(record.seconds)
        if record.stream and record.ttft is not None:
            self.first.observe(record.ttft)
            if completion > 1 and record.code == "ok":
                self.per_token.observe((record.seconds - record.ttft) / (completion - 1))
        if prompt:
            self.input.observe(prompt)
        if completion:
            self.output.observe(completion)


class GenAIMetrics(Refreshed):
    """``providers`` names the accounts of the configuration that runs, and may change; ``cap`` bounds the models and the codes.

    Histograms are brought up to date by ``refresh`` and when they are read.
    """

    def __init__(self, registry: CollectorRegistry, providers: Mapping[str, str], cap: int) -> None:
        registry.register(self)  # before the histograms, so that it is asked before them
        self._providers = providers
        self._models, self._codes = Bounded(cap), Bounded(cap)
        self._codes("ok")
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
        self._by_labels: dict[tuple[str, ...], BulkHistogram] = {}
        self._by_call: dict[tuple[str, str, str, str, str], Series] = {}

    def call_finished(self, record: CallRecord) -> None:
        self.series(record).add(record, record.usage.prompt_tokens, record.usage.completion_tokens)

    def series(self, record: CallRecord) -> Series:
        """Where calls like this one are counted."""
        attempts = record.attempts
        provider = self._providers.get(attempts[-1].provider, NOBODY) if attempts else NOBODY
        model = self._models(record.model) if record.model else UNKNOWN
        tier = record.served_tier or record.effective_tier or "default"
        key = (record.operation, provider, model, self._codes(record.code), tier)
        series = self._by_call.get(key)
        if series is None:
            series = self._by_call[key] = self._made(*key)
        return series

    def _made(self, operation: str, provider: str, model: str, code: str, tier: str) -> Series:
        who = (operation, provider, model)

        def bulk(histogram: Histogram, bounds: tuple[float, ...], last: str) -> BulkHistogram:
            key = (histogram._name, *who, last)
            found = self._by_labels.get(key)
            if found is None:
                found = self._by_labels[key] = BulkHistogram(histogram, (*who, last), bounds)
            return found

        return Series(
            duration=bulk(self._duration, DURATION, "" if code == "ok" else code),
            first=bulk(self._ttft, TTFT, tier),
            per_token=bulk(self._per_token, PER_TOKEN, tier),
            input=bulk(self._tokens, TOKENS, "input"),
            output=bulk(self._tokens, TOKENS, "output"),
        )

    def refresh(self) -> None:
        for bulk in self._by_labels.values():
            bulk.flush()

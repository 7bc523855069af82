"""Prometheus metrics of finished calls. Label values are known names only, so the number of series is bounded."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from adapters.usage import TOKEN_BUCKETS, Usage

from ..call import Attempt, CallRecord
from .bounded import Bounded
from .genai import UNKNOWN

NANO = 1e-9


class Tally:
    """What was counted under one set of labels since Prometheus's own counters were last brought up to date.

    A counter of prometheus_client takes a lock and a check per increment: fourteen calls for one request.
    """

    __slots__ = ("calls", "cost", "input", "others", "output")

    def __init__(self) -> None:
        self.calls = 0
        self.cost = 0
        """In nano-dollars."""
        self.input = 0
        self.output = 0
        self.others: dict[str, int] = {}
        """Token buckets that few requests use."""

    def add(self, usage: Usage, cost: int) -> None:
        self.calls += 1
        self.cost += cost
        self.input += usage.input
        self.output += usage.output
        if usage.prompt_tokens != usage.input or usage.completion_tokens != usage.output:
            for kind in TOKEN_BUCKETS:
                if kind not in ("input", "output") and (amount := getattr(usage, kind)):
                    self.others[kind] = self.others.get(kind, 0) + amount

    def tokens(self) -> Iterable[tuple[str, int]]:
        return (("input", self.input), ("output", self.output), *self.others.items())


class PrometheusObserver(Collector):
    """Counts calls, attempts, tokens and money. Counters are brought up to date by ``refresh`` and when they are read.

    ``cap`` bounds the models and the deployments that have series of their own.
    """

    def __init__(self, registry: CollectorRegistry, cap: int = 500) -> None:
        self._models, self._deployments = Bounded(cap), Bounded(cap)
        registry.register(self)  # before the counters, so that it is asked before them
        self._requests = Counter(
            "sluice_requests", "Requests by outcome.", ["model", "code", "status"], registry=registry
        )
        self._attempts = Counter(
            "sluice_attempts", "Upstream attempts by outcome.", ["deployment", "status"], registry=registry
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
        self._retries = Counter(
            "sluice_retries",
            "Upstream attempts beyond the first of a request: retries, failovers and hedges.",
            ["model"],
            registry=registry,
        )
        self._denied = Counter(
            "sluice_retries_denied",
            "Requests that the retry budget kept from another attempt.",
            ["model"],
            registry=registry,
        )
        self._calls: dict[tuple[str, str, int], int] = {}
        """(model, code, status) -> requests since the last refresh."""
        self._tallies: dict[tuple[str, str, str, str], Tally] = {}
        """(model, deployment, status, tier) -> attempts since the last refresh."""

    def call_finished(self, record: CallRecord) -> None:
        name = self._models(record.model) if record.model else UNKNOWN
        key = (name, record.code, record.status)
        self._calls[key] = self._calls.get(key, 0) + 1
        for attempt in record.attempts:
            self._attempt(name, attempt)
        if record.spillover is not None:
            self._spillover.labels(name, *record.spillover).inc()
        if record.fallback is not None and record.status == 200:
            self._fallbacks.labels(name, record.fallback).inc()
        if len(record.attempts) > 1:
            self._retries.labels(name).inc(len(record.attempts) - 1)
        if record.retry_denied:
            self._denied.labels(name).inc()

    def _attempt(self, name: str, attempt: Attempt) -> None:
        key = (name, self._deployments(attempt.deployment), attempt.status, attempt.served_tier or "default")
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        tally.add(attempt.usage, attempt.cost)

    def refresh(self) -> None:
        """Bring Prometheus's counters up to date; at least as often as they are read."""
        calls, self._calls = self._calls, {}
        for (name, code, status), number in calls.items():
            self._requests.labels(name, code, str(status)).inc(number)
        tallies, self._tallies = self._tallies, {}
        for (name, deployment, outcome, tier), tally in tallies.items():
            self._attempts.labels(deployment, outcome).inc(tally.calls)
            if tally.cost:
                self._cost.labels(name, deployment, tier).inc(tally.cost * NANO)
            for kind, amount in tally.tokens():
                if amount:
                    self._tokens.labels(name, deployment, tier, kind).inc(amount)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        """None of its own: what is collected after it is up to date."""
        self.refresh()
        return ()

"""Prometheus metrics of finished calls. Label values are known names only, so the number of series is bounded."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter

from adapters.usage import TOKEN_BUCKETS, Usage

from ..call import Attempt, CallRecord
from .bounded import Bounded
from .bulk import BulkCounter, Refreshed
from .genai import UNKNOWN

NANO = 1e-9


class Tally:
    """What attempts that are alike came to since Prometheus's own counters were last brought up to date."""

    __slots__ = ("calls", "cost", "input", "others", "output")

    def __init__(self) -> None:
        self.calls = 0
        self.cost = 0
        """In nano-dollars."""
        self.input = 0
        self.output = 0
        self.others: dict[str, int] = {}
        """Token buckets that few requests use."""

    def add(self, usage: Usage, cost: int, prompt: int, completion: int) -> None:
        """Count an attempt; ``prompt`` and ``completion`` are the tokens of its usage in all."""
        self.calls += 1
        self.cost += cost
        self.input += usage.input
        self.output += usage.output
        if prompt != usage.input or completion != usage.output:
            for kind in TOKEN_BUCKETS:
                if kind not in ("input", "output") and (amount := getattr(usage, kind)):
                    self.others[kind] = self.others.get(kind, 0) + amount

    def clear(self) -> None:
        self.calls = self.cost = self.input = self.output = 0
        self.others.clear()

    def tokens(self) -> Iterable[tuple[str, int]]:
        return (("input", self.input), ("output", self.output), *self.others.items())


class PrometheusObserver(Refreshed):
    """Counts calls, attempts, tokens and money. Counters are brought up to date by ``refresh`` and when they are read.

    ``cap`` bounds the models, the deployments and the codes, some of which are providers', that have series of their own.
    """

    def __init__(self, registry: CollectorRegistry, cap: int = 500) -> None:
        self._models, self._deployments, self._codes = Bounded(cap), Bounded(cap), Bounded(cap)
        self._codes("ok")
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
        self._calls: dict[tuple[str, str, int], BulkCounter] = {}
        """By model, code and status."""
        self._tallies: dict[tuple[str, str, str, str], Tally] = {}
        """By model, deployment, status and tier."""

    def call_finished(self, record: CallRecord) -> None:
        name = self._models(record.model) if record.model else UNKNOWN
        self.calls(record).number += 1
        for attempt in record.attempts:
            usage = attempt.usage
            self.tally(record, attempt).add(usage, attempt.cost, usage.prompt_tokens, usage.completion_tokens)
        if record.spillover is not None:
            self._spillover.labels(name, *record.spillover).inc()
        if record.fallback is not None and record.status == 200:
            self._fallbacks.labels(name, record.fallback).inc()
        if len(record.attempts) > 1:
            self._retries.labels(name).inc(len(record.attempts) - 1)
        if record.retry_denied:
            self._denied.labels(name).inc()

    def calls(self, record: CallRecord) -> BulkCounter:
        """Where calls like this one are counted."""
        name = self._models(record.model) if record.model else UNKNOWN
        code = self._codes(record.code)
        key = (name, code, record.status)
        counter = self._calls.get(key)
        if counter is None:
            counter = self._calls[key] = BulkCounter(self._requests, (name, code, str(record.status)))
        return counter

    def tally(self, record: CallRecord, attempt: Attempt) -> Tally:
        """Where attempts like this one of such a call are counted."""
        name = self._models(record.model) if record.model else UNKNOWN
        key = (name, self._deployments(attempt.deployment), attempt.status, attempt.served_tier or "default")
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        return tally

    def refresh(self) -> None:
        for counter in self._calls.values():
            counter.flush()
        for (name, deployment, outcome, tier), tally in self._tallies.items():
            if not tally.calls:
                continue
            self._attempts.labels(deployment, outcome).inc(tally.calls)
            if tally.cost:
                self._cost.labels(name, deployment, tier).inc(tally.cost * NANO)
            for kind, amount in tally.tokens():
                if amount:
                    self._tokens.labels(name, deployment, tier, kind).inc(amount)
            tally.clear()

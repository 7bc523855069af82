"""All metrics of finished calls. Those of usual calls are found with one look: calls that are alike share their series."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ..call import Attempt, CallRecord
from .bulk import BulkCounter
from .genai import GenAIMetrics, Series
from .metrics import PrometheusObserver, Tally
from .overhead import OverheadMetrics
from .tiers import TierMetrics

KINDS = 10_000
"""Kinds of calls that are known at most; beyond it they are found anew."""


class Kind(NamedTuple):
    """Where usual calls that are alike are counted."""

    calls: BulkCounter
    tally: Tally
    series: Series
    tier: BulkCounter


class Told(Protocol):
    def call_finished(self, record: CallRecord) -> None: ...


class CallMetrics:
    """``others`` need only be told of calls that are not usual: those that failed, took several attempts or were changed."""

    def __init__(
        self,
        metrics: PrometheusObserver,
        genai: GenAIMetrics,
        overhead: OverheadMetrics,
        tiers: TierMetrics,
        others: Sequence[Told] = (),
    ) -> None:
        self._metrics, self._genai, self._overhead, self._tiers = metrics, genai, overhead, tiers
        self._all: tuple[Told, ...] = (metrics, genai, overhead, tiers, *others)
        self._kinds: dict[tuple[str | None, ...], Kind] = {}

    @property
    def refreshes(self) -> list[Callable[[], None]]:
        """What brings series up to date, to be called at least as often as they are read."""
        return [o.refresh for o in (self._metrics, self._genai, self._overhead, self._tiers)]

    def forget(self) -> None:
        """Find all kinds anew: names of providers have changed."""
        self._kinds.clear()

    def call_finished(self, record: CallRecord) -> None:
        if not usual(record):
            for observer in self._all:
                observer.call_finished(record)
            return
        (attempt,) = record.attempts
        key = (record.model, record.operation, attempt.deployment, attempt.served_tier, record.requested_tier, record.effective_tier)  # fmt: skip
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = self._kind(record, attempt)
        usage = attempt.usage
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        kind.calls.number += 1
        kind.tier.number += 1
        kind.tally.add(usage, attempt.cost, prompt, completion)
        kind.series.add(record, prompt, completion)
        self._overhead.call_finished(record)

    def _kind(self, record: CallRecord, attempt: Attempt) -> Kind:
        effective, served = record.effective_tier or "default", record.served_tier or "default"
        return Kind(
            calls=self._metrics.calls(record),
            tally=self._metrics.tally(record, attempt),
            series=self._genai.series(record),
            tier=self._tiers.served(record, effective, served),
        )


def usual(record: CallRecord) -> bool:
    """Whether a call was served as it was asked for by the first attempt, without a queue: nothing but sums to tell of it."""
    return (
        record.code == "ok"
        and record.status == 200
        and len(record.attempts) == 1
        and record.attempts[0].status == "ok"
        and record.served_tier is not None
        and record.effective_tier is not None
        and record.queued is None
        and record.spillover is None
        and record.fallback is None
        and record.downgrade is None
        and not record.retry_denied
        and not record.shed
    )

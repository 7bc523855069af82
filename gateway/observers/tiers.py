"""Prometheus metrics of service tiers: what was asked for, what served, and what the gateway's own queues do."""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ..call import CallRecord
from ..pools import Pool
from ..scheduler import NAMES, Scheduler
from .bounded import Bounded
from .bulk import BulkCounter, Refreshed

WAITS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900)
UNNAMED = "auto"
"""The requested tier of a request that named none."""
REQUESTED = frozenset({"auto", "default", "flex", "priority", "scale", "fast", "ultrafast"})


class TierMetrics(Refreshed):
    """Label values are models of the configuration, up to ``cap``, and the known tiers: the number of series is bounded."""

    def __init__(self, registry: CollectorRegistry, pools: Mapping[str, Pool], cap: int = 500) -> None:
        registry.register(self)  # before the counters, so that it is asked before them
        self._models = Bounded(cap)
        self._served = Counter(
            "sluice_tier_served",
            "Answers by the tier that was asked for, the one the policy allowed and the one that served.",
            ["model", "requested", "effective", "served"],
            registry=registry,
        )
        self._downgrades = Counter(
            "sluice_tier_downgrades",
            "Answers at default instead of a dearer tier, by reason.",
            ["model", "effective", "reason"],
            registry=registry,
        )
        self._refused = Counter(
            "sluice_tier_refused", "Flex requests refused for want of capacity.", ["model"], registry=registry
        )
        self._wait = Histogram(
            "sluice_queue_wait_seconds",
            "In the gateway's own queue, of requests it let in.",
            ["model", "tier"],
            buckets=WAITS,
            registry=registry,
        )
        self._shed = Counter(
            "sluice_queue_shed",
            "Requests that the gateway's own queue turned away.",
            ["model", "tier"],
            registry=registry,
        )
        self._by_tiers: dict[tuple[str, str, str, str], BulkCounter] = {}
        """By model, and the tiers requested, effective and served."""
        self._turned_away = Counter(
            "sluice_worker_shed",
            "Requests that a worker with too much to do turned away.",
            ["tier"],
            registry=registry,
        )
        self._read: list[tuple[Gauge, Callable[[], float]]] = []
        self._gauges(registry, pools)

    def _gauges(self, registry: CollectorRegistry, pools: Mapping[str, Pool]) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, ["model", *labels], registry=registry, multiprocess_mode="livesum")

        capacity = gauge("sluice_queue_capacity", "Requests in flight at most, now.")
        running = gauge("sluice_queue_in_flight", "Requests in flight.", "class")
        waiting = gauge("sluice_queue_waiting", "Requests waiting.", "class")
        for name, pool in pools.items():
            scheduler = pool.scheduler
            self._read.append((capacity.labels(name), partial(_limit, scheduler)))
            for level, tier in enumerate(NAMES):
                self._read.append((running.labels(name, tier), partial(_running, scheduler, level)))
                self._read.append((waiting.labels(name, tier), partial(_waiting, scheduler, level)))

    def refresh(self) -> None:
        """Tell what was counted, and set the gauges of the queues to what holds now."""
        for counter in self._by_tiers.values():
            counter.flush()
        for gauge, read in self._read:
            gauge.set(read())

    def call_finished(self, record: CallRecord) -> None:
        effective = record.effective_tier
        if not record.model or effective is None:
            return
        if record.shed:
            self._turned_away.labels(effective).inc()
        model = self._models(record.model)
        if record.queued is not None:
            self._queue(model, record, record.queued, effective)
        if record.code == "resource_unavailable":
            self._refused.labels(model).inc()
        if record.served_tier is not None:
            self.served(record, effective, record.served_tier).number += 1
        if record.downgrade is not None:
            self._downgrades.labels(model, effective, record.downgrade).inc()

    def served(self, record: CallRecord, effective: str, served: str) -> BulkCounter:
        """Where answers like this one are counted."""
        requested = record.requested_tier if record.requested_tier in REQUESTED else UNNAMED
        key = (self._models(record.model), requested, effective, served)
        counter = self._by_tiers.get(key)
        if counter is None:
            counter = self._by_tiers[key] = BulkCounter(self._served, key)
        return counter

    def _queue(self, model: str, record: CallRecord, seconds: float, effective: str) -> None:
        if record.attempts:
            self._wait.labels(model, effective).observe(seconds)
        elif record.status in (429, 503):
            self._shed.labels(model, effective).inc()


def _limit(scheduler: Scheduler) -> float:
    return scheduler.capacity.limit


def _running(scheduler: Scheduler, level: int) -> float:
    return scheduler.running[level]


def _waiting(scheduler: Scheduler, level: int) -> float:
    return scheduler.waiting[level]

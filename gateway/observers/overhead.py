"""The gateway's own time for each call, phase by phase: what it adds to the time that the provider takes."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..call import CallRecord
from .bulk import BulkHistogram

PHASES = ("auth", "limits", "translate", "upstream", "stream")
BUCKETS = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)


class OverheadMetrics(Collector):
    """``refresh`` brings the histogram up to date; so does reading it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)  # before the histogram, so that it is asked before it
        histogram = Histogram(
            "sluice_overhead_seconds",
            "The gateway's own time for an answer by phase: auth, limits (ledger included), translate, upstream (getting to the provider), stream.",
            ["phase"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._phases = {phase: BulkHistogram(histogram, (phase,), BUCKETS) for phase in PHASES}

    def call_finished(self, record: CallRecord) -> None:
        found = record.phases
        if found:
            for phase, series in self._phases.items():
                series.observe(found.get(phase, 0.0))

    def refresh(self) -> None:
        for phase in self._phases.values():
            phase.flush()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        """None of its own: what is collected after it is up to date."""
        self.refresh()
        return ()

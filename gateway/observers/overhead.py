"""The gateway's own time for each call, phase by phase: what it adds to the time that the provider takes."""

from prometheus_client import CollectorRegistry, Histogram

from ..call import OWN_PHASES as PHASES
from ..call import CallRecord
from .bulk import BulkHistogram, Refreshed

BUCKETS = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)


class OverheadMetrics(Refreshed):
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
        self._phases = tuple(BulkHistogram(histogram, (phase,), BUCKETS) for phase in PHASES)
        self._calls: list[tuple[float, ...]] = []
        """The phases of each call since the last refresh."""

    def call_finished(self, record: CallRecord) -> None:
        if record.ttft is not None:
            self._calls.append(record.own_phases())

    def refresh(self) -> None:
        for series, seconds in zip(self._phases, zip(*self._calls, strict=True), strict=False):  # none without calls
            series.observe_all(seconds)
            series.flush()
        self._calls.clear()

"""Series that are told of many values at once: on the request path a value costs an addition.

A counter of prometheus_client takes a lock for each increment, a histogram two, and looks through its buckets one by
one. What is here is told to them by ``flush``, at least twice a second (``vitals``) and whenever they are read.
"""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client import Counter, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class BulkCounter:
    """What was counted under one set of labels since the last flush. The series is made when there is something to tell."""

    __slots__ = ("_counter", "_labels", "_scale", "number")

    def __init__(self, counter: Counter, labels: tuple[str, ...], scale: float = 1) -> None:
        """``scale``: what one of ``number`` is worth."""
        self._counter = counter
        self._labels = labels
        self._scale = scale
        self.number = 0

    def flush(self) -> None:
        if self.number:
            self._counter.labels(*self._labels).inc(self.number * self._scale)
            self.number = 0


class BulkHistogram:
    """What was observed under one set of labels since the last flush. The series is made when there is something to tell."""

    __slots__ = ("_bounds", "_histogram", "_labels", "_values", "observe", "observe_all")

    def __init__(self, histogram: Histogram, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self._histogram = histogram
        self._labels = labels
        self._bounds = bounds
        self._values: list[float] = []
        self.observe = self._values.append
        self.observe_all = self._values.extend

    def flush(self) -> None:
        values = self._values
        if not values:
            return
        counts = [0] * (len(self._bounds) + 1)
        for value in values:
            counts[bisect_left(self._bounds, value)] += 1
        child = self._histogram.labels(*self._labels)
        child._sum.inc(sum(values))
        for bucket, count in zip(child._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        values.clear()  # the same list: ``observe`` is its own


class Refreshed(Collector):
    """Brings metrics of others up to date when they are read; to be registered before them, so that it is asked first."""

    @abstractmethod
    def refresh(self) -> None:
        """Tell them what was counted; at least as often as they are read."""

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        """None of its own: what is collected after it is up to date."""
        self.refresh()
        return ()

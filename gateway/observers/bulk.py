"""Histograms that are told of many values at once: on the request path a value costs a look-up and an addition."""

from bisect import bisect_left

from prometheus_client import Histogram


class BulkHistogram:
    """What was observed under one set of labels since Prometheus's own histogram was last brought up to date.

    A histogram of prometheus_client takes two locks and looks through its buckets one by one, for each value.
    The series are made when there is something to tell.
    """

    __slots__ = ("_bounds", "_counts", "_histogram", "_labels", "_sum", "_touched")

    def __init__(self, histogram: Histogram, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self._histogram = histogram
        self._labels = labels
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._touched = False

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value
        self._touched = True

    def flush(self) -> None:
        if not self._touched:
            return
        counts, self._counts = self._counts, [0] * len(self._counts)
        total, self._sum, self._touched = self._sum, 0.0, False
        child = self._histogram.labels(*self._labels)
        child._sum.inc(total)
        for bucket, count in zip(child._buckets, counts, strict=True):
            if count:
                bucket.inc(count)

"""Series of Prometheus that are named after what a configuration has: a reload ends them."""

import os
from collections.abc import Iterable

from prometheus_client import Gauge


def stay() -> bool:
    """Whether a series can only end with its worker: among several."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def end(gauge: Gauge, names: Iterable[str], harmless: float) -> None:
    """Remove series. Where they stay they say ``harmless`` from now on, which raises no alarm."""
    for name in names:
        if stay():
            gauge.labels(name).set(harmless)
        else:
            gauge.remove(name)

"""How this worker is: requests in flight, the lag of its event loop, its breakers, its ledger, its process."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

LAG_SECONDS = 0.5
"""Between two measurements of the loop's lag."""


class Breaker(Protocol):
    """What is asked of a deployment's health."""

    @property
    def closed(self) -> bool: ...
    @property
    def cooling(self) -> float: ...


class Vitals(Collector):
    """Read when /metrics is asked for; only the loop's lag is measured all the time."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        in_flight: Callable[[], int],
        breakers: Callable[[], Mapping[str, Breaker]],
        healthy: Callable[[], Mapping[str, bool]],
        version: Callable[[], str],
    ) -> None:
        self._in_flight = in_flight
        self._breakers = breakers
        self._healthy = healthy
        self._version = version
        self._lag = 0.0
        self._task: asyncio.Task[None] | None = None
        registry.register(self)
        ProcessCollector(registry=registry)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield _gauge("sluice_in_flight", "Requests being served.", {(): self._in_flight()})
        yield _gauge("sluice_loop_lag_seconds", "How late the event loop is.", {(): self._lag})
        breakers = self._breakers()
        opened = {(name,): float(not breaker.closed) for name, breaker in breakers.items()}
        yield _gauge("sluice_breaker_open", "1 while a deployment's breaker is open.", opened, "deployment")
        cooling = {(name,): breaker.cooling for name, breaker in breakers.items()}
        yield _gauge("sluice_cool_down_seconds", "What is left of a deployment's cool-down.", cooling, "deployment")
        stores = {(name,): float(good) for name, good in self._healthy().items()}
        yield _gauge("sluice_store_healthy", "1 while a store can be used.", stores, "store")
        yield _gauge("sluice_config_info", "Which configuration runs.", {(self._version(),): 1.0}, "version")

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._measure())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._lag = max(loop.time() - due, 0.0)


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family

"""How a worker is: requests in flight, the lag of its event loop, its breakers, its ledger, its queues.

Gauges are set twice a second and when /metrics is asked for, and not computed on demand, so that the metrics of several
workers can be summed (prometheus_client's multiprocess mode takes values only).
"""

import asyncio
import contextlib
import mmap
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from .. import series

SECONDS = 0.5
PAGE = mmap.PAGESIZE


class Breaker(Protocol):
    """What is asked of a deployment's health."""

    @property
    def closed(self) -> bool: ...
    @property
    def cooling(self) -> float: ...


class Vitals:
    """``rejected``: rows of the ledger that its database has refused so far. ``also`` sets the gauges of others at the same time."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        in_flight: Callable[[], int],
        breakers: Callable[[], Mapping[str, Breaker]],
        healthy: Callable[[], Mapping[str, bool]],
        rejected: Callable[[], int],
        version: Callable[[], str],
        also: Sequence[Callable[[], None]],
    ) -> None:
        self._read_in_flight, self._read_breakers = in_flight, breakers
        self._read_healthy, self._read_version, self._also = healthy, version, also
        self._read_rejected, self._rejected_before = rejected, 0
        self._in_flight = Gauge(
            "sluice_in_flight", "Requests being served.", registry=registry, multiprocess_mode="livesum"
        )
        self._lag = Gauge(
            "sluice_loop_lag_seconds", "How late the event loop is.", registry=registry, multiprocess_mode="livemax"
        )
        self._open = Gauge(
            "sluice_breaker_open",
            "1 while a deployment's breaker is open in any worker.",
            ["deployment"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._cooling = Gauge(
            "sluice_cool_down_seconds",
            "What is left of a deployment's cool-down.",
            ["deployment"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._healthy = Gauge(
            "sluice_store_healthy",
            "1 while a store can be used by all workers.",
            ["store"],
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._rejected = Counter(
            "sluice_ledger_rejected_rows",
            "Ledger rows that the database refused for what is in them: in rejected-*.jsonl beside the journal, and in no report.",
            registry=registry,
        )
        self._config = Gauge(
            "sluice_config_info",
            "Workers that run a configuration.",
            ["version"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._memory = Gauge("sluice_memory_bytes", "Resident memory.", registry=registry, multiprocess_mode="livesum")
        self._deployments: set[str] = set()
        self._versions: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        ProcessCollector(registry=registry)

    def refresh(self) -> None:
        self._in_flight.set(self._read_in_flight())
        self._memory.set(resident())
        self._tell_breakers(self._read_breakers())
        for name, good in self._read_healthy().items():
            self._healthy.labels(name).set(good)
        rejected = self._read_rejected()
        self._rejected.inc(rejected - self._rejected_before)
        self._rejected_before = rejected
        runs = self._read_version()
        self._tell_version(runs)
        for refresh in self._also:
            refresh()

    def _tell_breakers(self, breakers: Mapping[str, Breaker]) -> None:
        for gauge in (self._open, self._cooling):
            series.end(gauge, self._deployments - breakers.keys(), 0)
        self._deployments = set(breakers)
        for name, breaker in breakers.items():
            self._open.labels(name).set(not breaker.closed)
            self._cooling.labels(name).set(breaker.cooling)

    def _tell_version(self, runs: str) -> None:
        if not series.stay():
            for version in self._versions - {runs}:
                self._config.remove(version)
            self._versions.clear()
        self._versions.add(runs)
        for version in self._versions:
            self._config.labels(version).set(version == runs)

    async def start(self) -> None:
        self.refresh()
        self._task = asyncio.get_running_loop().create_task(self._measure())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.refresh()  # what was counted last is not lost with this worker

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + SECONDS
            await asyncio.sleep(SECONDS)
            self._lag.set(max(loop.time() - due, 0.0))
            self.refresh()


def resident() -> int:
    """Bytes of this process in memory; what it had at most where there is no /proc."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024

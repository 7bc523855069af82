"""Whether Redis and the database answer: asked in the background, told by /metrics and, by policy, by /readyz."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CollectorRegistry, Gauge

SECONDS = 2.0
"""Between two questions to each store."""
PATIENCE = 1.0
"""Seconds after which a store counts as away."""

Ask = Callable[[], Awaitable[object]]


class StoreHealth:
    """Asks every store of ``asks`` by itself, so that a slow one hides no other. What was never asked counts as well."""

    def __init__(self, registry: CollectorRegistry, asks: Mapping[str, Ask]) -> None:
        self._asks = asks
        self._healthy = dict.fromkeys(asks, True)
        self._latency = Gauge(
            "sluice_store_latency_seconds",
            "Of the last question that a store answered, the slowest worker's.",
            ["store"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    @property
    def healthy(self) -> Mapping[str, bool]:
        return self._healthy

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._watch(name, ask)) for name, ask in self._asks.items()]

    async def close(self) -> None:
        self._closing = True  # redis-py can swallow a cancellation that meets a reply
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)

    async def _watch(self, name: str, ask: Ask) -> None:
        while not self._closing:
            self._healthy[name] = await self._answers(name, ask)
            if not self._closing:
                await asyncio.sleep(SECONDS)

    async def _answers(self, name: str, ask: Ask) -> bool:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                await ask()
        except Exception:
            return False
        with contextlib.suppress(Exception):
            self._latency.labels(name).set(time.perf_counter() - began)
        return True

"""Requests at a rate, and what became of them."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from ..running import KEY
from ..test_flow import ASK

AUTH = {"authorization": f"Bearer {KEY}"}
DONE = b"data: [DONE]\n\n"


class Figures:
    """What was measured, line by line, and whether it is what was promised."""

    def __init__(self) -> None:
        self.failed = 0

    def tell(self, what: str, figure: str, good: bool) -> None:
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'}  {what}: {figure}", flush=True)


class Asked:
    """Answers to many requests. A stream that does not end with ``[DONE]`` is no answer: its status is 0."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.seconds: list[float] = []
        self.configs: list[tuple[str, str]] = []
        """Version of the configuration and deployment that the answer names."""
        self.attempts: Counter[str] = Counter()

    @property
    def lost(self) -> int:
        return len(self.statuses) - self.statuses.count(200)

    @property
    def success(self) -> float:
        return 100 * self.statuses.count(200) / len(self.statuses)

    def p(self, percent: int) -> float:
        """A percentile of the latencies, in milliseconds."""
        return 1000 * statistics.quantiles(self.seconds, n=100)[percent - 1]

    async def ask(self, http: aiohttp.ClientSession, url: str, model: str = "m", **more: Any) -> None:
        await self.send(http, f"{url}/v1/chat/completions", {"model": model, **ASK, **more})

    async def send(self, http: aiohttp.ClientSession, url: str, body: Any) -> None:
        began = time.perf_counter()
        status = 0
        try:
            async with http.request("POST" if body else "GET", url, json=body, headers=AUTH) as response:
                data, headers = await response.read(), response.headers
                complete = not (body and body.get("stream")) or response.status != 200 or data.endswith(DONE)
                status = response.status if complete else 0
                self.configs.append((headers.get("x-sluice-config", ""), headers.get("x-sluice-deployment", "")))
                self.attempts[headers.get("x-sluice-attempts", "")] += 1
        except (aiohttp.ClientError, TimeoutError):
            pass
        self.statuses.append(status)
        self.seconds.append(time.perf_counter() - began)


async def at_rate(rate: float, number: int, once: Callable[[], Awaitable[None]]) -> None:
    """``number`` calls, ``rate`` a second, whether or not the earlier ones have ended."""
    tasks = []
    began = time.perf_counter()
    for i in range(number):
        await asyncio.sleep(max(began + i / rate - time.perf_counter(), 0))
        tasks.append(asyncio.ensure_future(once()))
    await asyncio.gather(*tasks)

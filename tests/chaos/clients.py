"""Clients that leave."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import aiohttp

from gateway.app import Gateway
from gateway.demo import DemoUpstream
from gateway.limits.amounts import COST
from gateway.records.usage import Filter

from ..running import KEY, running
from ..test_flow import ASK
from .traffic import AUTH, Figures

POSITIONS = (0, 1, 2, 5, 20)
"""Chunks that a client reads before it leaves; 0: it leaves before the head."""
TOGETHER = 20


async def disconnects(figures: Figures, number: int) -> None:
    """``number`` clients leave at each position: upstreams are cancelled, rows written, and nothing is left behind."""
    models = {"m": "demo-ok+chunks=2000+gap=0.03", "slow": "demo-ok+delay=5"}
    limits = {"concurrency": 1000, "budget": {"total": 1000}}
    keys = [{"name": "test", "key": KEY, "limits": limits}]
    rounds = max(number // TOGETHER, 1)
    async with running(models, keys=keys, server={"max_requests_in_flight": 5000}) as (gateway, upstream):
        slowest = 0.0
        await asyncio.sleep(0.2)
        tasks, sockets = len(asyncio.all_tasks()), _sockets()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            for chunks in POSITIONS:
                for _ in range(rounds):
                    await _leave(http, gateway, upstream, min(number, TOGETHER), chunks)
                    left = time.perf_counter()
                    while upstream.in_flight and time.perf_counter() - left < 5:
                        await asyncio.sleep(0.002)
                    slowest = max(slowest, time.perf_counter() - left)
        await asyncio.sleep(1)
        assert gateway.records.ledger is not None
        await gateway.records.ledger.flush()
        sums = await gateway.records.usage.report((), Filter())
        rows = sums[0]["attempts"]
        left_over = {
            "requests": gateway.state.in_flight,
            "reservations": await _reserved(gateway),
            "tasks": len(asyncio.all_tasks()) - tasks,
            "sockets": _sockets() - sockets,
        }
    total = len(POSITIONS) * rounds * min(number, TOGETHER)
    figures.tell(
        f"{total} clients leave at {len(POSITIONS)} positions",
        f"upstreams cancelled within {slowest * 1000:.0f} ms, {rows} rows, left over: {left_over}",
        slowest <= 0.2 and rows == total and max(left_over.values()) <= 0,
    )


def _sockets() -> int:
    """Sockets that this process has open: clients, gateway and upstreams together."""
    found = 0
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(fd.readlink()).startswith("socket:")
    return found


async def _reserved(gateway: Gateway) -> int:
    """Slots and money still held, and nano-dollars by which the budget's counter differs from the ledger."""
    keys: Any = gateway.pipeline.auth._keys
    owner = next(iter(keys.values()))[0].owners[0]
    states = await gateway.pipeline.meter.limiter.usage(owner, "default")
    spent = (await gateway.records.usage.report((), Filter()))[0]["cost"]
    held = sum(s.used for s in states if s.limit.field == "c") + sum(s.reserved for s in states)
    return held + sum(abs(s.used - spent) for s in states if s.limit.unit == COST)


async def _leave(
    http: aiohttp.ClientSession, gateway: Gateway, upstream: DemoUpstream, number: int, chunks: int
) -> None:
    """So many clients at once."""
    body = {"model": "m" if chunks else "slow", **ASK, "stream": True}
    url = f"{gateway.url}/v1/chat/completions"
    asking = [asyncio.ensure_future(http.post(url, json=body, headers=AUTH)) for _ in range(number)]
    if not chunks:
        async with asyncio.timeout(10):
            while upstream.in_flight < number:  # every request has got as far as the upstream
                await asyncio.sleep(0.002)
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        return
    await asyncio.gather(*(_read(response, chunks) for response in await asyncio.gather(*asking)))


async def _read(response: aiohttp.ClientResponse, chunks: int) -> None:
    for _ in range(chunks):
        await response.content.readuntil(b"\n\n")
    response.close()

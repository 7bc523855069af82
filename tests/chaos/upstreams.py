"""Upstreams that fail: one of two, all of them, at random, in the middle of a stream."""

import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import openai

from gateway import demo
from gateway.app import Gateway
from gateway.demo import Script

from ..faults import FaultProxy
from ..replicas import Replica, replicas
from ..running import deployment, running
from ..servers import RedisServer
from ..test_flow import ASK, client
from .traffic import Asked, Figures, at_rate

NEVER_OPEN = {"consecutive_failures": 1_000_000, "success_percent": 0}
QUICK = {"connect": 1, "first_byte": 1, "response": 1}
FAILING = Script(fault="server")
STATUSES = ("ok", "server", "overloaded", "connection", "timeout", "rate_limited", "incomplete")


@contextlib.asynccontextmanager
async def two_upstreams(
    first: str = "demo-ok", second: str = "demo-ok", strategy: str = "weighted", **sections: Any
) -> AsyncIterator[tuple[Gateway, FaultProxy, demo.DemoUpstream]]:
    """``m`` has two deployments, the first behind a proxy; ``direct`` has the second alone."""
    behind = await demo.start()
    try:
        async with FaultProxy(int(behind.url.rpartition(":")[2])) as net:
            faulty = {"adapter": "openai", "base_url": f"http://127.0.0.1:{net.port}/openai/v1", "api_key": "up"}
            good = deployment(second, "anthropic", name="good")
            bad = deployment(first, "faulty", name="faulty", timeouts=QUICK)
            models = {"m": {"deployments": [bad, good], "strategy": strategy}, "direct": [good]}
            async with running(models, providers={"faulty": faulty}, **sections) as (gateway, upstream):
                yield gateway, net, upstream
    finally:
        await behind.close()


def attempts(gateway: Gateway) -> float:
    """Upstream attempts so far."""
    value = gateway.registry.get_sample_value
    labels = [{"deployment": name, "status": status} for name in ("faulty", "good") for status in STATUSES]
    return sum(value("sluice_attempts_total", each) or 0 for each in labels)


async def one_of_two(figures: Figures, rate: float, number: int) -> None:
    """One of two upstreams fails in the middle of the traffic, each time in another way."""

    async def nothing(net: FaultProxy) -> None:
        pass

    async def slow(net: FaultProxy) -> None:
        net.latency = 0.3

    async def hole(net: FaultProxy) -> None:
        net.black_hole = True

    ways: list[tuple[str, str, Callable[[FaultProxy], Awaitable[None]]]] = [
        ("healthy", "demo-ok", nothing),
        ("refused", "demo-ok", FaultProxy.down),
        ("black-holed", "demo-ok", hole),
        ("5xx", "demo-500", nothing),
        ("flapping", "demo-500+every=2", nothing),
        ("browned out", "demo-ok", slow),
    ]
    for name, script, fault in ways:
        async with two_upstreams(script, health={"latency_ejection": 3}) as (gateway, net, _):
            asked, late = Asked(), Asked()
            async with aiohttp.ClientSession() as http:
                once = partial(asked.ask, http, gateway.url)
                await at_rate(rate, max(number // 4, 1), once)
                await fault(net)
                await at_rate(rate, number, once)
                late.seconds = asked.seconds[-number // 2 :]
        figures.tell(
            f"one of two upstreams {name}",
            f"{asked.success:.2f} % of {len(asked.statuses)} succeed, p50 {late.p(50):.1f} ms and p99 {late.p(99):.1f} ms in the second half",
            asked.success >= 99.9,
        )


async def failover(figures: Figures, rate: float, number: int) -> None:
    """What going elsewhere adds: each request beside one that goes there directly, in turn."""
    for what, health, bound in (
        ("a refused connection first, on every request", NEVER_OPEN, 20.0),
        ("the breaker is open", {"consecutive_failures": 1, "open_seconds": 300}, 5.0),
    ):
        async with two_upstreams(strategy="ordered", health=health) as (gateway, net, _):
            await net.down()
            over, direct = Asked(), Asked()
            async with aiohttp.ClientSession() as http:
                await at_rate(rate, 40, lambda: Asked().ask(http, gateway.url))
                turns = itertools.cycle(
                    [partial(over.ask, http, gateway.url), partial(direct.ask, http, gateway.url, "direct")]
                )
                await at_rate(rate, 2 * number, partial(_next, turns))
        added = over.p(99) - direct.p(99)
        figures.tell(
            f"failover when {what}",
            f"p50 {over.p(50) - direct.p(50):+.2f} ms, p99 {added:+.2f} ms beside {direct.p(50):.1f} and {direct.p(99):.1f} ms direct; "
            f"attempts {dict(over.attempts)}",
            added <= bound and not over.lost,
        )


async def _next(turns: Iterator[Callable[[], Awaitable[None]]]) -> None:
    await next(turns)()


async def random_errors(figures: Figures, rate: float, number: int) -> None:
    """Each answer of both upstreams is an error with a chance of 30 %."""
    async with two_upstreams("demo-500+chance=0.3", "demo-503+chance=0.3") as (gateway, _, _):
        asked = Asked()
        async with aiohttp.ClientSession() as http:
            await at_rate(rate, number, lambda: asked.ask(http, gateway.url))
        made = attempts(gateway)
    figures.tell(
        f"30 % of all answers are errors, {number} requests",
        f"{made / number:.4f} upstream attempts per request, {asked.success:.1f} % succeed",
        made <= 1.2 * number,
    )


async def outage(figures: Figures, rate: float, seconds: float) -> None:
    """Both upstreams fail for good."""
    async with two_upstreams("demo-500", "demo-503") as (gateway, _, _):
        async with aiohttp.ClientSession() as http:
            warm, asked = Asked(), Asked()
            await at_rate(rate, 60, lambda: warm.ask(http, gateway.url))
            before = attempts(gateway)
            await at_rate(rate, int(rate * seconds), lambda: asked.ask(http, gateway.url))
            probes = attempts(gateway) - before
    figures.tell(
        f"full outage, {len(asked.statuses)} requests in {seconds:.0f} s",
        f"p99 {asked.p(99):.1f} ms, {probes:.0f} probes",
        probes <= seconds + 1 and asked.p(99) <= 20 and 200 not in asked.statuses,
    )


async def fleet_outage(figures: Figures, rate: float, seconds: float) -> None:
    """Both upstreams fail for good, seen by two gateway processes with one Redis; then they are well again."""
    redis = RedisServer()
    models = {"m": [deployment("demo-ok", name="x"), deployment("demo-ok", "anthropic", name="y")]}
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with replicas(Path(folder), models, redis.url, health={"slow_start": 0}) as (both, upstream):
                async with aiohttp.ClientSession() as http:
                    upstream.scripts["demo-ok"] = FAILING
                    warm, asked, after = Asked(), Asked(), Asked()
                    await at_rate(2 * rate, 100, partial(_next, _turns(warm, http, both)))
                    await asyncio.sleep(0.5)
                    before = len(upstream.journal)
                    await at_rate(2 * rate, int(2 * rate * seconds), partial(_next, _turns(asked, http, both)))
                    probes = len(upstream.journal) - before
                    upstream.scripts.clear()
                    began, turns = time.perf_counter(), _turns(after, http, both)
                    while after.statuses[-20:].count(200) < 20 and time.perf_counter() - began < 30:
                        await _next(turns)
                        await asyncio.sleep(0.01)
                    back = time.perf_counter() - began
    finally:
        redis.stop()
    figures.tell(
        f"full outage seen by two replicas, {len(asked.statuses)} requests in {seconds:.0f} s",
        f"p99 {asked.p(99):.1f} ms, {probes} probes by both together, all well {back:.1f} s after the upstreams were",
        probes <= seconds + 1 and asked.p(99) <= 20 and back < 5,
    )


def _turns(asked: Asked, http: aiohttp.ClientSession, both: list[Replica]) -> Iterator[Callable[[], Awaitable[None]]]:
    return itertools.cycle([partial(asked.ask, http, each.url) for each in both])


async def cuts(figures: Figures) -> None:
    """Twelve ways to cut a stream short, in both dialects: none may look like success to the SDK."""
    ways = [f"demo-ok+chunks=10+cut={cut}+how={how}" for cut in (1, 3, 9) for how in ("reset", "close", "end", "error")]
    looked_good = []
    models = {f"{d}:{w}": [deployment(w, d)] for w in ways for d in ("openai", "anthropic")}
    async with running(models, health={"consecutive_failures": 1000}) as (gateway, _), client(gateway) as sdk:
        for name in models:
            with contextlib.suppress(openai.APIError):
                stream = await sdk.chat.completions.create(model=name, stream=True, **ASK)
                async for _chunk in stream:
                    pass
                looked_good.append(name)
    figures.tell(
        f"{len(models)} streams cut short in {len(ways)} ways", f"{len(looked_good)} look complete", not looked_good
    )

"""``make chaos``: what clients notice when upstreams fail, gateways restart and configurations change. Prints every figure.

Everything is real and on this machine: gateway processes, demo upstreams, a fault-injecting proxy, the official SDK.
"""

import asyncio
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import openai

from gateway import demo
from gateway.app import Gateway

from .faults import FaultProxy
from .running import KEY, deployment, running
from .test_drain import process
from .test_flow import ASK, client
from .test_reload import reloadable

AUTH = {"authorization": f"Bearer {KEY}"}
BODY = {"model": "m", **ASK}


class Figures:
    """What was measured, line by line, and whether it is what was promised."""

    def __init__(self) -> None:
        self.failed = 0

    def tell(self, what: str, figure: str, good: bool) -> None:
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'}  {what}: {figure}", flush=True)


class Asked:
    """Answers to many requests."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.seconds: list[float] = []
        self.configs: list[tuple[str, str]] = []

    @property
    def success(self) -> float:
        return 100 * self.statuses.count(200) / len(self.statuses)

    def p(self, percent: int) -> float:
        """A percentile of the latencies, in milliseconds."""
        return 1000 * statistics.quantiles(self.seconds, n=100)[percent - 1]

    async def ask(self, http: aiohttp.ClientSession, url: str) -> None:
        began = time.perf_counter()
        try:
            async with http.post(f"{url}/v1/chat/completions", json=BODY, headers=AUTH) as response:
                await response.read()
                self.statuses.append(response.status)
                headers = response.headers
                self.configs.append((headers.get("x-sluice-config", ""), headers.get("x-sluice-deployment", "")))
        except (aiohttp.ClientError, TimeoutError):
            self.statuses.append(0)
        self.seconds.append(time.perf_counter() - began)


async def at_rate(rate: float, number: int, once: Callable[[], Awaitable[None]]) -> None:
    """``number`` calls, ``rate`` a second, whether or not the earlier ones have ended."""
    tasks = []
    began = time.perf_counter()
    for i in range(number):
        await asyncio.sleep(max(began + i / rate - time.perf_counter(), 0))
        tasks.append(asyncio.ensure_future(once()))
    await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def two_upstreams(
    first: str = "demo-ok", second: str = "demo-ok", **sections: Any
) -> AsyncIterator[tuple[Gateway, FaultProxy, demo.DemoUpstream]]:
    """A model with two deployments; the first is behind a proxy."""
    behind = await demo.start()
    try:
        async with FaultProxy(int(behind.url.rpartition(":")[2])) as net:
            faulty = {"adapter": "openai", "base_url": f"http://127.0.0.1:{net.port}/openai/v1", "api_key": "up"}
            timeouts = {"connect": 1, "first_byte": 1, "response": 1}
            models = {
                "m": {
                    "deployments": [deployment(first, "faulty", timeouts=timeouts), deployment(second, "anthropic")],
                    "strategy": "weighted",
                }
            }
            async with running(models, providers={"faulty": faulty}, **sections) as (gateway, upstream):
                yield gateway, net, upstream
    finally:
        await behind.close()


async def one_of_two(figures: Figures, rate: float, number: int) -> None:
    """One of two upstreams fails in the middle of the traffic, each in another way."""

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
    usual = 0.0
    for name, script, fault in ways:
        async with two_upstreams(script, health={"latency_ejection": 3}) as (gateway, net, _):
            asked = Asked()
            async with aiohttp.ClientSession() as http:
                once = partial(asked.ask, http, gateway.url)
                await at_rate(rate, max(number // 4, 1), once)
                await fault(net)
                before = len(asked.seconds)
                await at_rate(rate, number, once)
                late = Asked()
                late.seconds = asked.seconds[before:][-number // 2 :]
        usual = usual or late.p(99)
        added = late.p(99) - usual
        figures.tell(
            f"one of two upstreams {name}",
            f"{asked.success:.2f} % success, p99 {late.p(99):.1f} ms in the second half ({added:+.1f} ms)",
            asked.success >= 99.9,
        )


async def random_errors(figures: Figures, rate: float, number: int) -> None:
    async with two_upstreams("demo-500+every=3", "demo-503+every=3") as (gateway, _, _):
        asked = Asked()
        async with aiohttp.ClientSession() as http:
            await at_rate(rate, number, lambda: asked.ask(http, gateway.url))
        value = gateway.registry.get_sample_value
        attempts = sum(
            value("sluice_attempts_total", {"deployment": name, "status": status}) or 0
            for name in ("faulty/demo-500+every=3", "anthropic/demo-503+every=3")
            for status in ("ok", "server", "overloaded", "connection", "timeout")
        )
    figures.tell(
        "a third of all answers are errors",
        f"{attempts / number:.3f} attempts per request, {asked.success:.1f} % success",
        attempts <= 1.2 * number + 2 * 30,  # the floor of two deployments: 3 a second over 10 s
    )


async def outage(figures: Figures, rate: float, seconds: float) -> None:
    async with two_upstreams("demo-500", "demo-503") as (gateway, _, _):
        async with aiohttp.ClientSession() as http:
            warm, asked = Asked(), Asked()
            await at_rate(rate, 60, lambda: warm.ask(http, gateway.url))
            value = gateway.registry.get_sample_value
            names = {"faulty/demo-500": "server", "anthropic/demo-503": "overloaded"}

            def attempts() -> float:
                return sum(
                    value("sluice_attempts_total", {"deployment": n, "status": s}) or 0 for n, s in names.items()
                )

            before = attempts()
            await at_rate(rate, int(rate * seconds), lambda: asked.ask(http, gateway.url))
            probes = (attempts() - before) / seconds
    good = probes <= 1.2 and asked.p(99) <= 20
    figures.tell("full outage", f"p99 {asked.p(99):.1f} ms, {probes:.2f} probes a second", good)


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


async def reloads(figures: Figures, number: int, rate: float) -> None:
    made: dict[str, str] = {}
    async with reloadable({"m": [deployment("demo-ok", name="d0")]}) as (gateway, _, file, other):
        made[gateway.generation.version] = "d0"
        configs = [other({"m": [deployment("demo-ok", name=f"d{i % 50}")]}) for i in range(1, 51)]
        asked, stop = Asked(), asyncio.Event()
        async with aiohttp.ClientSession() as http:

            async def traffic() -> None:
                while not stop.is_set():
                    await at_rate(rate, int(rate), lambda: asked.ask(http, gateway.url))

            running_traffic = asyncio.create_task(traffic())
            began = time.perf_counter()
            for i in range(number):
                file.now = configs[i % 50]
                made[await gateway.reloader.reload()] = f"d{(i % 50 + 1) % 50}"
                await asyncio.sleep(0.01)
            took = time.perf_counter() - began
            stop.set()
            await running_traffic
    mixed = sum(made[config] != served for config, served in asked.configs)
    errors = len(asked.statuses) - asked.statuses.count(200)
    figures.tell(
        f"{number} reloads in {took:.1f} s under {len(asked.statuses)} requests",
        f"{errors} errors, {mixed} saw two configurations",
        not errors and not mixed,
    )


async def disconnects(figures: Figures, number: int) -> None:
    """The client leaves before the head, at the first chunk, and after 2, 5 and 20 chunks."""
    models = {"m": "demo-ok+chunks=2000+gap=0.03", "slow": "demo-ok+delay=5"}
    async with running(models, server={"max_requests_in_flight": 5000}) as (gateway, upstream):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            slowest = 0.0
            for chunks in (0, 1, 2, 5, 20):
                for _ in range(number // 20 or 1):
                    await asyncio.gather(*(_leave_after(http, gateway, chunks) for _ in range(min(number, 20))))
                    left = time.perf_counter()
                    while upstream.in_flight and time.perf_counter() - left < 5:
                        await asyncio.sleep(0.002)
                    slowest = max(slowest, time.perf_counter() - left)
        await asyncio.sleep(0.2)
        assert gateway.records.ledger is not None
        await gateway.records.ledger.flush()
        sums = await gateway.records.usage.report((), _everything())
        rows, leftover = sums[0]["attempts"], gateway.state.in_flight
    total = 5 * (number // 20 or 1) * min(number, 20)
    figures.tell(
        f"{total} clients leave at 5 positions",
        f"upstreams cancelled within {slowest * 1000:.0f} ms, {rows} rows, {leftover} requests left",
        slowest <= 0.2 and rows == total and not leftover,
    )


def _everything() -> Any:
    from gateway.records.usage import Filter

    return Filter()


async def _leave_after(http: aiohttp.ClientSession, gateway: Gateway, chunks: int) -> None:
    body = {**BODY, "model": "m" if chunks else "slow", "stream": True}
    asking = http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=AUTH)
    if not chunks:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.15):
                await asking
        return
    response = await asking
    for _ in range(chunks):
        await response.content.readuntil(b"\n\n")
    response.close()


async def sigterm(figures: Figures, streams: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with process(Path(folder), "demo-ok+chunks=40+gap=0.1", drain=60) as (started, url, _):
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                body = {**BODY, "stream": True}
                post = [http.post(f"{url}/v1/chat/completions", json=body, headers=AUTH) for _ in range(streams)]
                open_ = await asyncio.gather(*post)
                started.send_signal(signal.SIGTERM)
                read = await asyncio.gather(*(r.read() for r in open_), return_exceptions=True)
            code = await asyncio.wait_for(started.wait(), 30)
    cut = sum(not isinstance(data, bytes) or not data.endswith(b"data: [DONE]\n\n") for data in read)
    figures.tell(f"SIGTERM with {streams} live streams", f"{cut} cut, exit code {code}", not cut and code == 0)


async def rolling_restart(figures: Figures, number: int, rate: float) -> None:
    """Two replicas behind a balancer that asks /readyz; both are restarted under mixed requests."""
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder) / name for name in ("a", "b", "a2", "b2")]
        for home in homes:
            home.mkdir()
        asked, ready = Asked(), list[str]()
        async with contextlib.AsyncExitStack() as stack, aiohttp.ClientSession() as http:

            async def begin(home: Path) -> asyncio.subprocess.Process:
                serving = process(home, "demo-ok+chunks=3+gap=0.01", drain=20, drain_delay=1)
                started, url, _ = await stack.enter_async_context(serving)
                ready.append(url)
                return started

            async def once() -> None:
                turn = len(asked.statuses)
                await asked.ask(http, ready[turn % len(ready)])

            old = [await begin(home) for home in homes[:2]]
            traffic = asyncio.create_task(at_rate(rate, number, once))
            for started, home in zip(old, homes[2:], strict=True):
                await asyncio.sleep(number / rate / 8)
                await begin(home)
                started.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.2)  # a balancer asks /readyz that often, within the drain delay
                ready.pop(0)
                await asyncio.wait_for(started.wait(), 40)
            await traffic
    lost = len(asked.statuses) - asked.statuses.count(200)
    figures.tell(f"rolling restart of two replicas under {number} requests", f"{lost} lost", not lost)


async def main(scale: float) -> int:
    """Every figure; ``scale`` 1 is the full size."""
    figures = Figures()
    await cuts(figures)
    await one_of_two(figures, 100, max(int(2000 * scale), 200))
    await random_errors(figures, 150, max(int(3000 * scale), 300))
    await outage(figures, 100, max(20 * scale, 3))
    await reloads(figures, max(int(1000 * scale), 20), 300 if scale == 1 else 50)
    await disconnects(figures, max(int(1000 * scale), 20))
    await sigterm(figures, max(int(200 * scale), 20))
    await rolling_restart(figures, max(int(20_000 * scale), 400), 300 if scale == 1 else 80)
    return figures.failed


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)))

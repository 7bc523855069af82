"""Gateways that restart and configurations that change, under traffic."""

import asyncio
import contextlib
import itertools
import signal
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from ..running import deployment
from ..servers import RedisServer
from ..test_drain import process
from ..test_flow import ASK
from ..test_reload import reloadable
from .traffic import AUTH, DONE, Asked, Figures, at_rate

MIX: list[tuple[str, dict[str, Any] | None]] = [
    ("chat/completions", {"model": "m", **ASK}),
    ("chat/completions", {"model": "m", **ASK, "stream": True}),
    ("chat/completions", {"model": "m", **ASK, "stream": True, "stream_options": {"include_usage": True}}),
    ("embeddings", {"model": "m", "input": ["one", "two"]}),
    ("models", None),
]
"""Requests of a client, and how it goes about it: whole answers, streams, embeddings, a list."""


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
            took_all = time.perf_counter() - began
    mixed = sum(made[config] != served for config, served in asked.configs)
    figures.tell(
        f"{number} reloads in {took:.1f} s under {len(asked.statuses)} requests ({len(asked.statuses) / took_all:.0f} a second)",
        f"{asked.lost} errors, {mixed} saw two configurations, {len({c for c, _ in asked.configs})} versions served",
        not asked.lost and not mixed,
    )


async def sigterm(figures: Figures, streams: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with process(Path(folder), "demo-ok+chunks=40+gap=0.1", drain=60) as (started, url, _):
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                body = {"model": "m", **ASK, "stream": True}
                post = [http.post(f"{url}/v1/chat/completions", json=body, headers=AUTH) for _ in range(streams)]
                open_ = await asyncio.gather(*post)
                started.send_signal(signal.SIGTERM)
                read = await asyncio.gather(*(r.read() for r in open_), return_exceptions=True)
            code = await asyncio.wait_for(started.wait(), 30)
        rows = _rows(Path(folder))
    cut = sum(not isinstance(data, bytes) or not data.endswith(DONE) for data in read)
    figures.tell(
        f"SIGTERM with {streams} live streams",
        f"{cut} cut, {rows} rows in the ledger, exit code {code}",
        not cut and code == 0 and rows == streams,
    )


async def rolling_restart(figures: Figures, number: int, rate: float) -> None:
    """Two replicas with one Redis behind a balancer that asks /readyz; both are replaced under mixed requests."""
    redis = RedisServer()
    try:
        with tempfile.TemporaryDirectory() as folder:
            homes = [Path(folder) / name for name in ("a", "b", "a2", "b2")]
            for home in homes:
                home.mkdir()
            asked, ready, mix = Asked(), list[str](), itertools.cycle(MIX)
            turns = itertools.count()
            async with contextlib.AsyncExitStack() as stack, aiohttp.ClientSession() as http:

                async def begin(home: Path) -> asyncio.subprocess.Process:
                    script = "demo-ok+chunks=3+gap=0.01"
                    entered = process(home, script, drain=20, drain_delay=1, redis=redis.url)
                    started, url, _ = await stack.enter_async_context(entered)
                    ready.append(url)
                    return started

                async def once() -> None:
                    url, (path, body) = ready[next(turns) % len(ready)], next(mix)
                    await asked.send(http, f"{url}/v1/{path}", body)

                serving = [await begin(home) for home in homes[:2]]
                traffic = asyncio.create_task(at_rate(rate, number, once))
                for started, home in zip(serving[:], homes[2:], strict=True):
                    await asyncio.sleep(number / rate / 8)
                    serving.append(await begin(home))
                    started.send_signal(signal.SIGTERM)
                    await asyncio.sleep(0.2)  # a balancer asks /readyz that often, within the drain delay
                    ready.pop(0)
                    assert await asyncio.wait_for(started.wait(), 40) == 0
                await traffic
                for started in serving[2:]:
                    started.send_signal(signal.SIGTERM)
                    assert await asyncio.wait_for(started.wait(), 40) == 0
                rows = [_rows(home) for home in homes]
    finally:
        redis.stop()
    billed = sum(1 for i in range(number) if MIX[i % len(MIX)][1] is not None)
    figures.tell(
        f"rolling restart of two replicas under {number} mixed requests at {rate:.0f} a second",
        f"{asked.lost} lost, {sum(rows)} rows for {billed} billed requests, by replica {rows}",
        not asked.lost and sum(rows) == billed,
    )


def _rows(home: Path) -> int:
    """Requests in the ledger of a gateway that was started in ``home``."""
    with contextlib.closing(sqlite3.connect(home / "sluice.db")) as database:
        return int(database.execute("SELECT count(*) FROM ledger WHERE final").fetchone()[0])

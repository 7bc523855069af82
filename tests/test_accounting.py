"""Two gateways, one Redis, one ledger: what was charged is what the providers generated, to the nano-dollar."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from pydantic import SecretStr

from config.schema import Database as DatabaseOptions
from config.schema import Ledger as LedgerOptions
from config.schema import Redis as RedisOptions
from gateway import demo
from gateway.call import Owner
from gateway.demo.journal import Entry
from gateway.limits import Limiter, State
from gateway.limits.redis import RedisEngine
from gateway.limits.rules import NAMES, Rules
from gateway.records.database import Database
from gateway.records.ledger import Ledger
from gateway.records.usage import UsageStore

from .running import KEY, configuration, deployment, running
from .servers import RedisServer, free_port, wait_for_port
from .test_metering import ask, states

INPUT, OUTPUT = 2_000, 8_000
"""Nano-dollars per token of ``running.PRICE``."""
REQUESTS = int(os.environ.get("SLUICE_ACCOUNTING_REQUESTS", "300"))
AT_ONCE = 30
LIMITS = {"rpm": 100_000, "tpm": 100_000_000, "tpd": 10**9, "rpd": 10**6, "concurrency": 500, "budget": {"month": 1000}}


class Gateways:
    """Processes of ``sluice serve`` that share Redis, database and journal folder."""

    def __init__(self, folder: str, upstream: str, redis: str, models: dict[str, Any], **sections: Any) -> None:
        self.folder = folder
        self.config = configuration(
            upstream,
            folder,
            models,
            keys=[{"name": "test", "key": KEY, "limits": LIMITS}],
            redis={"url": redis},
            timeouts={"first_byte": 0.3},
            **sections,
        )
        self.processes: list[subprocess.Popen[bytes]] = []
        self.urls: list[str] = []

    def start(self) -> None:
        port = free_port()
        document = self.config.model_dump(mode="json", exclude_unset=True)
        document["providers"]["openai"]["api_key"] = document["providers"]["anthropic"]["api_key"] = "up"
        document["keys"][0]["key"], document["redis"]["url"] = KEY, self.config.redis.url.get_secret_value()  # type: ignore[union-attr]
        document["database"]["url"] = self.config.database.url.get_secret_value()
        path = Path(self.folder, f"{port}.yaml")
        path.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "gateway", "serve", str(path), "--port", str(port)]
        self.processes.append(subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL))
        wait_for_port(port, 30)
        self.urls.append(f"http://127.0.0.1:{port}")

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(30)

    async def rows(self) -> list[dict[str, Any]]:
        database = Database(DatabaseOptions(url=f"sqlite:///{self.folder}/sluice.db"))  # type: ignore[arg-type]
        try:
            text = b"".join([part async for part in UsageStore(database).export("json")])
        finally:
            await database.close()
        found: list[dict[str, Any]] = json.loads(text)
        return found

    async def states(self) -> dict[str, State]:
        """What Redis says of the key's limits."""
        assert self.config.redis is not None
        engine = RedisEngine(RedisOptions(url=self.config.redis.url.get_secret_value()), lease=60)  # type: ignore[arg-type]
        limiter = Limiter(engine, Rules())
        await limiter.start()
        try:
            found = await limiter.usage(Owner("k:test", self.config.keys[0].limits), "default")
        finally:
            await limiter.close()
        return {NAMES[s.limit.field]: s for s in found}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.stop()


@contextlib.asynccontextmanager
async def gateways(
    number: int, redis: RedisServer, models: dict[str, Any], **sections: Any
) -> AsyncIterator[tuple[Gateways, demo.DemoUpstream]]:
    upstream = await demo.start()
    folder = tempfile.mkdtemp(prefix="sluice-test-")
    both = Gateways(folder, upstream.url, redis.url, models, **sections)
    try:
        for _ in range(number):
            await asyncio.to_thread(both.start)
        yield both, upstream
    finally:
        await asyncio.to_thread(both.stop)
        await upstream.close()
        shutil.rmtree(folder, ignore_errors=True)


def other(script: str) -> list[dict[str, Any]]:
    """A fallback of another dialect behind a provider that fails."""
    return [deployment(script), deployment("demo-reasoning+chunks=7", "anthropic")]


EXACT: dict[str, Any] = {
    "ok": [deployment("demo-long")],
    "claude": [deployment("demo-long+cached=2+input=9", "anthropic")],
    "reasoning": [deployment("demo-reasoning")],
    "flapping": [deployment("demo-flapping+chunks=9")],
    "limited": other("demo-429"),
    "broken": other("demo-529"),
    "down": other("demo-502"),
}
"""Every attempt is either refused or tells its usage."""
ESTIMATED: dict[str, Any] = {
    "silent": [deployment("demo-long+no-usage")],
    "early": other("demo-error-early"),
    "hanging": other("demo-slow+delay=0.6"),
    "cut": [deployment("demo-cut+chunks=50+cut=20")],
    "cut-claude": [deployment("demo-error-late", "anthropic")],
    "paced": [deployment("demo-long+gap=0.01")],
}
MODELS = {**EXACT, **ESTIMATED}


async def one(http: aiohttp.ClientSession, url: str, number: int, dice: random.Random) -> tuple[int, str | None]:
    """Ask, and perhaps leave somewhere on the way; gives the request's id as far as it was told."""
    model = dice.choice(list(MODELS))
    body = {
        "model": model,
        "stream": model not in EXACT or dice.random() < 0.5,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": f"request {number}"}],
    }
    patience = dice.uniform(0.01, 0.6) if model == "paced" else 20.0
    told: str | None = None
    try:
        async with asyncio.timeout(patience):
            async with http.post(f"{url}/v1/chat/completions", json=body) as response:
                told = response.headers["x-request-id"]
                async for _ in response.content.iter_any():
                    pass
    except (TimeoutError, aiohttp.ClientError):
        pass
    return number, told


def priced(entry: Entry) -> int:
    """What the demo provider would bill: its cached tokens cost what the others do."""
    return entry.usage.prompt_tokens * INPUT + entry.usage.completion_tokens * OUTPUT if entry.status == 200 else 0


def number_of(entry: Entry) -> int:
    content = entry.body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    return int(text.split()[1])


@pytest.mark.timeout(180)
async def test_the_ledger_is_what_the_providers_generated_and_the_budget_is_the_ledger(redis: RedisServer) -> None:
    dice = random.Random(5)
    async with gateways(2, redis, MODELS, retries={"attempts": 4, "budget_percent": 100}) as (both, upstream):
        pending: set[asyncio.Task[tuple[int, str | None]]] = set()
        ids: dict[str, int] = {}
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            for number in range(REQUESTS):
                pending.add(asyncio.ensure_future(one(http, both.urls[number % 2], number, dice)))
                while len(pending) >= AT_ONCE or (pending and number == REQUESTS - 1):
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    ids.update((told, n) for n, told in (task.result() for task in done) if told is not None)
        await asyncio.to_thread(both.stop)
        rows, states = await both.rows(), await both.states()
        journal: defaultdict[int, list[Entry]] = defaultdict(list)
        for entry in upstream.journal:
            journal[number_of(entry)].append(entry)

    requests: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        requests[row["request_id"]].append(row)
    exact = estimated = generated = apart = 0
    kinds: Counter[str] = Counter()
    for request, attempts in requests.items():
        number = ids.get(request)
        if number is None:  # it left before it was told its id
            assert all(row["estimated"] for row in attempts)
            assert attempts[-1]["code"] == "client_closed"
            continue
        entries = journal[number]
        assert [row["attempt"] for row in attempts] == list(range(1, len(entries) + 1))
        for row, entry in zip(attempts, entries, strict=True):
            kinds["estimated" if row["estimated"] else row["status"]] += 1
            if row["estimated"]:
                assert row["model"] in ESTIMATED
                assert not (entry.reported and entry.complete and row["status"] == "ok")
                assert row["cost"] <= (2_000 * INPUT + 200 * OUTPUT)
                estimated += row["cost"]
                apart += priced(entry)
            else:
                assert row["cost"] == priced(entry), (row, entry)
                exact += row["cost"]
                generated += priced(entry)
    assert exact == generated > 0
    assert {"ok", "estimated", "rate_limited", "overloaded", "server"} <= set(kinds), kinds
    everything = sum(row["cost"] for row in rows)
    assert states["budget.month"].used == everything
    assert states["budget.month"].reserved == 0
    assert states["concurrency"].used == 0
    assert states["rpd"].used == len(requests) > 0.9 * REQUESTS  # some left before they were read
    tokens = sum(r[b] for r in rows for b in ("input", "cache_read", "cache_write", "output", "reasoning"))
    assert states["tpd"].used == tokens
    print(
        f"accounting: {REQUESTS} requests, {len(rows)} attempts {dict(kinds)}; exact {exact} n$ == generated "
        f"{generated} n$; estimated {estimated} n$ of {apart} n$ "
        f"generated; budget in Redis {everything} n$"
    )


@pytest.mark.timeout(60)
async def test_a_process_that_dies_in_a_stream_is_charged_its_last_checkpoint(redis: RedisServer) -> None:
    models = {"m": [deployment("demo-long+chunks=2000+gap=0.02")]}
    async with gateways(2, redis, models, counters={"lease": 1}) as (both, _):
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            body = {"model": "m", "stream": True, "max_tokens": 100_000}
            ask = {**body, "messages": [{"role": "user", "content": "go on"}]}
            response = await http.post(f"{both.urls[0]}/v1/chat/completions", json=ask)
            # Whoever serves the same organization reaps what a dead process held.
            (await http.post(f"{both.urls[1]}/v1/chat/completions", json={**ask, "max_tokens": 1})).close()
            received = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.5):
                    while data := await response.content.readany():
                        received += data.count(b"word")
            assert received > 100, (response.status, await response.read())
            reserved = (await both.states())["budget.month"].reserved
            both.processes[0].kill()
            response.close()
            for _ in range(50):
                await asyncio.sleep(0.2)
                found, rows = await both.states(), await both.rows()
                if len(rows) == 2 and not found["budget.month"].reserved:
                    break
        row, small = sorted(rows, key=lambda row: -row["cost"])
        assert row["estimated"]
        assert row["status"] == "unfinished"
        assert found["concurrency"].used == 0
        assert found["budget.month"].used == row["cost"] + small["cost"]
        assert 0.8 * received * OUTPUT < row["cost"] < 3 * received * OUTPUT < reserved / 10


def raising() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """What raises a reservation -> models and limits."""
    dear = {"input": 20, "output": 800}
    fallback = {
        "m": {"deployments": [deployment("demo-cut")], "fallbacks": {"any": ["b"]}},
        "b": [deployment("demo-slow+delay=9", price=dear)],
    }
    slow = [deployment("demo-slow+delay=9"), deployment("demo-slow+delay=8", "anthropic")]
    own = {"per_model": {"b": {"rpm": 50}}}
    return {
        "fallback": (fallback, {}),
        "fallback-with-limits-of-its-own": (fallback, own),
        "hedge": ({"m": {"deployments": slow, "hedging": {"after": 0.05}}}, {}),
    }


@pytest.mark.parametrize("case", raising())
async def test_a_process_that_dies_after_more_was_reserved_is_charged_all_of_it(case: str, tmp_path: Path) -> None:
    """By a copy of its journal, which is what a dead one leaves."""
    models, limits = raising()[case]
    keys = [{"name": "test", "key": KEY, "limits": {"budget": {"day": 100}, "concurrency": 9, **limits}}]
    async with running(models, keys=keys) as (gateway, upstream):
        asking = asyncio.create_task(ask(gateway, max_tokens=1000))
        async with asyncio.timeout(5):
            while len(upstream.journal) < 2:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        budget = (await states(gateway))["budget.day"]
        shutil.copytree(Path(gateway.config.ledger.journal), tmp_path / "journal")
        asking.cancel()
    database = Database(DatabaseOptions(url=SecretStr(f"sqlite:///{tmp_path}/records.db")))
    await database.upgrade()
    heir = Ledger(database, LedgerOptions(journal=f"{tmp_path}/journal"), sql_interval=60)
    await heir.start()
    (row,) = await UsageStore(database).rows()
    assert row["status"] == "unfinished"
    assert row["cost"] == budget.reserved + budget.used > 0
    await heir.close()
    await database.close()

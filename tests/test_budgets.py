"""Budgets that fill up: the metric, the webhook and that neither holds up a request."""

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from redis.asyncio import Redis

from config import parse
from config.schema import Budget
from config.schema import Redis as RedisOptions
from gateway.auth import configured_keys
from gateway.limits import Threshold
from gateway.limits.rules import Rules
from gateway.observers.budgets import BudgetObserver, message
from gateway.observers.told import Told

from .running import KEY, running
from .servers import RedisServer, free_port
from .test_metering import ask, states

LIMITS = {"budget": {"day": "0.03"}}
BODY = {"max_tokens": 100}


class Receiver:
    """A webhook's receiver that can be slow or broken."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.signed: list[tuple[str | None, bytes]] = []
        """Signature and body."""
        self.failures = 0
        self.delay = 0.0

    async def take(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.delay)
        if self.failures:
            self.failures -= 1
            return web.Response(status=500)
        self.messages.append(await request.json())
        self.signed.append((request.headers.get("X-Sluice-Signature"), await request.read()))
        return web.Response()


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, str]]:
    receiver, app = Receiver(), web.Application()
    app.add_routes([web.post("/hook", receiver.take)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield receiver, f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


async def test_a_budget_that_fills_up_is_told_once_per_threshold_and_in_its_order() -> None:
    keys = [{"name": "test", "key": KEY, "limits": LIMITS}]
    async with receiving() as (receiver, url):
        receiver.failures = 1
        async with running({"m": "demo-long"}, keys=keys, counters={"webhook": url}) as (gateway, _):
            statuses = [(await ask(gateway, **BODY))[0] for _ in range(36)]
            assert statuses[0] == 200
            assert statuses[-1] == 429
            value = gateway.registry.get_sample_value
            for percent in ("50", "80", "100"):
                labels = {"budget": "budget.day", "percent": percent}
                assert value("sluice_budget_thresholds_passed_total", labels) == 1
        assert [m["percent"] for m in receiver.messages] == [50, 80, 100]
        first = receiver.messages[0]
        assert (first["scope"], first["budget"], first["limit_usd"]) == ("k:test", "day", "0.03")
        assert 0.015 <= float(first["spent_usd"]) < 0.018
        assert first["since"] % 86_400 == 0
        assert len({m["id"] for m in receiver.messages}) == 3
        assert KEY not in str(receiver.messages)


async def test_a_receiver_that_is_away_for_seconds_misses_nothing() -> None:
    keys = [{"name": "test", "key": KEY, "limits": LIMITS}]
    async with receiving() as (receiver, url):
        receiver.failures = 4
        async with running({"m": "demo-long"}, keys=keys, counters={"webhook": url}) as (gateway, _):
            for _ in range(20):
                await ask(gateway, **BODY)
            async with asyncio.timeout(10):
                while not receiver.messages:
                    await asyncio.sleep(0.05)
            assert gateway.registry.get_sample_value("sluice_budget_webhooks_failed_total") == 0
        assert [m["percent"] for m in receiver.messages] == [50]


@pytest.fixture
async def shared(redis_server: RedisServer) -> dict[str, Any]:
    """Sections of gateways that share an empty Redis."""
    redis = Redis.from_url(redis_server.url)
    await redis.flushall()
    await redis.aclose()
    return {"redis": {"url": redis_server.url, "timeout": 2}, "keys": [{"name": "test", "key": KEY, "limits": LIMITS}]}


async def test_workers_that_share_their_counters_tell_each_threshold_once(shared: dict[str, Any]) -> None:
    async with receiving() as (receiver, url):
        receiver.delay = 0.2
        options = {**shared, "counters": {"webhook": url, "hot_leases": False}}
        async with running({"m": "demo-long"}, **options) as (one, demo):
            async with running({"m": "demo-long"}, upstream=demo, **options) as (two, _):
                for _ in range(20):
                    await ask(one, **BODY)
                    await ask(two, **BODY)
                for gateway in (one, two):  # else there was nothing to tell twice
                    labels = {"budget": "budget.day", "percent": "100"}
                    assert gateway.registry.get_sample_value("sluice_budget_thresholds_passed_total", labels) == 1
        assert [m["percent"] for m in receiver.messages] == [50, 80, 100]
        async with running({"m": "demo-long"}, **options) as (late, _):  # a worker that starts later, too
            assert (await ask(late, **BODY))[0] == 429
        assert len(receiver.messages) == 3


async def test_what_a_worker_that_died_had_to_tell_another_one_tells(redis_server: RedisServer) -> None:
    options = RedisOptions(url=SecretStr(redis_server.url), timeout=2)
    dead, living, late = (Told(options, held=0.5, prefix="test:") for _ in range(3))
    assert await dead.take("a")
    assert await dead.take("a")
    begun = time.monotonic()
    assert await living.take("a")
    assert time.monotonic() - begun >= 0.5
    await living.note("a")
    assert not await late.take("a")
    assert not await dead.take("a")
    for told in (dead, living, late):
        await told.close()


@pytest.mark.parametrize("secret", ["s3cret-\u00fc", None])
async def test_a_message_is_signed_where_there_is_a_secret(secret: str | None) -> None:
    keys = [{"name": "test", "key": KEY, "limits": LIMITS}]
    async with receiving() as (receiver, url):
        counters = {"webhook": url, "webhook_secret": secret}
        async with running({"m": "demo-long"}, keys=keys, counters=counters) as (gateway, _):
            for _ in range(20):
                await ask(gateway, **BODY)
    ((signature, body),) = receiver.signed
    assert signature == (secret and "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest())


async def test_while_redis_is_away_a_threshold_is_told_all_the_same() -> None:
    told = Told(RedisOptions(url=SecretStr(f"redis://127.0.0.1:{free_port()}"), timeout=1))
    async with receiving() as (receiver, url), ClientSession() as session:
        observer = BudgetObserver(CollectorRegistry(), session, url, told)
        observer.passed(Threshold("k:test", "budget.day", 50, 5, 10, "acme"))
        await observer.close()
    assert [m["percent"] for m in receiver.messages] == [50]


async def test_a_receiver_that_hangs_holds_up_no_request() -> None:
    keys = [{"name": "test", "key": KEY, "limits": LIMITS}]
    async with receiving() as (receiver, url):
        receiver.delay = 2
        async with running({"m": "demo-long"}, keys=keys, counters={"webhook": url}) as (gateway, _):
            begin = time.monotonic()
            for _ in range(36):
                await ask(gateway, **BODY)
            assert time.monotonic() - begin < 1.9
            assert receiver.messages == []
            receiver.delay = 0


def test_the_example_of_the_documentation_is_a_configuration() -> None:
    page = (Path(__file__).parents[1] / "docs" / "limits-and-budgets.md").read_text()
    found = re.search(r"```yaml\n(.+?)```", page, re.DOTALL)
    assert found is not None
    upstream = {
        "providers": {"openai": {"adapter": "openai", "api_key": "x"}},
        "models": {"smart": {"deployments": [{"provider": "openai", "model": "gpt-4o"}]}},
    }
    config = parse(yaml.safe_dump({**yaml.safe_load(found[1]), **upstream}), {"CI_KEY": KEY})
    (principal, _), *_ = configured_keys(config).values()
    assert [owner.id for owner in principal.owners] == ["k:ci", "t:research", "o:acme"]
    limits = Rules(config.model_groups).resolve(principal, "smart", "priority")
    assert limits is not None
    assert {limit.scope for limit in limits.limits} == {
        *("k:ci", "t:research", "o:acme", "t:research|m:best", "t:research|s:priority")
    }


async def test_an_overdraft_is_for_requests_in_flight_and_is_all_that_may_be_spent_beyond() -> None:
    """Each may cost a third of the budget and costs little: with an overdraft more of them run at once, and the end is the same."""
    in_flight = {"0": 0, "0.01": 0}
    for overdraft in in_flight:
        limits = {"budget": {"day": "0.01", "overdraft": overdraft}}
        keys = [{"name": "test", "key": KEY, "limits": limits}]
        async with running({"m": "demo-long+delay=0.4", "soon": "demo-long"}, keys=keys) as (gateway, _):
            statuses = [status for status, *_ in await asyncio.gather(*(ask(gateway, **BODY) for _ in range(12)))]
            assert set(statuses) == {200, 429}
            in_flight[overdraft] = statuses.count(200)
            for _ in range(60):
                status, headers, body = await ask(gateway, model="soon", **BODY)
                if status == 429:
                    break
            assert status == 429
            found = (await states(gateway))["budget.day"]
            assert found.used <= 10_000_000 + int(Decimal(overdraft) * 10**9)
            assert found.reserved == 0
            if overdraft != "0":
                assert found.used >= 10_000_000  # nothing begins any more once all of it is spent, and not before
                assert b"overdraft of requests in flight $0.01" in body
                assert headers["x-sluice-budget-remaining-usd"] == "0"
    assert in_flight["0.01"] >= 2 * in_flight["0"]


def test_a_window_and_its_overdraft_must_be_countable_together() -> None:
    assert Budget(day=Decimal(9_000_000), overdraft=Decimal(0))
    with pytest.raises(ValueError, match="overdraft must not be more than 9000000"):
        Budget(day=Decimal(1), month=Decimal(9_000_000), overdraft=Decimal("0.01"))


def test_messages_about_another_budget_have_another_id() -> None:
    """Else the one that is told second would count as told."""
    first = Threshold("t:a", "budget.month", 80, 8, 10, "acme")
    others = [first._replace(shard="umbrella"), first._replace(cap=20), first._replace(percent=100)]
    assert message(first)["id"] == message(first._replace(spent=9))["id"]
    assert len({message(one)["id"] for one in (first, *others)}) == 4

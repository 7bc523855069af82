"""Limits that are taken away and come back: what was used meanwhile counts."""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from config import Config
from config.schema import Limits, LimitValues
from gateway import demo
from gateway.app import Gateway, build
from gateway.call import Owner
from gateway.errors import StoreUnavailable
from gateway.limits import Amounts, limiter
from gateway.limits.engine import Engine
from gateway.limits.leases import LeasedEngine
from gateway.limits.memory import MemoryEngine
from gateway.limits.redis import RedisEngine
from gateway.limits.rules import Rules

from .limits_worker import limit_set
from .running import KEY, configuration, running

ADMIN = "admin-0123456789abcdef0123456789abcdef"
ASK = {"messages": [{"role": "user", "content": "one two three"}]}
COST = 3 * 2_000 + 3 * 8_000
"""Of an echo of these words, in nano-dollars: see ``running.PRICE``."""
BUDGET = {"budget": {"day": 1, "total": 1}, "rpd": 100}
KINDS = ("memory", "redis", "leases")


@pytest.fixture(params=KINDS)
def counters(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "memory":
        return {}
    url = request.getfixturevalue("redis_server").url
    return {"redis": {"url": url, "timeout": 2}, "counters": {"hot_leases": request.param == "leases"}}


class Key:
    """A virtual key of some gateways, whose limits change."""

    def __init__(self, http: aiohttp.ClientSession, *gateways: Gateway) -> None:
        self._http = http
        self._gateways = gateways
        self.secret = self.id = ""

    async def change(self, limits: dict[str, Any]) -> None:
        if self.id:
            await self._admin("PATCH", f"keys/{self.id}", limits=limits)
        else:
            made = await self._admin("POST", "keys", name="a", limits=limits)
            self.secret, self.id = made["key"], made["id"]
        for gateway in self._gateways:  # what happens within half a second
            assert gateway.records.ledger is not None
            await gateway.records.ledger.flush()
            await gateway.records.keys.poll()

    async def ask(self, gateway: Gateway) -> int:
        """The status."""
        url, headers = f"{gateway.url}/v1/chat/completions", {"authorization": f"Bearer {self.secret}"}
        async with self._http.post(url, json={"model": "m", **ASK}, headers=headers) as response:
            await response.read()
            return response.status

    async def used(self) -> dict[str, int]:
        """What the counters say."""
        return {state["limit"]: state["used"] for state in (await self._admin("GET", f"keys/{self.id}/limits"))["data"]}

    async def _admin(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        url, headers = f"{self._gateways[0].admin_url}/admin/v1/{path}", {"authorization": f"Bearer {ADMIN}"}
        async with self._http.request(method, url, json=body or None, headers=headers) as response:
            found: dict[str, Any] = await response.json()
            assert response.ok, found
            return found


@contextlib.asynccontextmanager
async def replicas(number: int, **sections: Any) -> AsyncIterator[list[Gateway]]:
    """Gateways in front of one upstream, on one database."""
    upstream, folder = await demo.start(), tempfile.mkdtemp(prefix="sluice-test-")
    common = {"auth": {"pepper": "p" * 32}, "admin": {"keys": {"ops": ADMIN}}, **sections}
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.push_async_callback(upstream.close)
        gateways = []
        for _ in range(number):
            gateway = await build(configuration(upstream.url, folder, {"m": "demo-echo"}, **dict(common)))
            stack.push_async_callback(gateway.close)
            await gateway.start()
            gateways.append(gateway)
        yield gateways


async def test_a_budget_that_comes_back_counts_what_was_spent_without_it(counters: dict[str, Any]) -> None:
    async with replicas(1, **counters) as (gateway,), aiohttp.ClientSession() as http:
        key = Key(http, gateway)
        await key.change(BUDGET)
        assert await key.ask(gateway) == 200
        await key.change({})
        for _ in range(3):
            assert await key.ask(gateway) == 200
        await key.change(BUDGET)
        assert await key.used() == {"budget.day": 4 * COST, "budget.total": 4 * COST, "rpd": 4}
        assert await key.ask(gateway) == 200
        await key.change({"rpd": 100})
        assert await key.ask(gateway) == 200
        await key.change({"rpd": 6})  # as often as it has asked
        assert await key.ask(gateway) == 429


async def test_every_worker_learns_of_it_and_nothing_counts_twice(redis_server: Any) -> None:
    redis = {"url": redis_server.url, "timeout": 2}
    async with replicas(2, redis=redis) as gateways, aiohttp.ClientSession() as http:
        key = Key(http, *gateways)
        for limits in (BUDGET, {}, BUDGET):
            await key.change(limits)
            for gateway in gateways:
                assert await key.ask(gateway) == 200
        assert await key.used() == {"budget.day": 6 * COST, "budget.total": 6 * COST, "rpd": 6}


async def test_a_limit_that_a_reload_brings_back_counts_too(counters: dict[str, Any]) -> None:
    wanted: dict[str, Any] = {}

    def read() -> Config:
        document = gateway.config.model_dump()
        (key,) = document["keys"]
        key["limits"] = wanted
        return Config.model_validate(document)

    keys = [{"name": "test", "key": KEY, "limits": {"rpd": 100}}]
    async with running({"m": "demo-echo"}, read, keys=keys, **counters) as (gateway, _):
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            for limits, status in (({"rpd": 100}, 200), ({"rpm": 100}, 200), ({"rpd": 2}, 429)):
                wanted = limits
                await gateway.reloader.reload()
                async with http.post(f"{gateway.url}/v1/chat/completions", json={"model": "m", **ASK}) as response:
                    assert response.status == status


async def test_a_limit_that_a_restart_brings_back_counts_too(counters: dict[str, Any], tmp_path: Path) -> None:
    name = f"restarted-{uuid.uuid4().hex[:8]}"
    upstream = await demo.start()
    try:
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            for limits in ({"rpd": 100}, {"rpm": 100}, {"rpd": 100}):
                keys = [{"name": name, "key": KEY, "limits": limits}]
                gateway = await build(
                    configuration(upstream.url, str(tmp_path), {"m": "demo-echo"}, keys=keys, **dict(counters))
                )
                await gateway.start()
                async with http.post(f"{gateway.url}/v1/chat/completions", json={"model": "m", **ASK}) as response:
                    assert response.status == 200
                if limits == {"rpd": 100}:
                    left = int(response.headers["x-ratelimit-remaining-requests"])
                await gateway.close()
        assert left == 97
    finally:
        await upstream.close()


@pytest.fixture(params=KINDS)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    found: Engine = MemoryEngine()
    if request.param != "memory":
        from config.schema import Redis

        shared = RedisEngine(Redis(url=request.getfixturevalue("redis_server").url, timeout=2))
        found = LeasedEngine(shared) if request.param == "leases" else shared
    await found.start()
    yield found
    await found.close()


async def test_a_window_is_raised_to_what_is_known_less_what_is_reserved(engine: Engine) -> None:
    limits = limit_set("returned", ("k:a", "budget.total", 1000), ("k:a", "rpm", 10))
    await engine.reserve("running", limits, (1, 0, 0, 0, 30, 1))
    for known, used in ((20, 0), (100, 70), (100, 70), (90, 70)):
        engine.correct(f"known-{known}", limits, (0, 0, 0, 0, known, 0), 0, least=True)
        (budget, rate) = await engine.states(limits)
        assert (budget.used, budget.reserved, rate.used) == (used, 30, 1)
    engine.settle("running", (1, 0, 0, 0, 10, 1))
    assert (await engine.states(limits))[0].used == 80


async def test_a_ledger_that_does_not_answer_at_the_start_is_asked_until_it_does(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter, "AGAIN", 0.01)
    asked: list[str] = []

    async def spent(shard: str, scope: str, start: int, end: int) -> Amounts:
        asked.append(scope)
        if len(asked) in (1, 3):
            raise StoreUnavailable("not now")
        return Amounts(7)

    found = limiter.Limiter(engine, Rules(), spent=spent)  # type: ignore[arg-type] # nothing was lost
    owner = Owner("k:again", Limits(rpd=100, per_model={"m": LimitValues(rpd=50)}))
    await found.catch_up([(Owner("k:free"), "again"), (owner, "again")])
    assert [state.used for state in await found.usage(owner, "again")] == [7, 7]
    assert asked[0] == "k:again"

"""Health that workers share through a real Redis: what one learns the others know, and one probe serves all."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr

from adapters.errors import ErrorKind, ProviderError
from adapters.ratelimits import RateLimits
from config import cpus
from config.schema import Health as HealthConfig
from config.schema import Redis, Retries
from gateway import sharing
from gateway.fleet import Fleet
from gateway.sharing import GRANT_SECONDS, LOST_SECONDS, Sharing

from .replicas import ADMIN, Replica, replicas
from .running import deployment
from .servers import RedisServer
from .test_drain import at
from .test_flow import ASK

NAME = "p/x"
X = "demo-ok+delay=0"


def broken(kind: ErrorKind = ErrorKind.SERVER, retry_after: float | None = None) -> ProviderError:
    return ProviderError(kind, "x", retry_after=retry_after)


@pytest.fixture
def own_redis() -> "AsyncIterator[RedisServer]":
    server = RedisServer()
    yield server  # type: ignore[misc]
    server.stop()


@contextlib.asynccontextmanager
async def workers(url: str, number: int = 2, **health: float) -> AsyncIterator[list[Fleet]]:
    options = {"consecutive_failures": 1, "open_seconds": 1, "slow_start": 0, **health}
    fleets = [Fleet(HealthConfig(**options), Retries()) for _ in range(number)]  # type: ignore[arg-type]
    async with contextlib.AsyncExitStack() as stack:
        for fleet in fleets:
            await stack.enter_async_context(Sharing(fleet, Redis(url=SecretStr(url))))
        yield fleets


async def soon(true: Callable[[], bool], seconds: float = 1.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_breaker_that_one_opens_is_open_for_all_and_one_success_closes_it(own_redis: RedisServer) -> None:
    async with workers(own_redis.url, 3) as (a, b, c):
        assert b[NAME].health.closed
        a[NAME].health.failed(broken())
        await soon(lambda: not b[NAME].health.closed)
        await soon(lambda: not c[NAME].health.closed)  # it had no member of that name when it was told
        assert 0 < b[NAME].health.retry_in <= a[NAME].health.retry_in + 0.05
        b[NAME].health.succeeded()
        await soon(lambda: a[NAME].health.closed and c[NAME].health.closed)
        assert a[NAME].health.available()


async def test_the_open_time_grows_whoever_probes(own_redis: RedisServer) -> None:
    async with workers(own_redis.url) as fleets:
        lasted = []
        for turn in range(3):
            health = fleets[turn % 2][NAME].health
            health._open_until = 0.0
            assert health.closed or health.probe()
            health.failed(broken())
            lasted.append(health.known.open_seconds)
            other = fleets[(turn + 1) % 2][NAME].health
            await soon(partial(lambda o, s: o.known.open_seconds == s, other, lasted[-1]))
    assert lasted == [1, 2, 4]


async def test_cool_downs_hints_and_slowness_are_known_to_all(own_redis: RedisServer) -> None:
    async with workers(own_redis.url, open_seconds=5) as (a, b):
        a["p/limited"].health.failed(broken(ErrorKind.RATE_LIMITED, 20.0))
        a["p/hinted"].health.hinted(RateLimits(requests=0, tokens=1, reset=9))
        a["p/slow"].health.slow()
        await soon(lambda: b["p/limited"].health.cooling > 19)
        assert b["p/limited"].health.closed
        assert b["p/limited"].health.why is ErrorKind.RATE_LIMITED
        assert not b["p/limited"].health.available()
        await soon(lambda: b["p/hinted"].health.reluctant() and b["p/slow"].health.reluctant())
        assert b["p/slow"].health.available()
        assert b["p/slow"].health.known.slow_seconds == 5


async def test_a_new_worker_knows_what_the_others_found_out(own_redis: RedisServer) -> None:
    async with workers(own_redis.url, open_seconds=60) as (a, b):
        a[NAME].health.failed(broken())
        await soon(lambda: not b[NAME].health.closed)
        async with workers(own_redis.url, 1) as (late,):
            assert not late[NAME].health.closed
            assert late[NAME].health.retry_in > 20


async def test_all_workers_together_probe_at_most_once_a_second(own_redis: RedisServer) -> None:
    """Four workers, each asked a hundred times a second, whether a model that is out may be probed."""
    async with workers(own_redis.url, 4, open_seconds=300, max_open_seconds=300) as fleets:
        fleets[0][NAME].health.failed(broken())
        await soon(lambda: not any(fleet[NAME].health.closed for fleet in fleets))
        at: list[tuple[float, int]] = []
        began = time.monotonic()
        while time.monotonic() - began < 6:
            for i, fleet in enumerate(fleets):
                if fleet.may_probe("m", [NAME]):
                    at.append((time.monotonic(), i))
            await asyncio.sleep(0.01)
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(at)]
        assert len(at) >= 4
        assert min(gaps) >= 0.98
        assert max(gaps) <= 2


async def test_a_half_open_deployment_is_probed_by_one_worker(own_redis: RedisServer) -> None:
    async with workers(own_redis.url, 3) as fleets:
        fleets[0][NAME].health.failed(broken())
        await soon(lambda: not any(fleet[NAME].health.closed for fleet in fleets))
        probes = 0
        deadline = time.monotonic() + 2.5  # open for 0.5 to 1.5 s
        while time.monotonic() < deadline and not probes:
            for fleet in fleets:
                probes += fleet[NAME].health.available()
            await asyncio.sleep(0.005)
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            for fleet in fleets:
                probes += fleet[NAME].health.available()
            await asyncio.sleep(0.005)
        assert probes == 1


async def test_a_lone_request_after_a_while_need_not_wait_for_the_right(own_redis: RedisServer) -> None:
    async with workers(own_redis.url, 2) as (a, b):
        a[NAME].health.failed(broken())
        await soon(lambda: not b[NAME].health.closed)
        b[NAME].health.opened_at -= 3.5
        assert b.may_probe("m", [NAME])


async def test_probes_that_nobody_makes_any_more_are_forgotten(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of deployments that a reload removed."""
    monkeypatch.setattr(sharing, "QUIET_SECONDS", 0.5)
    async with Sharing(Fleet(), Redis(url=SecretStr(own_redis.url))) as shared:
        assert shared.may_probe("p/made", time.monotonic() - 1)
        assert not shared.may_probe("p/granted", time.monotonic())
        await soon(lambda: "p/granted" in shared._granted and "p/made" in shared._last)
        await soon(lambda: not shared._granted and not shared._last, 3 * GRANT_SECONDS)


async def test_without_redis_each_goes_on_with_what_it_knows_and_shares_again_later(own_redis: RedisServer) -> None:
    async with workers(own_redis.url, open_seconds=60) as (a, b):
        a[NAME].health.failed(broken())
        await soon(lambda: not b[NAME].health.closed)
        own_redis.kill()
        await asyncio.sleep(LOST_SECONDS + 1)
        assert not b[NAME].health.closed  # what was known stays known
        assert b.may_probe("m", [NAME])  # alone, by its own rules
        a["p/y"].health.failed(broken())
        own_redis.start()
        await soon(lambda: not b["p/y"].health.closed, 5)


async def test_a_request_never_waits_for_redis(own_redis: RedisServer) -> None:
    async with workers(own_redis.url) as (a, _):
        with own_redis.frozen():
            began = time.perf_counter()
            for i in range(1000):
                health = a[f"p/{i % 10}"].health
                if health.available():
                    health.failed(broken())
                health.reluctant()
                a.may_probe("m", [NAME])
            assert time.perf_counter() - began < 0.2


async def test_two_gateway_processes_share_a_breaker_and_a_recovery(tmp_path: Path, own_redis: RedisServer) -> None:
    """One replica's requests open the breaker; the other, which never failed, goes elsewhere at once."""
    models = {"m": [deployment(X, "openai", name="x"), deployment("demo-ok", "anthropic", name="y")]}
    health = {"open_seconds": 2, "slow_start": 0}
    async with replicas(tmp_path, models, own_redis.url, health=health) as ((one, two), upstream):
        upstream.scripts[X] = failing()
        assert [await served(one) for _ in range(5)] == ["y"] * 5  # five failures of x, each made good by y
        await asyncio.sleep(1)
        assert await two.metric("sluice_breaker_open", deployment="x") == 1
        before = asked(upstream)
        assert await served(two) == "y"
        assert asked(upstream) == before
        upstream.scripts.clear()
        deadline = time.monotonic() + 10
        while await served(one) != "x":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        assert await two.metric("sluice_breaker_open", deployment="x") == 0
        assert await served(two) == "x"


@pytest.mark.skipif(cpus.available() < 2, reason="two workers serve where there are two CPUs")
async def test_a_reload_that_one_worker_is_asked_for_happens_in_all(tmp_path: Path, own_redis: RedisServer) -> None:
    server = {"server": {"workers": 2}}
    async with replicas(tmp_path, {"m": [deployment("demo-ok")]}, own_redis.url, 1, **server) as ((one,), _):
        deadline = time.monotonic() + 10
        while await one.metric("sluice_config_info") < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        url = f"{one.admin_url}/admin/v1/config/reload"
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {ADMIN}"}) as http:
            async with http.post(url, json={}) as response:
                assert response.status == 200
        deadline = time.monotonic() + 5
        while await one.metric("sluice_config_reloads_total", result="ok") < 3:  # the one that was asked reads twice
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_full_outage_is_probed_once_a_second_by_two_processes_together(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    models = {"m": [deployment("demo-500", name="x"), deployment("demo-503", "anthropic", name="y")]}
    async with replicas(tmp_path, models, own_redis.url) as (both, upstream):
        deadline = time.monotonic() + 30
        while sum([await each.metric("sluice_breaker_open", deployment=name) for each in both for name in "xy"]) < 4:
            assert time.monotonic() < deadline
            await asyncio.gather(*(asking(each, 0.5) for each in both))
        before = len(upstream.journal)
        await asyncio.gather(*(asking(each, 5) for each in both))
        assert 2 <= len(upstream.journal) - before <= 6


def failing() -> "object":
    from gateway.demo import script_for

    script = script_for("demo-500")
    assert script is not None
    return script


def asked(upstream: "object") -> int:
    return sum(entry.model == X for entry in upstream.journal)  # type: ignore[attr-defined]


async def served(replica: Replica) -> str:
    async with at(replica.url) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="m", **ASK)
        return str(raw.headers["x-sluice-deployment"])


async def asking(replica: Replica, seconds: float) -> None:
    """Requests that all fail, for so long."""
    until = time.monotonic() + seconds
    async with at(replica.url) as sdk:
        while time.monotonic() < until:
            with contextlib.suppress(Exception):
                await sdk.chat.completions.create(model="m", **ASK)
            await asyncio.sleep(0.02)

"""/readyz: start, drain, and by policy the configuration, Redis and the database."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from config import ConfigError, parse
from gateway.observers.stores import StoreHealth

from .running import running
from .servers import RedisServer, postgres


async def asked(gateway: Any) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{gateway.admin_url}/readyz") as response:
            return response.status, (await response.json())["reason"]


async def becomes(gateway: Any, wanted: tuple[int, str], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while await asked(gateway) != wanted:
            await asyncio.sleep(0.05)


async def test_it_is_not_ready_while_it_drains() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        assert await asked(gateway) == (200, "")
        gateway.state.draining = True
        assert await asked(gateway) == (503, "draining")
        gateway.state.draining, gateway.state.ready = False, False
        assert await asked(gateway) == (503, "starting")


async def test_redis_counts_where_the_policy_says_so() -> None:
    redis = RedisServer()
    models, url = {"m": "demo-ok"}, {"url": redis.url}
    try:
        async with (
            running(models, redis=url, admin={"ready_requires": []}) as (one, _),
            running(models, redis=url, admin={"ready_requires": ["redis"]}) as (other, _),
        ):
            for gateway in (one, other):
                await becomes(gateway, (200, ""))
            redis.kill()
            async with asyncio.timeout(10):
                while one.telemetry.stores.healthy["redis"] or other.telemetry.stores.healthy["redis"]:
                    await asyncio.sleep(0.05)
            assert await asked(one) == (200, "")
            assert await asked(other) == (503, "redis does not answer")
            redis.start()
            for gateway in (one, other):
                await becomes(gateway, (200, ""))
    finally:
        redis.stop()


async def test_the_database_counts_where_the_policy_says_so() -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(postgres())
        sections: dict[str, Any] = {"database": {"url": url}, "admin": {"ready_requires": ["database"]}}
        async with running({"m": "demo-ok"}, **sections) as (gateway, _):
            await becomes(gateway, (200, ""))
            await asyncio.to_thread(stack.close)
            await becomes(gateway, (503, "database does not answer"), 20)


async def test_a_refused_reload_counts_where_the_policy_says_so() -> None:
    def broken() -> Any:
        raise ConfigError(["models.m: nonsense"])

    says: list[Callable[[], Any]] = [broken]

    def read() -> Any:
        return says[-1]()

    async with running({"m": "demo-ok"}, read, admin={"ready_requires": ["config"]}) as (gateway, _):
        assert await asked(gateway) == (200, "")
        await gateway.reloader.try_reload()
        assert await asked(gateway) == (503, "the configuration file has mistakes")
        config = gateway.config
        says.append(lambda: config)
        await gateway.reloader.try_reload()
        assert await asked(gateway) == (200, "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("admin: {ready_requires: [mysql]}", "ready_requires"),
        ("admin: {ready_requires: [redis]}", "no `redis`"),
        ("tracing: {content: true}", "tracing.langfuse"),
        ("health: {active: {kind: ping}}", "health.active.kind"),
    ],
)
def test_what_cannot_be_watched_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(text, {})


async def test_a_question_that_swallows_its_cancellation_holds_up_no_end() -> None:
    """redis-py does so when the cancellation meets a reply."""
    begun = asyncio.Event()

    async def ask() -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    health = StoreHealth(CollectorRegistry(), {"redis": ask})
    await health.start()
    await begun.wait()
    began = time.monotonic()
    await asyncio.wait_for(health.close(), 10)
    assert time.monotonic() - began < 1
    assert not [task for task in asyncio.all_tasks() if "_watch" in repr(task)]

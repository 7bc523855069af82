"""Counters against the ledger: nothing to say while all is well, and a lost counter is put back."""

import asyncio
import json
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from openai import AsyncOpenAI

from gateway.__main__ import main

from .running import KEY, deployment, running
from .servers import RedisServer

ADMIN = "admin-0123456789abcdef0123456789abcdef"


def sluice(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments), env={"SLUICE_ADMIN_KEY": ADMIN})
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("shared", [False, True])
async def test_counters_and_ledger_agree_and_what_was_lost_is_put_back(shared: bool, redis_server: RedisServer) -> None:
    name = f"reconciled-{shared}"
    sections: dict[str, Any] = {
        "admin": {"keys": {"ops": ADMIN}},
        "auth": {"pepper": "p" * 32},
        "organizations": {name: {"limits": {"budget": {"month": 100}}}},
        "teams": {name: {"organization": name, "limits": {"budget": {"day": 10, "total": 50}, "rpd": 100, "rpm": 50}}},
        "keys": [{"name": name, "key": KEY, "team": name}],
    }
    if shared:
        redis.Redis.from_url(redis_server.url).flushall()
        sections["redis"] = {"url": redis_server.url, "timeout": 2}
    async with running({"m": [deployment("demo-echo")]}, **sections) as (gateway, _):
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as sdk:
            for _ in range(3):
                await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "one two"}])

        async def reconcile(*options: str) -> Any:
            found = await asyncio.to_thread(sluice, "reconcile", "--json", "--url", gateway.admin_url, *options)
            return json.loads(found.output)

        assert await reconcile() == []
        report = await gateway.records.usage.report()
        limiter = gateway.pipeline.meter.limiter
        from config.schema import Budget, Limits
        from gateway.call import Owner
        from gateway.limits.rules import LimitSet

        limits = limiter.limits_of(Owner(f"t:{name}", Limits(budget=Budget(day=10))), name)
        assert limits is not None
        # Half of what was spent is forgotten, as by a Redis that came back with an old file.
        lost = report[0]["cost"] // 2
        limiter.engine.debit("lose", LimitSet(limits.shard, limits.limits), (0, 0, 0, 0, -lost, 0))
        await asyncio.sleep(0.1)
        drift = await reconcile()
        assert [(d["scope"], d["limit"], d["ledger"] - d["counter"]) for d in drift] == [
            (f"t:{name}", "budget.day", lost)
        ]
        assert [d["mended"] for d in await reconcile("--mend")] == [True]
        await asyncio.sleep(0.1)
        assert await reconcile() == []

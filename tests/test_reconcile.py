"""Counters against the ledger: nothing to say while all is well, and what differs for good is set right."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result
from openai import AsyncOpenAI

from config.schema import Budget, Limits
from gateway.__main__ import main
from gateway.app import Gateway
from gateway.call import Owner
from gateway.limits.rules import LimitSet
from gateway.management import reconcile

from .running import KEY, deployment, running
from .servers import RedisServer

ADMIN = "admin-0123456789abcdef0123456789abcdef"


def sluice(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments), env={"SLUICE_ADMIN_KEY": ADMIN})
    assert result.exit_code == 0, result.output
    return result


class Reconciled:
    """A gateway with a budget, and the command that compares its counters."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.gateway, self.name = gateway, name
        self.limiter = gateway.pipeline.meter.limiter

    async def __call__(self, *options: str) -> list[dict[str, Any]]:
        found = await asyncio.to_thread(sluice, "reconcile", "--json", "--url", self.gateway.admin_url, *options)
        answer: list[dict[str, Any]] = json.loads(found.output)
        return answer

    async def mend(self) -> list[dict[str, Any]]:
        """The same as the command does, of which only one can run in a process."""
        url, headers = f"{self.gateway.admin_url}/admin/v1/reconcile", {"authorization": f"Bearer {ADMIN}"}
        async with aiohttp.ClientSession(headers=headers) as http, http.post(url) as response:
            found: list[dict[str, Any]] = (await response.json())["data"]
            return found

    async def spend(self, calls: int, model: str = "m") -> None:
        async with AsyncOpenAI(base_url=f"{self.gateway.url}/v1", api_key=KEY, max_retries=0) as sdk:
            for _ in range(calls):
                await sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": "one two"}])

    async def ask(self, model: str, **body: Any) -> int:
        """The status."""
        asked = {"model": model, "messages": [{"role": "user", "content": "one two"}], **body}
        headers = {"authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            async with http.post(f"{self.gateway.url}/v1/chat/completions", json=asked) as response:
                return response.status

    async def requests(self) -> tuple[int, int]:
        """Of the day, by the counter and by the report."""
        limits = self.limiter.limits_of(Owner(f"t:{self.name}", Limits(rpd=1000)), self.name)
        assert limits is not None
        (state,) = await self.limiter.engine.states(limits)
        (sums,) = await self.gateway.records.usage.report()
        return state.used, sums["requests"]

    async def push(self, amount: int) -> None:
        """Counters come to say so much more, or less, as by a Redis that came back with an old file."""
        limits = self._budget()
        self.limiter.engine.debit(f"push{amount}", limits, (0, 0, 0, 0, amount, 0))
        await asyncio.sleep(0.1)

    async def counter(self) -> tuple[int, int]:
        (state,) = await self.limiter.engine.states(self._budget())
        return state.used, state.reserved

    def _budget(self) -> LimitSet:
        limits = self.limiter.limits_of(Owner(f"t:{self.name}", Limits(budget=Budget(day=10))), self.name)
        assert limits is not None
        return limits


@pytest.fixture(params=["memory", "redis", "leases"])
async def reconciled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reconciled]:
    """Nobody dies here, so no row has to wait for an heir: what settles last is a lease, after 0.8 s."""
    monkeypatch.setattr(reconcile, "SETTLED_WITHIN", 1.0)
    name = f"reconciled-{request.param}-{uuid.uuid4().hex[:8]}"
    sections: dict[str, Any] = {
        "admin": {"keys": {"ops": ADMIN}},
        "auth": {"pepper": "p" * 32},
        "organizations": {name: {"limits": {"budget": {"month": 100}}}},
        "teams": {
            name: {
                "organization": name,
                "limits": {
                    "budget": {"day": 10, "total": 50},
                    "rpd": 1000,
                    "rpm": 5000,
                    "per_model": {
                        "broken": {"budget": {"day": 5}},
                        "m": {"budget": {"day": 5}},
                        "tight": {"budget": {"day": "0.000001"}},
                    },
                    "per_tier": {
                        tier: {"budget": {"day": 5}, "rpd": 1000, "tpd": 10**6}
                        for tier in ("default", "flex", "priority")
                    },
                },
            }
        },
        "keys": [{"name": name, "key": KEY, "team": name}],
    }
    if request.param != "memory":
        server: RedisServer = request.getfixturevalue("redis_server")
        sections["redis"] = {"url": server.url, "timeout": 2}
        sections["counters"] = {"hot_leases": request.param == "leases"}
    broken = {"deployments": [deployment("demo-500")], "fallbacks": {"any": ["m"]}}
    models = {
        "m": [deployment("demo-echo")],
        "slow": [deployment("demo-endless")],
        "broken": broken,
        "tight": [deployment("demo-ok")],
        "refused": {"deployments": [deployment("demo-500+retry_after=0")], "fallbacks": {"any": ["tight"]}},
        "failed": [deployment("demo-401")],
        "picky": [deployment("demo-ok", "anthropic")],
        "full": [deployment("demo-flex-refused", tiers=["flex"])],
        "silent": [deployment("demo-no-content", "anthropic")],
    }
    async with running(models, **sections) as (gateway, _):
        yield Reconciled(gateway, name)


async def test_counters_and_ledger_agree_and_are_mended_both_ways(reconciled: Reconciled) -> None:
    await reconciled.spend(3)
    assert await reconciled() == []
    spent, _ = await reconciled.counter()
    for amount in (-(spent // 2), spent + 7):
        await reconciled.push(amount)
        drift = await reconciled()
        assert [(d["scope"], d["limit"], d["counter"] - d["ledger"], d["mended"]) for d in drift] == [
            (f"t:{reconciled.name}", "budget.day", amount, False)
        ]
        assert [d["mended"] for d in await reconciled("--mend")] == [True]
        await asyncio.sleep(0.1)
        assert await reconciled() == []
        assert (await reconciled.counter())[0] == spent
    rows = await reconciled.gateway.records.audit.list()
    assert [(r["action"], r["target"]) for r in rows] == [("counter.mend", f"counter:t:{reconciled.name}")] * 2
    assert [r["after"] for r in rows] == [{"budget.day": spent}] * 2


async def test_two_mends_at_once_are_one(reconciled: Reconciled) -> None:
    """Say of a job that runs on every replica; together they gave half of the budget away."""
    await reconciled.spend(2)
    spent, _ = await reconciled.counter()
    for amount in (spent + 7, -(spent // 2)):
        await reconciled.push(amount)
        both = await asyncio.gather(reconciled.mend(), reconciled.mend())
        assert sum(d["mended"] for found in both for d in found) == 1
        await asyncio.sleep(0.1)
        assert (await reconciled.counter())[0] == spent
        assert await reconciled() == []


async def test_what_a_fallback_served_is_no_drift(reconciled: Reconciled) -> None:
    await reconciled.spend(2, "broken")
    assert await reconciled() == []
    await reconciled.gateway.records.usage.roll_up()
    assert await reconciled() == []
    assert (await reconciled.counter())[0] > 0


@pytest.mark.parametrize(
    ("model", "body", "status", "counts"),
    [
        ("refused", {}, 502, 1),  # its fallback's budget allows none
        ("failed", {}, 502, 1),
        ("failed", {"service_tier": "priority"}, 502, 1),
        ("picky", {"logprobs": True}, 400, 0),  # nothing was sent
        ("full", {"service_tier": "flex"}, 429, 0),
        ("silent", {"service_tier": "priority"}, 502, 1),  # billed as default: that provider has no other tier
    ],
)
async def test_what_nobody_answered_is_no_drift(
    reconciled: Reconciled, model: str, body: dict[str, Any], status: int, counts: int
) -> None:
    assert await reconciled.ask(model, **body) == status
    assert await reconciled() == []
    assert await reconciled.requests() == (counts, counts)


async def test_what_is_under_way_is_no_drift(reconciled: Reconciled) -> None:
    """Requests all the while, one of them open: nothing is seen, nothing is mended, and all adds up afterwards."""
    async with AsyncOpenAI(base_url=f"{reconciled.gateway.url}/v1", api_key=KEY, max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(
            model="slow", messages=[{"role": "user", "content": "x"}], stream=True, max_completion_tokens=1000
        )
        await anext(aiter(stream))
        spending = asyncio.create_task(reconciled.spend(10_000))
        assert await reconciled("--mend") == []
        _, reserved = await reconciled.counter()
        await reconciled.push(extra := 2_000_000_000)  # far more than what is open
        assert reserved < extra
        (mended,) = await reconciled("--mend")
        assert 0 < mended["counter"] - mended["ledger"] <= extra
        spending.cancel()
        await asyncio.gather(spending, return_exceptions=True)
        await stream.close()
    await asyncio.sleep(1.5)
    await reconciled("--mend")  # what could not be told while it was open
    await asyncio.sleep(0.1)
    assert await reconciled() == []
    report = await reconciled.gateway.records.usage.report()
    assert await reconciled.counter() == (report[0]["cost"], 0)

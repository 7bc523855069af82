"""What budgets of a model or a tier begin with after a restart or a death, where another one was asked for."""

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import pytest

from gateway import demo
from gateway.app import Gateway, build
from gateway.limits import State
from gateway.limits.rules import NAMES
from gateway.records.ledger import Ledger
from gateway.records.rows import unfinished_row
from gateway.records.tables import LEDGER_COLUMNS

from .running import KEY, configuration, deployment, running
from .test_metering import LIMITS, ask, keys, priced, rows


async def test_a_restart_resets_no_budget_of_a_tier_that_serves_another_first() -> None:
    """The first request of each start asks for priority and is served as default."""
    upstream = await demo.start()
    folder = tempfile.mkdtemp(prefix="sluice-test-")
    limits = keys(**LIMITS, per_tier={"default": {"budget": {"day": 1}}})
    try:
        for _ in range(3):
            gateway = await build(configuration(upstream.url, folder, {"m": "demo-downgraded"}, keys=limits))
            await gateway.start()
            try:
                for tier in ("priority", "default"):
                    status, _, body = await ask(gateway, service_tier=tier, max_tokens=20)
                    assert (status, json.loads(body)["service_tier"]) == (200, "default")
                spent = sum(row["cost"] for row in await rows(gateway))
                assert await borne(gateway) == {"k:test": spent, "k:test|s:default": spent}
            finally:
                await gateway.close()
    finally:
        await upstream.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("how", ["fallback", "cheaper"])
async def test_a_restart_resets_no_budget_of_a_model_that_serves_instead(how: str) -> None:
    """And charges nothing of it to the model that was asked for."""
    upstream = await demo.start()
    folder = tempfile.mkdtemp(prefix="sluice-test-")
    instead: dict[str, Any] = {"cheaper": "b"} if how == "cheaper" else {"fallbacks": {"any": ["b"]}}
    models = {"m": {"deployments": [deployment("demo-500")], **instead}, "b": "demo-long"}
    little = 0.000001 if how == "cheaper" else 1
    limits = {**LIMITS, "per_model": {"m": {"budget": {"day": little}}, "b": {"rpd": 3, "budget": {"day": 1}}}}
    caller = [{"name": "test", "key": KEY, "limits": limits, "allow_cheaper": True}]
    try:
        for generation in range(4):
            gateway = await build(configuration(upstream.url, folder, models, keys=caller))
            await gateway.start()
            try:
                status, headers, _ = await ask(gateway, max_tokens=100)
                assert (status == 200) == (headers.get("x-sluice-fallback") == "b") == (generation < 3)
                served = [e for e in upstream.journal if e.model == "demo-long"]
                assert await borne(gateway) == {"k:test": priced(served), "k:test|m:b": priced(served), "k:test|m:m": 0}
                assert priced(served) > 0
            finally:
                await gateway.close()
    finally:
        await upstream.close()
        shutil.rmtree(folder, ignore_errors=True)


async def test_what_dies_under_a_fallback_is_charged_to_it() -> None:
    models = {
        "m": {"deployments": [deployment("demo-500")], "fallbacks": {"any": ["b"]}},
        "b": [deployment("demo-slow+delay=9")],
    }
    limits = {**LIMITS, "per_model": {"b": {"budget": {"day": 1}}}}
    async with running(models, keys=keys(**limits)) as (gateway, upstream):
        asking = asyncio.create_task(ask(gateway, max_tokens=100))
        while len(upstream.journal) < 2:
            await asyncio.sleep(0.01)
        ledger = gateway.records.ledger
        assert isinstance(ledger, Ledger)
        (noted,) = ledger._open.values()
        row = dict(zip(LEDGER_COLUMNS, unfinished_row(json.loads(noted)[2]), strict=True))
        assert (row["model"], row["fallback"]) == ("m", "b")
        assert row["cost"] == next(s.reserved for s in await every(gateway) if s.limit.scope == "k:test|m:b") > 0
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def every(gateway: Gateway) -> Sequence[State]:
    """Where all limits of the key stand, those per model too."""
    principal = await gateway.pipeline.auth.authenticate(KEY, time.time())
    return await gateway.pipeline.meter.limiter.usage(principal.owners[0], principal.organization)


async def borne(gateway: Gateway) -> dict[str, int]:
    """What each daily budget of the key says is spent."""
    return {s.limit.scope: s.used for s in await every(gateway) if NAMES[s.limit.field] == "budget.day"}

"""Served, reported, recorded and billed are the same tier: every dialect that has tiers, streamed and not, and mixed."""

import asyncio
import itertools
import random
import time
from typing import Any

import pytest

from gateway.app import Gateway

from .running import KEY, running
from .test_metering import rows
from .test_tiers import TIERED, post
from .tiered_upstreams import ANSWER, DIALECTS, PROMPT, tiered

ASKED = (None, "auto", "default", "flex", "priority", "fast")
MULTIPLIERS = {"default": 2, "flex": 1, "priority": 4}
"""Halves of the price."""


def setting(url: str) -> dict[str, Any]:
    """A provider and a model for each dialect; every deployment declares its tiers, so they may be sent."""
    providers = {
        name: {"adapter": d.adapter, "base_url": f"{url}/{name}", "api_key": "key", "options": d.options}
        for name, d in DIALECTS.items()
    }
    models: dict[str, Any] = {}
    for name, d in DIALECTS.items():
        served = {"provider": name, "model": "m", "price": TIERED}
        if d.own:
            models[name] = {"deployments": [served], "queue": {"capacity": 100}}
        else:
            models[name] = [{**served, "tiers": sorted(set(d.words.values()) | {"default"})}]
    return {"providers": providers, "models": models}


LIMITS = {"per_tier": {tier: {"rpd": 10_000, "tpd": 1_000_000, "budget": {"day": 100}} for tier in MULTIPLIERS}}


async def counted(gateway: Gateway) -> dict[str, tuple[int, int, int]]:
    """Tier -> requests, tokens and nano-dollars that the key's limits of that tier have counted."""
    principal = await gateway.pipeline.auth.authenticate(KEY, time.time())
    found = await gateway.pipeline.meter.limiter.usage(principal.owners[0], principal.organization)
    used = {(s.limit.scope.rpartition(":")[2], s.limit.field): s for s in found}
    return {t: (used[t, "R"].used, used[t, "T"].used, used[t, "$d"].used) for t in MULTIPLIERS}


def metered(gateway: Gateway, name: str, tier: str, **labels: str) -> float:
    """The sum of a counter's children of a tier."""
    samples = [s for metric in gateway.registry.collect() for s in metric.samples if s.name == name]
    key = "served" if name == "sluice_tier_served_total" else "tier"
    wanted = {key: tier, **labels}
    return sum(s.value for s in samples if wanted.items() <= s.labels.items())


async def recorded(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """The last row of every call."""
    found = sorted(await rows(gateway), key=lambda row: row["attempt"])
    return {row["request_id"]: row for row in found}


@pytest.mark.parametrize("seed", [1, 2])
async def test_C_476_what_served_is_what_is_told_recorded_and_billed(seed: int) -> None:
    rng = random.Random(seed)

    def decide(name: str, asked: str) -> str | None:
        if DIALECTS[name].own:
            return asked
        if asked == "flex":
            return None if rng.random() < 0.5 else "flex"
        return "default" if asked == "priority" and rng.random() < 0.3 else asked

    async with tiered(decide) as upstreams:
        parts = setting(upstreams.url)
        keys = [{"name": "a", "key": KEY, "limits": LIMITS}]
        async with running(parts["models"], providers=parts["providers"], keys=keys) as (gateway, _):
            every = [*itertools.product(DIALECTS, ASKED, (False, True))] * 3
            rng.shuffle(every)
            asks = [(f"mark-{i:04}", *one) for i, one in enumerate(every)]

            async def ask(mark: str, name: str, tier: str | None, stream: bool) -> tuple[str, Any]:
                more = {"service_tier": tier} if tier else {}
                messages = [{"role": "user", "content": mark}]
                return name, await post(gateway, KEY, model=name, stream=stream, messages=messages, **more)

            answers = []
            for start in range(0, len(asks), 30):
                answers += await asyncio.gather(*(ask(*a) for a in asks[start : start + 30]))
            known = await recorded(gateway)
            by_tier = await counted(gateway)
            told_by_metrics = {
                tier: (
                    metered(gateway, "sluice_tier_served_total", tier),
                    metered(gateway, "sluice_tokens_total", tier),
                    round(metered(gateway, "sluice_cost_usd_total", tier) * 10**9),
                )
                for tier in MULTIPLIERS
            }
    compared, sums = 0, {tier: [0, 0, 0] for tier in MULTIPLIERS}
    for (mark, name, tier, stream), (_, (status, headers, bodies)) in zip(asks, answers, strict=True):
        row = known.get(headers["x-request-id"])
        if status != 200:
            assert tier == "flex", (name, tier, status, bodies)
            if status == 400:  # this provider has no flex
                assert "flex" not in DIALECTS[name].words.values()
            else:
                assert (status, bodies[0]["error"]["code"]) == (429, "resource_unavailable"), (name, bodies)
                assert row is not None
                assert row["cost"] == 0
            continue
        served = upstreams.served[mark]
        if name == "fireworks":  # which never tells: what was accepted has served
            served = "priority" if tier in ("priority", "fast") else "default"
        told = {b["service_tier"] for b in bodies[-1:] if stream and DIALECTS[name].late} or {
            b["service_tier"] for b in bodies
        }
        assert told == {served}, (name, tier, stream)
        assert row is not None
        assert row["tier_served"] == served, (name, tier, stream)
        assert row["tier_requested"] == (tier or "")
        assert row["cost"] == (PROMPT * 2000 + ANSWER * 8000) * MULTIPLIERS[served] // 2
        for position, amount in enumerate((1, PROMPT + ANSWER, row["cost"])):
            sums[served][position] += amount
        downgraded = tier in ("priority", "fast") and served == "default"
        if not DIALECTS[name].late or not stream:
            assert ("x-sluice-tier-downgrade" in headers) == downgraded, (name, tier, stream)
        compared += 1
    assert compared > 400
    assert {tier: tuple(amounts) for tier, amounts in sums.items()} == by_tier == told_by_metrics

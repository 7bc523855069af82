"""Service tiers: who may have which, and that what is told and billed is what served."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from config.schema import TierPolicy
from gateway import demo
from gateway.app import Gateway
from gateway.call import Owner, Principal
from gateway.demo.scripts import Script
from gateway.errors import InvalidRequest
from gateway.tiers import effective

from .running import KEY, PRICE, deployment, running


@asynccontextmanager
async def demo_started() -> AsyncIterator[demo.DemoUpstream]:
    upstream = await demo.start()
    try:
        yield upstream
    finally:
        await upstream.close()


def whose(*policies: dict[str, Any]) -> Principal:
    return Principal("k", "o", owners=tuple(Owner(f"x{i}", tiers=TierPolicy(**p)) for i, p in enumerate(policies)))


@pytest.mark.parametrize(
    ("asked", "policies", "tier"),
    [
        (None, [], "default"),
        ("auto", [], "default"),
        ("flex", [], "flex"),
        ("fast", [], "priority"),
        (None, [{"default": "flex"}, {"default": "priority"}], "flex"),
        (None, [{}, {"default": "priority"}], "priority"),
        (None, [{"default": "priority"}, {"max": "default"}], "default"),
        ("auto", [{"default": "auto"}], "default"),
        ("auto", [{"allowed": ("flex",)}], "flex"),
        ("priority", [{"allowed": ("flex", "default"), "on_denied": "downgrade"}], "default"),
        ("priority", [{"max": "flex", "on_denied": "downgrade"}], "flex"),
        ("flex", [{"allowed": ("default", "priority"), "on_denied": "downgrade"}], "default"),
        ("ultrafast", [{}, {"max": "priority", "on_denied": "downgrade"}], "priority"),
    ],
)
def test_the_narrowest_default_and_every_ceiling(asked: str | None, policies: list[dict[str, Any]], tier: str) -> None:
    assert effective({"messages": [], "service_tier": asked}, whose(*policies)) == tier


@pytest.mark.parametrize(
    "policies", [[{"allowed": ("default",)}], [{}, {"max": "default"}], [{"on_denied": "reject", "max": "flex"}]]
)
def test_C_398_an_explicit_tier_above_the_policy_is_refused(policies: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        effective({"messages": [], "service_tier": "priority"}, whose(*policies))
    assert caught.value.param == "service_tier"
    assert caught.value.message.startswith("Invalid service_tier argument")


FLEX = {"tiers": ["default", "flex", "priority"]}
TIERED = {**PRICE, "tiers": {"flex": 0.5, "priority": 2}}


async def post(gateway: Gateway, key: str = KEY, **body: Any) -> tuple[int, Mapping[str, str], list[dict[str, Any]]]:
    """Status, headers and every JSON body: the completion, or all chunks of the stream."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}
    async with aiohttp.ClientSession() as http:
        headers = {"authorization": f"Bearer {key}"}
        async with http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as response:
            text = await response.text()
            if not body.get("stream") or response.status != 200:
                return response.status, response.headers, [json.loads(text)]
            events = [e.removeprefix("data: ") for e in text.split("\n\n") if e]
            return response.status, response.headers, [json.loads(e) for e in events if e != "[DONE]"]


def model(script: str, provider: str = "openai", **more: Any) -> list[dict[str, Any]]:
    return [deployment(script, provider, **{"price": TIERED, **more})]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("relayed", [False, True])
@pytest.mark.parametrize("told", ["auto", "", "batch"])
async def test_C_472_C_473_every_chunk_names_the_tier_that_served(stream: bool, relayed: bool, told: str) -> None:
    """A custom address that was told nothing, and tells nothing that is a tier: default, never auto."""
    providers = {"other": {"adapter": "openai", "base_url": "", "options": {"relay": relayed}}}
    async with demo_started() as upstream:
        providers["other"]["base_url"] = upstream.openai_url
        upstream.scripts["x"] = Script(tier=told, chunks=4) if told else Script(chunks=4, tier="null")
        async with running({"m": model("x", "other")}, providers=providers) as (gateway, _):
            status, headers, bodies = await post(gateway, stream=stream, service_tier="priority")
    assert status == 200
    assert {b["service_tier"] for b in bodies} == {"default"}
    assert headers["x-sluice-tier-downgrade"] == "unsupported"


@pytest.mark.parametrize("stream", [False, True])
async def test_C_467_C_476_a_tier_that_was_not_served_is_neither_told_nor_billed(stream: bool) -> None:
    models = {"m": model("demo-downgraded", **FLEX), "n": model("demo-ok", **FLEX)}
    async with running(models) as (gateway, _):
        _, headers, bodies = await post(gateway, service_tier="fast", stream=stream)
        assert {b["service_tier"] for b in bodies} == {"default"}
        assert headers["x-sluice-tier-downgrade"] == "capacity"
        _, headers, bodies = await post(gateway, model="n", service_tier="fast", stream=stream)
        assert {b["service_tier"] for b in bodies} == {"priority"}
        assert "x-sluice-tier-downgrade" not in headers
        cost = [
            gateway.registry.get_sample_value(
                "sluice_cost_usd_total", {"model": m, "deployment": f"openai/{d}", "tier": tier}
            )
            for m, d, tier in (("m", "demo-downgraded", "default"), ("n", "demo-ok", "priority"))
        ]
    assert cost[0] is not None
    assert cost[1] == 2 * cost[0]


async def test_C_463_flex_where_there_is_none_is_refused_unless_the_key_has_a_fallback() -> None:
    keys = [
        {"name": "a", "key": KEY},
        {"name": "b", "key": KEY + "b", "tiers": {"flex_fallback": "default"}},
        {"name": "c", "key": KEY + "c", "tiers": {"default": "flex"}},
    ]
    async with running({"m": model("demo-ok", "anthropic")}, keys=keys) as (gateway, _):
        status, _, (body,) = await post(gateway, service_tier="flex")
        assert (status, body["error"]["param"]) == (400, "service_tier")
        for key in (KEY + "b", KEY + "c"):
            status, _, (body,) = await post(gateway, key, service_tier="flex" if key[-1] == "b" else "auto")
            assert (status, body["service_tier"]) == (200, "default")


async def test_priority_over_its_limit_runs_as_default_and_says_so() -> None:
    keys = [{"name": "a", "key": KEY, "limits": {"per_tier": {"priority": {"rpm": 1}, "default": {"rpm": 2}}}}]
    async with running({"m": model("demo-ok", **FLEX)}, keys=keys) as (gateway, _):
        seen = [await post(gateway, service_tier="priority") for _ in range(4)]
    assert [s for s, _, _ in seen] == [200, 200, 200, 429]
    assert [b[0].get("service_tier") for _, _, b in seen] == ["priority", "default", "default", None]
    assert [h.get("x-sluice-tier-downgrade") for _, h, _ in seen] == [None, "limit", "limit", None]


async def test_limits_count_the_tier_that_served() -> None:
    keys = [{"name": "a", "key": KEY, "limits": {"per_tier": {"priority": {"rpd": 1}, "default": {"rpd": 2}}}}]
    async with running({"m": model("demo-downgraded", **FLEX)}, keys=keys) as (gateway, _):
        seen = [await post(gateway, service_tier="priority") for _ in range(2)]
        assert [h["x-sluice-tier-downgrade"] for _, h, _ in seen] == ["capacity"] * 2
        assert (await post(gateway))[0] == 429  # both were default, so default's two are used up

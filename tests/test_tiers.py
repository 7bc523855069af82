"""Service tiers: who may have which, and that what is told and billed is what served."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from config import Config
from config.schema import TierPolicy
from gateway import demo, tiers
from gateway.app import Gateway
from gateway.call import Owner, Principal
from gateway.demo.scripts import Script
from gateway.deployments import routes
from gateway.errors import InvalidRequest
from gateway.scheduler import Scheduler
from gateway.tiers import effective

from .running import KEY, PRICE, configuration, deployment, running
from .test_metering import rows
from .test_pools import until


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
        ("ultrafast", [{"on_denied": "downgrade"}, {"max": "priority"}], "priority"),
        ("ultrafast", [{"on_denied": "downgrade"}, {"max": "priority", "on_denied": "reject"}], "priority"),
    ],
)
def test_the_narrowest_default_and_every_ceiling(asked: str | None, policies: list[dict[str, Any]], tier: str) -> None:
    assert effective({"messages": [], "service_tier": asked}, whose(*policies)) == tier


@pytest.mark.parametrize(
    "policies",
    [
        [{"allowed": ("default",)}],
        [{}, {"max": "default"}],
        [{"on_denied": "reject", "max": "flex"}],
        [{"on_denied": "reject"}, {"max": "default", "on_denied": "downgrade"}],
    ],
)
def test_C_398_an_explicit_tier_above_the_policy_is_refused(policies: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        effective({"messages": [], "service_tier": "priority"}, whose(*policies))
    assert caught.value.param == "service_tier"
    assert caught.value.message.startswith("Invalid service_tier argument")


def test_the_page_s_policies_do_what_its_table_says() -> None:
    page = (Path(__file__).parents[1] / "docs" / "service-tiers.md").read_text().partition("## Who may have what")[2]
    teams, organizations = itemgetter("teams", "organizations")(
        yaml.safe_load(page.split("```")[1].removeprefix("yaml"))
    )

    def runs(team: str, asked: str | None) -> str | None:
        try:
            return effective(
                {"messages": [], "service_tier": asked}, whose(teams[team]["tiers"], organizations["acme"]["tiers"])
            )
        except InvalidRequest:
            return None

    asked = (None, "auto", "default", "flex", "priority", "fast", "ultrafast")
    assert [runs("batch", tier) for tier in asked] == ["flex", "flex", "default", "flex", None, None, None]
    assert [runs("product", tier) for tier in asked] == ["default", "default", "default", "flex", *["priority"] * 3]


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
        {"name": "d", "key": KEY + "d", "tiers": {"allowed": ["flex"]}},
        {"name": "e", "key": KEY + "e", "tiers": {"max": "flex", "on_denied": "downgrade"}},
    ]
    async with running({"m": model("demo-ok", "anthropic")}, keys=keys) as (gateway, upstream):
        for key, tier in ((KEY, "flex"), (KEY + "d", "auto"), (KEY + "e", "auto"), (KEY + "e", "priority")):
            status, _, (body,) = await post(gateway, key, service_tier=tier)
            assert (status, body["error"]["param"]) == (400, "service_tier"), "nothing is upgraded silently"
        assert not upstream.journal
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


QUEUE = {"capacity": 1, "min_capacity": 1, "wait_priority": 5, "wait_default": 5, "max_queue": 10}


def pool_of(gateway: Gateway) -> Scheduler:
    return gateway.pipeline.meter.pools.all["m"].scheduler


def pooled(script: str, **queue: Any) -> dict[str, Any]:
    return {"deployments": model(script), "queue": {**QUEUE, **queue}}


@pytest.mark.parametrize("stream", [False, True])
async def test_C_479_the_gateways_own_tiers_are_told_billed_and_released(stream: bool) -> None:
    async with running({"m": pooled("demo-ok+delay=0.3")}) as (gateway, _):
        for tier in ("priority", "flex", "default"):
            status, headers, bodies = await post(gateway, service_tier=tier, stream=stream)
            assert status == 200
            assert {b["service_tier"] for b in bodies} == {tier}
            assert "x-sluice-tier-downgrade" not in headers
        first = asyncio.ensure_future(post(gateway, stream=stream))
        await until(lambda: pool_of(gateway).in_flight == 1)
        status, headers, (body,) = await post(gateway, service_tier="flex")
        assert (status, body["error"]["code"]) == (429, "resource_unavailable")
        assert float(headers["retry-after-ms"]) > 1000
        assert (await post(gateway))[0] == 200  # default waits for the first to end
        assert (await first)[0] == 200
        assert pool_of(gateway).in_flight == 0


async def test_priority_that_finds_no_place_in_time_queues_as_default_and_says_so() -> None:
    models = {"m": pooled("demo-ok+delay=0.6", wait_priority=0.1, wait_default=5)}
    async with running(models) as (gateway, _):
        first = asyncio.ensure_future(post(gateway, service_tier="priority"))
        await until(lambda: pool_of(gateway).in_flight == 1)
        status, headers, (body,) = await post(gateway, service_tier="priority")
        assert (status, body["service_tier"]) == (200, "default")
        assert headers["x-sluice-tier-downgrade"] == "capacity"
        assert (await first)[2][0]["service_tier"] == "priority"


async def test_a_client_that_leaves_the_queue_takes_no_place() -> None:
    async with running({"m": pooled("demo-ok+delay=0.6")}) as (gateway, upstream):
        first = asyncio.ensure_future(post(gateway))
        await until(lambda: pool_of(gateway).in_flight == 1)
        second = asyncio.ensure_future(post(gateway))
        await until(lambda: pool_of(gateway).waiting == (0, 1, 0))
        second.cancel()
        assert (await first)[0] == 200
        await until(lambda: (pool_of(gateway).in_flight, pool_of(gateway).waiting) == (0, (0, 0, 0)))
        assert len(upstream.journal) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_C_464_C_465_refused_flex_is_free_waits_and_falls_back_only_where_its_owner_wants_that(
    stream: bool,
) -> None:
    keys = [
        {"name": "a", "key": KEY, "limits": {"rpm": 2}},
        {"name": "b", "key": KEY + "b", "tiers": {"flex_fallback": "default"}},
        {"name": "c", "key": KEY + "c", "tiers": {"flex_wait": 30}},
    ]
    models = {"m": model("demo-flex-refused", **FLEX), "w": model("x", **FLEX)}
    async with running(models, keys=keys) as (gateway, upstream):
        for _ in range(4):  # more often than rpm allows: refused flex does not count
            status, headers, (body,) = await post(gateway, service_tier="flex", stream=stream)
            assert (status, body["error"]["code"]) == (429, "resource_unavailable")
            assert float(headers["retry-after"]) > 0
        status, _, bodies = await post(gateway, KEY + "b", service_tier="flex", stream=stream)
        assert status == 200
        assert {b["service_tier"] for b in bodies} == {"default"}
        upstream.scripts["x"] = Script(refuse_tier="flex")
        waiting = asyncio.ensure_future(post(gateway, KEY + "c", model="w", service_tier="flex", stream=stream))
        await asyncio.sleep(0.2)
        upstream.scripts["x"] = Script()
        status, _, bodies = await waiting
        assert status == 200
        assert {b["service_tier"] for b in bodies} == {"flex"}
        assert (await post(gateway))[0] == 200


SCOPES = ("key", "user", "team", "organization")


def owned(on_denied: str) -> tuple[dict[str, Any], list[tuple[str, str, dict[str, Any], dict[str, str]]]]:
    """A key for each scope and policy, with owners of its own; (key, scope, policy, what it downgrades)."""
    parts: dict[str, Any] = {"organizations": {}, "teams": {}, "users": {}, "keys": []}
    cases = []
    for scope in SCOPES:
        for number, (policy, downgraded) in enumerate(POLICIES):
            name, key = f"{scope}{number}", f"{KEY}-{scope}{number}"
            tiers = {s: {"tiers": {**policy, "on_denied": on_denied}} if s == scope else {} for s in SCOPES}
            parts["organizations"][f"o-{name}"] = tiers["organization"]
            parts["teams"][f"t-{name}"] = {"organization": f"o-{name}", **tiers["team"]}
            parts["users"][f"u-{name}"] = {"team": f"t-{name}", **tiers["user"]}
            owners = {"team": f"t-{name}", "user": f"u-{name}"}
            parts["keys"].append({"name": name, "key": key, **owners, **tiers["key"]})
            cases.append((key, scope, policy, downgraded))
    return parts, cases


DEARER = ("priority", "fast", "scale", "ultrafast")
POLICIES: tuple[tuple[dict[str, Any], dict[str, str]], ...] = (
    ({"allowed": ["default"]}, {**dict.fromkeys(DEARER, "default"), "flex": "default"}),
    ({"allowed": ["flex", "default"]}, dict.fromkeys(DEARER, "default")),
    ({"max": "default"}, dict.fromkeys(DEARER, "default")),
    ({"max": "flex"}, dict.fromkeys((*DEARER, "auto", "default"), "flex")),
    ({"default": "priority", "max": "priority"}, {"auto": "priority", "ultrafast": "priority"}),
    ({"default": "priority", "allowed": ["default", "flex"]}, dict.fromkeys(DEARER, "default")),
    ({"default": "ultrafast", "max": "scale"}, {"auto": "scale", **dict.fromkeys(("priority", "fast", "ultrafast"), "scale")}),
    ({"default": "flex"}, {"auto": "flex"}),
)  # fmt: skip
"""A policy, and what each requested tier runs at where the policy downgrades; others stay as they are."""
EVERY_TIER = {"tiers": ["default", "flex", "scale", "priority", "ultrafast"]}


@pytest.mark.parametrize("on_denied", ["reject", "downgrade"])
async def test_C_469_C_470_C_471_C_474_entitlement_by_scope_tier_policy_and_streaming(on_denied: str) -> None:
    parts, cases = owned(on_denied)
    async with running({"m": model("demo-ok", **EVERY_TIER)}, **parts) as (gateway, _):
        for key, scope, policy, downgraded in cases:
            for asked in (None, "auto", "default", "flex", *DEARER):
                as_it_is = {None: "default", "auto": "default", "fast": "priority"}.get(asked, asked)
                expected = downgraded.get(asked or "auto", as_it_is)
                denied = on_denied == "reject" and asked not in (None, "auto") and expected != as_it_is
                for stream in (False, True):
                    where = (scope, policy, asked, stream)
                    status, headers, bodies = await post(gateway, key, stream=stream, service_tier=asked)
                    if denied:
                        assert (status, bodies[0]["error"]["param"]) == (400, "service_tier"), where
                    else:
                        assert (status, {b["service_tier"] for b in bodies}) == (200, {expected}), where
                        assert "x-sluice-tier-downgrade" not in headers, where  # the policy's word, not a want of it


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("limit", [{"rpd": 1}, {"tpd": 300}, {"budget": {"day": 1}}])
async def test_limits_and_budgets_of_a_tier_hold_for_it_alone_at_every_scope(scope: str, limit: dict[str, Any]) -> None:
    """The second request at a tier is one too many: dear ones run as default and say so, default and flex get 429."""
    enough_for_one = {"flex": 0.0042, "ultrafast": 0.0045, "priority": 0.009}  # US dollars
    of_tier = {t: {"budget": {"day": money}} if "budget" in limit else limit for t, money in enough_for_one.items()}
    limits = {"limits": {"per_tier": of_tier}}
    owners = {s: limits if s == scope else {} for s in SCOPES}
    parts = {
        "organizations": {"o": owners["organization"]},
        "teams": {"t": {"organization": "o", **owners["team"]}},
        "users": {"u": {"team": "t", **owners["user"]}},
        "keys": [{"name": "k", "key": KEY, "team": "t", "user": "u", **owners["key"]}],
    }
    async with running({"m": model("demo-ok+chunks=200", **EVERY_TIER)}, **parts) as (gateway, _):
        for tier in ("priority", "ultrafast", "flex"):
            for stream in (False, True):
                first = stream is False
                status, headers, bodies = await post(gateway, stream=stream, service_tier=tier, max_tokens=200)
                if first:
                    assert (status, bodies[0]["service_tier"]) == (200, tier)
                elif tier == "flex":
                    assert status == 429
                else:
                    assert (status, {b["service_tier"] for b in bodies}) == (200, {"default"})
                    assert headers["x-sluice-tier-downgrade"] == "limit"
        assert (await post(gateway, service_tier="scale", max_tokens=200))[2][0]["service_tier"] == "scale"


def test_tiers_that_only_some_accounts_have_are_sent_where_a_deployment_declares_them() -> None:
    names = ("mistral", "openrouter", "cerebras", "groq")
    for declared in (None, ["default", "priority"]):
        more = {"tiers": declared} if declared else {}
        document = {
            "providers": {name: {"adapter": name, "api_key": "k"} for name in names},
            "models": {name: {"deployments": [{"provider": name, "model": "m", **more}]} for name in names},
        }
        made = routes(Config.model_validate(document))
        sent = [tiers.attempt(made[name].deployments[0], "priority").sent for name in names]
        assert sent == ([None, None, None, "priority"] if declared is None else ["priority"] * 4)
        assert tiers.attempt(made["cerebras"].deployments[0], "flex").sent is None


def test_C_466_flex_has_a_quarter_of_an_hour_and_every_tier_its_own_time_outs() -> None:
    chosen = {"deployments": model("demo-ok", **FLEX), "timeouts_per_tier": {"priority": {"first_byte": 7}}}
    config = configuration("http://127.0.0.1:1", "/nowhere", {"m": chosen})
    (made,) = routes(config)["m"].deployments
    assert made.timeouts.response == 600
    assert (made.tier_timeouts["flex"].first_byte, made.tier_timeouts["flex"].response) == (900, 900)
    assert (made.tier_timeouts["priority"].first_byte, made.tier_timeouts["priority"].response) == (7, 600)


async def test_a_tiers_time_out_holds_for_its_attempts_only() -> None:
    chosen = {
        "deployments": model("demo-ok+delay=0.5", **FLEX),
        "timeouts_per_tier": {"priority": {"first_byte": 0.1, "response": 0.1}},
    }
    async with running({"m": chosen}, retries={"attempts": 1}) as (gateway, _):
        assert (await post(gateway, service_tier="priority"))[0] == 504
        assert (await post(gateway, service_tier="default"))[0] == 200


@pytest.mark.parametrize(("adapter", "numbers"), [("vllm", (-10, 0, 10)), ("sglang", (10, 0, -10))])
async def test_servers_that_schedule_by_a_number_are_told_one(adapter: str, numbers: tuple[int, int, int]) -> None:
    async with demo_started() as upstream:
        provider = {"adapter": adapter, "base_url": upstream.openai_url, "options": {"send_priority": True}}
        providers = {"own": provider, "plain": {**provider, "options": {}}}
        models = {
            "m": {"deployments": model("demo-ok", "own"), "queue": QUEUE},
            "p": {"deployments": model("demo-ok", "plain"), "queue": QUEUE},
        }
        async with running(models, providers=providers) as (gateway, _):
            for tier in ("priority", "default", "flex"):
                _, headers, (body,) = await post(gateway, service_tier=tier)
                assert body["service_tier"] == tier
                assert "x-sluice-dropped-params" not in headers
            await post(gateway, model="p", service_tier="priority")
        asked = [entry.body.get("priority") for entry in upstream.journal]
        assert all("service_tier" not in entry.body for entry in upstream.journal)
    assert asked == [*numbers, None]


async def test_tiers_are_counted() -> None:
    models = {"m": pooled("demo-ok+delay=0.6"), "n": model("demo-downgraded", **FLEX)}
    async with running(models) as (gateway, _):
        first = asyncio.ensure_future(post(gateway))
        await until(lambda: pool_of(gateway).in_flight == 1)
        waiting = asyncio.ensure_future(post(gateway, service_tier="priority"))
        await until(lambda: pool_of(gateway).waiting == (1, 0, 0))
        value = gateway.registry.get_sample_value
        async with aiohttp.ClientSession() as http, http.get(f"{gateway.admin_url}/metrics") as response:
            lines = (await response.text()).splitlines()
        assert 'sluice_queue_in_flight{class="default",model="m"} 1.0' in lines
        assert 'sluice_queue_waiting{class="priority",model="m"} 1.0' in lines
        assert 'sluice_queue_capacity{model="m"} 1.0' in lines
        await post(gateway, service_tier="flex")
        await asyncio.gather(first, waiting)
        await post(gateway, model="n", service_tier="fast")
        assert value("sluice_queue_shed_total", {"model": "m", "tier": "flex"}) == 1
        assert value("sluice_tier_refused_total", {"model": "m"}) == 1
        assert (value("sluice_queue_wait_seconds_sum", {"model": "m", "tier": "priority"}) or 0) > 0.05
        served = {"model": "n", "requested": "fast", "effective": "priority", "served": "default"}
        assert value("sluice_tier_served_total", served) == 1
        assert value("sluice_tier_downgrades_total", {"model": "n", "effective": "priority", "reason": "capacity"}) == 1


async def test_every_end_of_a_request_gives_its_place_back() -> None:
    """Failures before and inside streams, refusals, time-outs, clients that leave at any moment: no slot is lost."""
    scripts = ("demo-ok", "demo-cut", "demo-500", "demo-429", "demo-error-late", "demo-no-content", "demo-invalid",
               "demo-slow+delay=0.3", "demo-endless", "demo-refused")  # fmt: skip
    queue = {**QUEUE, "capacity": 20, "wait_default": 1, "max_queue": 15}
    models = {
        script: {"deployments": model(script, timeouts={"first_byte": 0.2, "response": 0.2}), "queue": queue}
        for script in scripts
    }
    async with running(models, retries={"attempts": 2}) as (gateway, _):
        rng = random.Random(3)

        async def one(number: int) -> None:
            script, tier = scripts[number % len(scripts)], rng.choice(("default", "flex", "priority"))
            asked = asyncio.ensure_future(
                post(gateway, model=script, stream=rng.random() < 0.7, service_tier=tier, n=1)
            )
            await asyncio.wait([asked], timeout=rng.uniform(0.005, 0.5))
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

        await asyncio.gather(*(one(i) for i in range(150)))
        schedulers = [pool.scheduler for pool in gateway.pipeline.meter.pools.all.values()]
        for _ in range(100):
            if not any(s.in_flight or any(s.waiting) for s in schedulers):
                break
            await asyncio.sleep(0.02)
        assert [(s.running, s.waiting) for s in schedulers] == [([0, 0, 0], (0, 0, 0))] * len(schedulers)
        assert all(s.capacity.limit >= 1 for s in schedulers)


async def test_flex_that_waits_asks_the_model_that_was_asked_for_again_though_its_fallback_refused_too() -> None:
    keys = [{"name": "c", "key": KEY, "tiers": {"flex_wait": 20}}]
    asked = {"deployments": model("x", **FLEX), "fallbacks": {"overloaded": ["b"]}}
    async with running({"m": asked, "b": model("y", **FLEX)}, keys=keys) as (gateway, upstream):
        upstream.scripts["x"] = upstream.scripts["y"] = Script(refuse_tier="flex")
        waiting = asyncio.create_task(post(gateway, service_tier="flex"))
        await asyncio.sleep(0.3)
        upstream.scripts["x"] = Script()
        status, headers, (body,) = await asyncio.wait_for(waiting, 8)
    assert (status, body["service_tier"]) == (200, "flex")
    assert "x-sluice-fallback" not in headers


async def test_a_fallback_that_could_not_serve_flex_leaves_the_tier_as_it_was() -> None:
    keys = [{"name": "c", "key": KEY, "tiers": {"flex_wait": 20, "flex_fallback": "default"}}]
    asked = {"deployments": model("x", **FLEX), "fallbacks": {"overloaded": ["b"]}}
    async with running({"m": asked, "b": [deployment("demo-ok", "anthropic")]}, keys=keys) as (gateway, upstream):
        upstream.scripts["x"] = Script(refuse_tier="flex")
        waiting = asyncio.create_task(post(gateway, service_tier="flex"))
        await asyncio.sleep(0.3)
        upstream.scripts["x"] = Script()
        assert (await asyncio.wait_for(waiting, 8))[0] == 200
        *_, last = await rows(gateway)
    assert (last["tier_requested"], last["tier_effective"], last["tier_served"]) == ("flex", "flex", "flex")

"""What a request is charged, through HTTP: every outcome, every phase at which somebody leaves or breaks off."""

import asyncio
import json
import shutil
import tempfile
import time
from typing import Any

import aiohttp
import pytest

from gateway import demo
from gateway.app import Gateway, build
from gateway.demo.scripts import Script
from gateway.limits import State
from gateway.limits.rules import NAMES
from gateway.records.usage import UsageStore

from .replay import stream_problems
from .running import KEY, PRICE, configuration, deployment, running

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Say one two three"}]}
INPUT, OUTPUT = 2_000, 8_000
"""Nano-dollars per token of ``running.PRICE``."""
LIMITS = {"rpm": 1000, "tpm": 10_000_000, "tpd": 10_000_000, "concurrency": 50, "budget": {"day": 100}}
SPEECH: dict[str, Any] = {"messages": [{"role": "user", "content": "word " * 199 + "word"}]}
"""200 words, echoed token by token."""
DIALECTS = ("openai", "anthropic")


def keys(**limits: Any) -> list[dict[str, Any]]:
    return [{"name": "test", "key": KEY, "limits": limits or LIMITS}]


async def ask(gateway: Gateway, **body: Any) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and as much of the body as came."""
    async with aiohttp.ClientSession() as http:
        async with http.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": "m", **ASK, **body},
            headers={"authorization": f"Bearer {KEY}"},
        ) as response:
            received = b""
            try:
                async for data in response.content.iter_any():
                    received += data
            except aiohttp.ClientError:
                pass
            return response.status, {k.lower(): v for k, v in response.headers.items()}, received


async def rows(gateway: Gateway) -> list[dict[str, Any]]:
    ledger = gateway.records.ledger
    assert ledger is not None
    await ledger.flush()
    text = b"".join([part async for part in UsageStore(gateway.records.database).export("json")])
    found: list[dict[str, Any]] = json.loads(text)
    return found


async def states(gateway: Gateway) -> dict[str, State]:
    """Where the limits of the key stand."""
    principal = await gateway.pipeline.auth.authenticate(KEY, time.time())
    found = await gateway.pipeline.meter.limiter.usage(principal.owners[0], principal.organization)
    return {NAMES[s.limit.field]: s for s in found}


async def settled(gateway: Gateway) -> dict[str, State]:
    """Where they stand once nothing runs any more: within a second (acceptance 12)."""
    end = time.monotonic() + 1
    while (found := await states(gateway))["concurrency"].used and time.monotonic() < end:
        await asyncio.sleep(0.005)
    assert found["concurrency"].used == 0
    assert found["budget.day"].reserved == 0
    return found


def priced(entries: Any) -> int:
    """What the demo provider would bill, in nano-dollars."""
    return sum(e.usage.prompt_tokens * INPUT + e.usage.completion_tokens * OUTPUT for e in entries)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_success_is_charged_what_the_provider_says_to_the_nano_dollar(dialect: str, stream: bool) -> None:
    models = {"m": [deployment("demo-reasoning+chunks=40", dialect)]}
    async with running(models, keys=keys()) as (gateway, upstream):
        for _ in range(3):
            assert (await ask(gateway, stream=stream))[0] == 200
        found = await settled(gateway)
        assert [r["cost"] for r in await rows(gateway)] == [priced([e]) for e in upstream.journal]
        assert found["budget.day"].used == priced(upstream.journal) > 0
        assert not any(r["estimated"] for r in await rows(gateway))
        assert found["tpd"].used == sum(e.usage.total_tokens for e in upstream.journal)


REFUSALS = ("429", "500", "503", "529", "502", "401", "404", "quota", "context", "invalid", "413")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_a_provider_refused_costs_nothing_and_counts_as_a_request(dialect: str) -> None:
    models = {s: [deployment(f"demo-{s}", dialect)] for s in REFUSALS}
    async with running(models, keys=keys(), retries={"attempts": 1}) as (gateway, upstream):
        for script in REFUSALS:
            status, headers, _ = await ask(gateway, model=script)
            assert status >= 400
            assert "x-ratelimit-remaining-requests" in headers
        found = await settled(gateway)
        assert found["budget.day"].used == priced(upstream.journal) == 0
        assert [r["cost"] for r in await rows(gateway)] == [0] * len(REFUSALS)
        assert not any(r["estimated"] for r in await rows(gateway))


@pytest.mark.parametrize(
    ("script", "stream"),
    [("no-content", True), ("error-early", True), ("refused", False), ("cut", False), ("slow+delay=9", False)],
)
async def test_an_attempt_that_may_be_billed_keeps_its_prompt_and_its_own_row(script: str, stream: bool) -> None:
    models = {
        "m": [
            deployment(f"demo-{script}", timeouts={"first_byte": 0.1, "response": 0.1}),
            deployment("demo-echo", "anthropic"),
        ]
    }
    async with running(models, keys=keys()) as (gateway, upstream):
        assert (await ask(gateway, stream=stream))[0] == 200
        found = await settled(gateway)
        first, second = await rows(gateway)
        assert first["estimated"]
        assert first["cost"] == first["input"] * INPUT > 0
        assert not second["estimated"]
        assert second["cost"] == priced([upstream.journal[-1]])
        assert found["budget.day"].used == first["cost"] + second["cost"]


async def learned(gateway: Gateway, upstream: demo.DemoUpstream, model: str) -> None:
    """Let the gateway learn how many tokens a model makes of a byte."""
    upstream.scripts[model] = Script(echo=True)
    for _ in range(2):
        assert (await ask(gateway, stream=True, **SPEECH))[0] == 200


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_stream_without_usage_is_estimated_within_five_percent_and_flagged(dialect: str) -> None:
    async with running({"m": [deployment("x", dialect)]}, keys=keys()) as (gateway, upstream):
        await learned(gateway, upstream, "x")
        upstream.scripts["x"] = Script(echo=True, usage=False)
        before = (await settled(gateway))["budget.day"].used
        assert (await ask(gateway, stream=True, **SPEECH))[0] == 200
        row, true = (await rows(gateway))[-1], upstream.journal[-1].usage
        assert row["estimated"]
        assert abs(row["output"] - true.output) <= 0.05 * true.output
        assert abs(row["input"] - true.input) <= 0.2 * true.input
        assert (await settled(gateway))["budget.day"].used - before == row["cost"]


@pytest.mark.parametrize("provider", [*DIALECTS, "compatible"])
async def test_C_325_where_the_provider_tells_no_usage_the_client_is_told_what_it_is_charged(provider: str) -> None:
    async with running({"m": [deployment("demo-echo+no-usage", provider)]}, keys=keys()) as (gateway, _):
        *_, raw = await ask(gateway, stream=True, stream_options={"include_usage": True}, **SPEECH)
        *_, whole = await ask(gateway, **SPEECH)
        *_, unasked = await ask(gateway, stream=True, **SPEECH)
        assert stream_problems(raw, include_usage=True, obfuscation=False if b"obfuscation" not in raw else None) == []
        last = json.loads(raw.removesuffix(b"\n\ndata: [DONE]\n\n").rpartition(b"data: ")[2])
        told = [(u["prompt_tokens"], u["completion_tokens"]) for u in (last["usage"], json.loads(whole)["usage"])]
        streamed, at_once, _ = found = await rows(gateway)
        assert told == [(row["input"], row["output"]) for row in (streamed, at_once)]
        assert all(row["estimated"] and row["input"] for row in found)
        assert b'"usage"' not in unasked


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("how", ["reset", "close", "end", "error"])
async def test_a_stream_that_is_cut_is_charged_what_came_of_it(dialect: str, how: str) -> None:
    async with running({"m": [deployment("x", dialect)]}, keys=keys()) as (gateway, upstream):
        await learned(gateway, upstream, "x")
        for cut in (1, 60, 150):
            upstream.scripts["x"] = Script(echo=True, cut=cut, how=how)
            before = (await settled(gateway))["budget.day"].used
            *_, received = await ask(gateway, stream=True, **SPEECH)
            row, true = (await rows(gateway))[-1], upstream.journal[-1].usage
            assert row["estimated"]
            assert row["status"] != "ok"
            # A reset throws away what was still on its way to us: at least what the client got is charged.
            least = received.count(b"word") if how == "reset" else true.output
            assert 0.95 * least - 2 <= row["output"] <= 1.05 * true.output + 2, cut
            assert (await settled(gateway))["budget.day"].used - before == row["cost"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_client_that_leaves_is_charged_what_was_generated_until_then(dialect: str) -> None:
    async with running({"m": [deployment("x", dialect)]}, keys=keys()) as (gateway, upstream):
        await learned(gateway, upstream, "x")
        upstream.scripts["x"] = Script(echo=True, gap=0.002)
        for wanted in (1, 40, 150):
            before = (await settled(gateway))["budget.day"].used
            async with aiohttp.ClientSession() as http:
                response = await http.post(
                    f"{gateway.url}/v1/chat/completions",
                    json={"model": "m", "stream": True, **SPEECH},
                    headers={"authorization": f"Bearer {KEY}"},
                )
                frames = 0
                while frames < wanted:
                    frames += (await response.content.readany()).count(b"\n\n")
                response.close()
            spent = (await settled(gateway))["budget.day"].used - before
            row, true = (await rows(gateway))[-1], upstream.journal[-1].usage
            assert row["estimated"]
            assert row["status"] == "client_closed"
            assert abs(row["output"] - true.output) <= max(0.05 * true.output, 6), wanted
            assert spent == row["cost"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_answer_keeps_its_prompt_charged(stream: bool) -> None:
    async with running({"m": "demo-slow+delay=9"}, keys=keys()) as (gateway, upstream):
        asked = asyncio.ensure_future(ask(gateway, stream=stream))
        while not upstream.in_flight:
            await asyncio.sleep(0.01)
        assert (await states(gateway))["concurrency"].used == 1
        asked.cancel()
        await asyncio.sleep(0.05)
        found = await settled(gateway)
        (row,) = await rows(gateway)
        assert (row["status"], row["estimated"]) == ("client_closed", True)
        assert found["budget.day"].used == row["cost"] == row["input"] * INPUT > 0


async def test_a_storm_of_clients_that_leave_holds_nothing() -> None:
    async with running({"m": "demo-long+gap=0.002"}, keys=keys()) as (gateway, _):
        for wave in range(4):
            asked = [asyncio.ensure_future(ask(gateway, stream=bool(i % 2))) for i in range(25)]
            await asyncio.sleep(0.01 + 0.05 * wave)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        found = await settled(gateway)
        assert found["budget.day"].used == sum(r["cost"] for r in await rows(gateway))
        assert gateway.records.ledger is not None
        assert gateway.records.ledger.unfinished == 0


DEAR = {"input": 20, "output": 80}


def worst(output: int, price: int = 8) -> float:
    """Dollars; an upper estimate of the bound with a prompt of up to 2,000 tokens."""
    return (2_000 * price / 4 + output * price) / 1e6


async def test_a_plan_is_reserved_at_its_dearest_deployment() -> None:
    models = {"m": [deployment("demo-500"), deployment("demo-ok", "anthropic", price=DEAR)]}
    budget = {"day": worst(100)}  # enough for the cheap one only
    async with running(models, keys=keys(budget=budget, concurrency=9)) as (gateway, upstream):
        status, headers, body = await ask(gateway, max_tokens=100)
        assert status == 429
        assert json.loads(body)["error"]["code"] == "insufficient_quota"
        assert headers["x-should-retry"] == "false"
        assert len(upstream.journal) == 0
        assert (await settled(gateway))["budget.day"].used == 0


async def test_what_a_failed_attempt_may_cost_is_kept_when_the_next_is_reserved() -> None:
    models = {"m": [deployment("demo-cut"), deployment("demo-echo", "anthropic")]}
    body = {"max_tokens": 20}
    async with running(models, keys=keys(budget={"day": 100}, concurrency=9)) as (gateway, _):
        assert (await ask(gateway, **body))[0] == 200
    # The worst case of one attempt, found by asking for a nano-dollar less and reading the refusal.
    async with running(models, keys=keys(budget={"day": 0.0001}, concurrency=9)) as (gateway, upstream):
        status, _, received = await ask(gateway, **body)
        assert status == 429
        told = json.loads(received)["error"]["message"]
        dollars = told.split("may cost up to $")[1].split()[0].rstrip(".")
    async with running(models, keys=keys(budget={"day": dollars}, concurrency=9)) as (gateway, upstream):
        status, _, received = await ask(gateway, **body)
        assert status == 429, "one attempt fits, but not one on top of what the first may be billed"
        assert json.loads(received)["error"]["code"] == "insufficient_quota"
        assert len(upstream.journal) == 1
        found = await settled(gateway)
        assert found["budget.day"].used == (await rows(gateway))[0]["cost"] > 0


async def test_a_call_that_falls_back_twice_is_charged_each_attempt_once() -> None:
    dear = {"input": 20, "output": 80}
    models = {
        "m": {"deployments": [deployment("demo-cut")], "fallbacks": {"any": ["a"]}},
        "a": {"deployments": [deployment("demo-cut", "anthropic")], "fallbacks": {"any": ["b"]}},
        "b": {"deployments": [deployment("demo-ok", price=dear)]},
    }
    limits = {**LIMITS, "per_model": {"a": {"rpm": 5, "budget": {"day": 1}}, "b": {"budget": {"day": 1}}}}
    async with running(models, keys=keys(**limits)) as (gateway, upstream):
        status, headers, _ = await ask(gateway, max_tokens=20)
        assert status == 200
        assert headers["x-sluice-fallback"] == "b"
        found, written = await settled(gateway), await rows(gateway)
        assert [r["estimated"] for r in written] == [True, True, False]
        assert written[-1]["cost"] == 10 * priced([upstream.journal[-1]])
        assert found["tpd"].used == sum(r["input"] + r["output"] for r in written)
        principal = await gateway.pipeline.auth.authenticate(KEY, time.time())
        every = await gateway.pipeline.meter.limiter.usage(principal.owners[0], principal.organization)
        own = {s.limit.scope: s.used for s in every if NAMES[s.limit.field] == "budget.day"}
        assert own["k:test"] == sum(r["cost"] for r in written)
        assert own["k:test|m:a"] == written[1]["cost"]
        assert own["k:test|m:b"] == written[2]["cost"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hedge_is_reserved_on_top_and_its_loser_keeps_its_prompt(stream: bool) -> None:
    slow, quick = deployment("demo-slow+delay=9"), deployment("demo-echo", "anthropic")
    models = {"m": {"deployments": [slow, quick], "hedging": {"after": 0.05}}}
    async with running(models, keys=keys()) as (gateway, upstream):
        assert (await ask(gateway, stream=stream))[0] == 200
        found, written = await settled(gateway), await rows(gateway)
        by_status = {row["status"]: row for row in written}
        assert set(by_status) == {"hedge_lost", "ok"}
        assert by_status["hedge_lost"]["estimated"]
        assert by_status["ok"]["cost"] == priced([e for e in upstream.journal if e.complete])
        assert found["budget.day"].used == sum(row["cost"] for row in written)
        assert found["tpd"].used == sum(row["input"] + row["output"] for row in written)


async def test_a_fallback_that_the_budget_cannot_bear_is_not_taken() -> None:
    models = {
        "m": {"deployments": [deployment("demo-500")], "fallbacks": {"any": ["b"]}},
        "b": {"deployments": [deployment("demo-ok", price=DEAR)]},
    }
    async with running(models, keys=keys(budget={"day": worst(100)}, concurrency=9)) as (gateway, upstream):
        status, *_ = await ask(gateway, max_tokens=100)
        assert status == 502
        assert [e.model for e in upstream.journal] == ["demo-500"]
        assert (await settled(gateway))["budget.day"].used == 0


async def test_a_budget_bounds_the_answer_upstream_where_the_client_did_not() -> None:
    models = {"m": "demo-long"}
    async with running(models, keys=keys(), pricing={"default_max_output": 33}) as (gateway, upstream):
        status, _, body = await ask(gateway)
        assert status == 200
        assert upstream.journal[0].body["max_completion_tokens"] == 33
        assert json.loads(body)["choices"][0]["finish_reason"] == "length"
        await ask(gateway, max_tokens=7)
        assert upstream.journal[1].usage.output == 7
    async with running(models, pricing={"default_max_output": 33}) as (gateway, upstream):
        assert (await ask(gateway))[0] == 200
        assert "max_completion_tokens" not in upstream.journal[0].body
        assert upstream.journal[0].usage.output == 100


async def test_clamping_shortens_answers_to_what_the_money_buys_and_never_passes_the_budget() -> None:
    counters = {"budget_mode": "clamp", "clamp_min_tokens": 10}
    limits = keys(budget={"day": 0.01}, concurrency=9)
    async with running({"m": "demo-long"}, keys=limits, counters=counters) as (gateway, upstream):
        statuses = [(await ask(gateway))[0] for _ in range(20)]
        assert statuses[0] == 200
        assert 429 in statuses
        assert statuses.index(429) == statuses.count(200)
        asked = [e.body["max_completion_tokens"] for e in upstream.journal]
        assert asked == sorted(asked, reverse=True)
        assert all(e.usage.output <= e.body["max_completion_tokens"] for e in upstream.journal)
        assert min(asked) >= 10
        found = await settled(gateway)
        assert found["budget.day"].used == priced(upstream.journal) <= 10_000_000


async def test_clamping_reckons_with_the_dearest_tier_that_may_serve() -> None:
    priced_by_tier = {**PRICE, "tiers": {"priority": 3}}
    models = {"m": [deployment("demo-long", price=priced_by_tier)]}
    counters = {"budget_mode": "clamp", "clamp_min_tokens": 10}
    limits = keys(budget={"day": 0.02}, concurrency=9)
    async with running(models, keys=limits, counters=counters) as (gateway, upstream):
        assert (await ask(gateway))[0] == 200
        assert 10 <= upstream.journal[0].body["max_completion_tokens"] < 4096


async def test_a_model_without_a_price_is_refused_under_a_budget_or_billed_the_declared_default() -> None:
    unpriced = {"deployments": [{"provider": "openai", "model": "demo-echo"}]}
    async with running({"m": unpriced}, keys=keys()) as (gateway, upstream):
        status, _, body = await ask(gateway)
        assert (status, json.loads(body)["error"]["code"]) == (400, "model_not_priced")
        assert len(upstream.journal) == 0
    pricing = {"unpriced": "default", "default": {"input": 2, "output": 8}}
    async with running({"m": unpriced}, keys=keys(), pricing=pricing) as (gateway, upstream):
        assert (await ask(gateway))[0] == 200
        assert (await settled(gateway))["budget.day"].used == priced(upstream.journal) > 0


async def test_the_capacity_of_a_deployment_spills_over_and_is_given_back() -> None:
    models = {"m": [deployment("demo-slow+delay=0.1", limits={"concurrency": 1}), deployment("demo-ok", "anthropic")]}
    async with running(models, keys=keys()) as (gateway, upstream):
        answers = await asyncio.gather(*(ask(gateway) for _ in range(4)))
        assert [a[0] for a in answers] == [200] * 4
        assert [e.dialect for e in upstream.journal].count("openai") == 1
        assert (await ask(gateway))[1]["x-sluice-deployment"] == "openai/demo-slow+delay=0.1"  # free again
        assert len(await rows(gateway)) == 5  # what was not sent has no row


async def test_a_request_that_no_deployment_has_room_for_is_refused_and_does_not_count() -> None:
    models = {"m": [deployment("demo-slow+delay=0.2", limits={"rpm": 6})]}
    async with running(models, keys=keys()) as (gateway, _):
        assert (await ask(gateway))[0] == 200
        status, headers, body = await ask(gateway)
        assert status == 429
        assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(headers["retry-after"]) <= 60
        assert (await settled(gateway))["rpm"].used <= 1
        assert headers["x-sluice-limit-scope"] == "d:openai/demo-slow+delay=0.2 rpm"
        assert "x-should-retry" not in headers
        assert json.loads(body)["error"]["message"].startswith(
            "Rate limit reached for the gateway limit of deployment openai/demo-slow+delay=0.2 on requests per min (RPM): "
            "Burst 1, Used 1, Requested 1. Please try again in "
        )


@pytest.mark.parametrize("others", [0, 1])
async def test_a_request_that_a_deployment_could_never_admit_is_told_so(others: int) -> None:
    """With another deployment the refusal may be about that one alone, so it is not final."""
    limited = [deployment("demo-ok", limits={"tpm": 1000}, name=f"d{i}") for i in range(1 + others)]
    async with running({"m": limited}, keys=keys()) as (gateway, upstream):
        status, headers, body = await ask(gateway, max_completion_tokens=600)
        assert not upstream.journal
    error = json.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (429, "tokens", "rate_limit_exceeded")
    assert error["message"].startswith(
        f"Request too large for the gateway limit of deployment d{others} on tokens per min"
    )
    assert "Burst 500" in error["message"]
    assert headers.get("x-should-retry") == (None if others else "false")
    assert headers["x-sluice-limit-scope"] == f"d:d{others} tpm"


async def test_a_deployment_s_budget_is_told_as_the_gateway_s_own_without_its_amounts() -> None:
    bought = deployment("demo-ok", limits={"budget": {"day": "0.000001"}})
    async with running({"m": [bought]}, keys=keys()) as (gateway, upstream):
        status, headers, body = await ask(gateway)
        assert not upstream.journal
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (503, "no_healthy_upstream")
    assert error["message"] == "The gateway's own budget for the deployment of this model has too little left."
    assert headers["x-sluice-limit-scope"] == "d:openai/demo-ok budget.day"


async def test_a_restart_resets_no_budget() -> None:
    upstream = await demo.start()
    folder = tempfile.mkdtemp(prefix="sluice-test-")
    limits = keys(rpd=3, tpd=10_000, budget={"day": 1, "month": 1, "total": 1}, concurrency=9)
    try:
        for generation in range(3):
            gateway = await build(configuration(upstream.url, folder, {"m": "demo-long"}, keys=limits))
            await gateway.start()
            try:
                assert (await ask(gateway, max_tokens=100))[0] == 200
                found = await settled(gateway)
                for name in ("budget.day", "budget.month", "budget.total"):
                    assert found[name].used == priced(upstream.journal) > 0
                assert found["rpd"].used == generation + 1
                assert found["tpd"].used == sum(e.usage.total_tokens for e in upstream.journal)
                if generation == 2:
                    status, _, body = await ask(gateway, max_tokens=100)
                    assert status == 429
                    assert "RPD" in json.loads(body)["error"]["message"]
            finally:
                await gateway.close()
    finally:
        await upstream.close()
        shutil.rmtree(folder, ignore_errors=True)

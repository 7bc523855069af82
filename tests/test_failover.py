"""Fallback models, cheaper models, retry budgets and breakers, end to end."""

import asyncio
import json
import resource
import time
from typing import Any

import openai
import pytest

from gateway.demo import Verbatim

from .running import FREE, KEY, deployment, running
from .test_flow import ASK, client
from .test_metering import rows

FALLBACKS = {
    "rate_limited": "demo-429",
    "overloaded": "demo-529",
    "timeout": "demo-slow+delay=5",
    "context_length": "demo-context",
    "content_policy": "demo-content-filter",
    "quota": "demo-quota",
    "any": "demo-500",
}


def model(*deployments: Any, **options: Any) -> dict[str, Any]:
    return {"deployments": [d if isinstance(d, dict) else deployment(d) for d in deployments], **options}


def tries(upstream: Any) -> int:
    return len(upstream.journal)


@pytest.mark.parametrize("stream", [False, True])
async def test_each_kind_of_failure_has_its_fallback_models(stream: bool) -> None:
    models: dict[str, Any] = {
        kind: model(deployment(script, timeouts={"first_byte": 0.2, "response": 0.2}), fallbacks={kind: [f"to-{kind}"]})
        for kind, script in FALLBACKS.items()
    }
    models |= {f"to-{kind}": model(deployment("demo-echo", "anthropic", name=f"b-{kind}")) for kind in FALLBACKS}
    async with running(models) as (gateway, _), client(gateway) as sdk:
        for kind in FALLBACKS:
            raw = await sdk.chat.completions.with_raw_response.create(model=kind, stream=stream, **ASK)
            assert raw.headers["x-sluice-fallback"] == f"to-{kind}", kind
            assert raw.headers["x-sluice-deployment"] == f"b-{kind}"
            assert raw.headers["x-sluice-attempts"] == "2"


@pytest.mark.parametrize("status", [429, 413])
async def test_a_request_that_is_larger_than_a_rate_falls_back_and_leaves_the_deployment_to_others(status: int) -> None:
    models = {
        "alone": model("limited"),
        "two": [deployment("limited"), deployment("demo-ok", "anthropic")],
        "falls-back": model("limited", fallbacks={"context_length": ["good"]}),
        "good": "demo-ok",
    }
    said = "Request too large for m in organization org-1 on tokens per min (TPM): Limit 100, Requested 200."
    told = {"error": {"message": said, "type": "tokens", "code": "rate_limit_exceeded"}}
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        upstream.verbatim["limited"] = Verbatim(json.dumps(told).encode(), status=status, headers={"retry-after": "60"})
        with pytest.raises(openai.RateLimitError) as refused:
            await sdk.chat.completions.create(model="alone", **ASK)
        assert (refused.value.type, refused.value.code) == ("tokens", "rate_limit_exceeded")
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert "org-1" not in refused.value.message
        assert tries(upstream) == 1
        for name in ("two", "falls-back"):
            raw = await sdk.chat.completions.with_raw_response.create(model=name, **ASK)
            assert raw.headers["x-sluice-attempts"] == "2"
        del upstream.verbatim["limited"]
        for name in ("alone", "two", "falls-back"):
            raw = await sdk.chat.completions.with_raw_response.create(model=name, **ASK)
            assert raw.headers["x-sluice-deployment"] == "openai/limited"


async def test_any_is_for_the_rest_and_never_for_the_requests_own_fault() -> None:
    models = {
        "broken": model("demo-529", fallbacks={"any": ["good"]}),
        "long": model("demo-context", fallbacks={"any": ["good"]}),
        "wrong": model("demo-invalid", fallbacks={"any": ["good"], "context_length": ["good"]}),
        "good": "demo-ok",
    }
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        await sdk.chat.completions.create(model="broken", **ASK)
        for name in ("long", "wrong"):
            before = tries(upstream)
            with pytest.raises(openai.BadRequestError):
                await sdk.chat.completions.create(model=name, **ASK)
            assert tries(upstream) == before + 1


@pytest.mark.parametrize(("kind", "script"), [("rate_limited", "demo-429+retry_after=30"), ("quota", "demo-quota")])
async def test_a_cool_down_goes_on_falling_back_as_what_caused_it_did(kind: str, script: str) -> None:
    models = {"a": model(script, fallbacks={kind: ["b"]}), "b": "demo-ok"}
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        for _ in range(3):
            raw = await sdk.chat.completions.with_raw_response.create(model="a", **ASK)
            assert raw.headers["x-sluice-fallback"] == "b"
        assert sum(entry.model == script for entry in upstream.journal) == 1


async def test_a_provider_whose_budget_is_used_up_falls_back_as_one_without_quota() -> None:
    bought = deployment("demo-echo", limits={"budget": {"day": "0.000001"}})
    models = {"a": model(bought, fallbacks={"quota": ["b"]}), "b": "demo-ok"}
    async with running(models) as (gateway, _), client(gateway) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="a", **ASK)
    assert raw.headers["x-sluice-fallback"] == "b"


async def test_what_was_reserved_for_a_fallback_that_the_ledger_cannot_note_is_given_back() -> None:
    """A full disk, by the process's own file size limit: what remains charged is what the failed attempt may be billed."""
    per_model = {name: {"budget": {"day": 50}} for name in ("a", "b", "c")}
    keys = [{"name": "test", "key": KEY, "limits": {"concurrency": 9, "budget": {"day": 100}, "per_model": per_model}}]
    slow = deployment("demo-slow+delay=5", timeouts={"response": 0.3})
    models = {"a": model(slow, fallbacks={"any": ["b", "c"]}), "b": "demo-ok", "c": "demo-ok"}
    async with running(models, keys=keys) as (gateway, upstream), client(gateway) as sdk:
        ledger = gateway.records.ledger
        assert ledger is not None
        asking = asyncio.create_task(sdk.chat.completions.create(model="a", **ASK))
        while not upstream.in_flight:
            await asyncio.sleep(0.01)
        segment, limits = ledger._journal._segments[-1], resource.getrlimit(resource.RLIMIT_FSIZE)
        room = len(segment.map or b"")
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            segment.put(b"-" * (room - segment.size - 50))
            with pytest.raises(openai.InternalServerError, match="did not answer in time"):
                await asking
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        principal = await gateway.pipeline.auth.authenticate(KEY, time.time())
        found = await gateway.pipeline.meter.limiter.usage(principal.owners[0], principal.organization)
        (row,) = await rows(gateway)
    assert row["cost"] > 0
    held = {(s.limit.scope, s.limit.field == "c"): (s.used, s.reserved) for s in found}
    charged = {"k:test": row["cost"], "k:test|m:a": row["cost"], "k:test|m:b": 0, "k:test|m:c": 0}
    assert held == {("k:test", True): (0, 0), **{(scope, False): (cost, 0) for scope, cost in charged.items()}}


async def test_retries_of_a_request_are_counted_over_all_models_that_serve_it() -> None:
    models = {
        "a": model("demo-500", deployment("demo-503", "anthropic"), fallbacks={"any": ["b"]}),
        "b": model(
            "demo-529",
            deployment("demo-502", "anthropic"),
            deployment("demo-500", "anthropic"),
            fallbacks={"any": ["c"]},
        ),
        "c": "demo-503",
    }
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        with pytest.raises(openai.InternalServerError) as caught:
            await sdk.chat.completions.create(model="a", **ASK)
    assert [entry.model for entry in upstream.journal] == ["demo-500", "demo-503", "demo-529", "demo-503"]
    assert caught.value.response.headers["x-sluice-attempts"] == "4"
    assert caught.value.response.headers["x-should-retry"] == "false"


DEEP = b'{"choices":[{"index":0,"delta":{"content":' + b"[" * 900 + b"]" * 900 + b"}}]}"
NONSENSE = (b'{"choices":[5]}', b'{"choices":5}', b'{"choices":[{"index":0,"delta":5}]}', b'{"usage":5}', b"7", DEEP)
CHUNK = b'{"id":"x","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}'


@pytest.mark.parametrize("provider", ["openai", "compatible"])
@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda data: data[:40].decode())
async def test_an_answer_that_nobody_foresaw_is_a_failure_like_any_other(provider: str, nonsense: bytes) -> None:
    models = {
        "m": [deployment("odd", provider, name="odd"), deployment("demo-ok", "anthropic")],
        "odd": [deployment("odd", provider)],
    }
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        upstream.verbatim["odd"] = Verbatim(b"data: %b\n\n" % nonsense, content_type="text/event-stream")
        stream = await sdk.chat.completions.create(model="m", stream=True, **ASK)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "ok"
        if b"delta" not in nonsense:
            upstream.verbatim["odd"] = Verbatim(nonsense)
            raw = await sdk.chat.completions.with_raw_response.create(model="m", **ASK)
            assert raw.headers["x-sluice-attempts"] == "2"
        later = b"data: %b\n\ndata: %b\n\n" % (CHUNK, nonsense)
        upstream.verbatim["odd"] = Verbatim(later, content_type="text/event-stream")
        with pytest.raises(openai.APIError):
            async for _chunk in await sdk.chat.completions.create(model="odd", stream=True, **ASK):
                pass


@pytest.mark.parametrize("stream", [False, True])
async def test_all_attempts_together_have_a_time_out(stream: bool) -> None:
    slow = [deployment("demo-ok+delay=5", p) for p in ("openai", "anthropic", "compatible")]
    models = {"m": model(*slow, fallbacks={"timeout": ["n"]}), "n": "demo-ok"}
    timeouts = {"first_byte": 0.5, "response": 0.5, "request": 0.8}
    async with running(models, timeouts=timeouts) as (gateway, upstream), client(gateway) as sdk:
        began = time.monotonic()
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.chat.completions.create(model="m", stream=stream, **ASK)
        assert 0.75 < time.monotonic() - began < 1.3
        assert caught.value.status_code == 504
        assert tries(upstream) == 2


async def test_fallbacks_of_fallbacks_come_before_the_rest_of_the_list() -> None:
    models = {
        "a": model("demo-500+delay=0", fallbacks={"any": ["b", "c"]}),
        "b": model("demo-503", fallbacks={"any": ["d"]}),
        "c": "demo-ok",
        "d": model("demo-529"),
    }
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="a", **ASK)
    assert raw.headers["x-sluice-fallback"] == "c"
    asked = [entry.model for entry in upstream.journal]
    assert list(dict.fromkeys(asked)) == ["demo-500+delay=0", "demo-503", "demo-529", "demo-ok"]


async def test_a_key_falls_back_only_to_models_it_may_use() -> None:
    keys = [{"name": "test", "key": KEY, "models": ["a"]}]
    models = {"a": model("demo-500", fallbacks={"any": ["b"]}), "b": "demo-ok"}
    async with running(models, keys=keys) as (gateway, _), client(gateway) as sdk:
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(model="a", **ASK)


async def test_a_dearer_fallback_is_reserved_for_or_not_taken() -> None:
    """The prompt's bound and 1000 tokens at the dear price do not fit the budget: the first failure is told."""
    dear = deployment("demo-echo", "anthropic", price={"input": 2000, "output": 8000})
    models = {"a": model("demo-500", fallbacks={"any": ["dear", "fair"]}), "dear": model(dear), "fair": "demo-ok"}
    keys = [{"name": "test", "key": KEY, "limits": {"budget": {"total": 1}, "concurrency": 1}}]
    async with running(models, keys=keys) as (gateway, _), client(gateway) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="a", max_tokens=1000, **ASK)
        assert raw.headers["x-sluice-fallback"] == "fair"


async def test_a_fallback_model_has_limits_of_its_own() -> None:
    models = {"a": model("demo-500", fallbacks={"any": ["b", "c"]}), "b": "demo-echo", "c": "demo-ok"}
    limits = {"concurrency": 1, "rpm": 100, "per_model": {"b": {"rpm": 1}, "c": {"rpm": 100}}}
    keys = [{"name": "test", "key": KEY, "limits": limits}]
    async with running(models, keys=keys) as (gateway, _), client(gateway) as sdk:
        raws = [await sdk.chat.completions.with_raw_response.create(model="a", **ASK) for _ in range(3)]
    assert [r.headers["x-sluice-fallback"] for r in raws] == ["b", "c", "c"]


@pytest.mark.parametrize(("may", "status"), [(True, 200), (False, 429)])
async def test_a_cheaper_model_serves_instead_of_a_429_where_the_key_allows(may: bool, status: int) -> None:
    models = {"dear": model("demo-echo", cheaper="cheap"), "cheap": model(deployment("demo-ok", price=FREE))}
    limits = {"per_model": {"dear": {"rpm": 1}}}
    keys = [{"name": "test", "key": KEY, "limits": limits, "allow_cheaper": may}]
    async with running(models, keys=keys) as (gateway, _), client(gateway) as sdk:
        first = await sdk.chat.completions.with_raw_response.create(model="dear", **ASK)
        assert "x-sluice-fallback" not in first.headers
        if status == 200:
            second = await sdk.chat.completions.with_raw_response.create(model="dear", **ASK)
            assert second.headers["x-sluice-fallback"] == "cheap"
            assert second.parse().choices[0].message.content == "ok"
        else:
            with pytest.raises(openai.RateLimitError):
                await sdk.chat.completions.create(model="dear", **ASK)


async def test_a_lone_deployment_is_retried_after_the_time_it_asked_for() -> None:
    async with running({"m": "demo-429+first=1+retry_after=0.3"}) as (gateway, _), client(gateway) as sdk:
        began = time.monotonic()
        raw = await sdk.chat.completions.with_raw_response.create(model="m", **ASK)
        assert raw.headers["x-sluice-attempts"] == "2"
        assert 0.3 <= time.monotonic() - began < 1.5


async def test_a_full_outage_fails_fast_with_a_probe_a_second_and_ends_with_it() -> None:
    models = {"m": [deployment("demo-500+first=12"), deployment("demo-500+first=12+delay=0", "anthropic")]}
    async with running(models, retries={"budget_floor": 0, "budget_percent": 0}) as (gateway, upstream):
        async with client(gateway) as sdk:
            statuses: list[int] = []
            asked: list[int] = []
            seconds: list[float] = []

            async def ask() -> None:
                began, before = time.monotonic(), tries(upstream)
                try:
                    await sdk.chat.completions.create(model="m", **ASK)
                    statuses.append(200)
                except openai.InternalServerError as exc:
                    statuses.append(exc.status_code)
                    if tries(upstream) == before:  # no probe
                        asked.append(int(exc.response.headers["retry-after"]))
                        seconds.append(time.monotonic() - began)

            while tries(upstream) < 15:  # five open the first, ten the last
                await ask()
            assert 503 not in statuses[:5]
            at_once = tries(upstream)
            for _ in range(30):
                await ask()
            assert tries(upstream) - at_once <= 1
            assert len(asked) >= 29
            assert min(asked) >= 1
            assert sorted(seconds)[len(seconds) // 2] < 0.1
            deadline = time.monotonic() + 20
            while statuses[-1] != 200:
                assert time.monotonic() < deadline
                await ask()
                await asyncio.sleep(0.1)


async def test_a_stream_that_dies_counts_against_its_deployment() -> None:
    models = {"m": [deployment("demo-cut"), deployment("demo-ok", "anthropic")]}
    async with running(models) as (gateway, _), client(gateway) as sdk:
        for _ in range(30):
            stream = await sdk.chat.completions.create(model="m", stream=True, **ASK)
            try:
                async for _chunk in stream:
                    pass
            except openai.APIError:
                continue
        raw = await sdk.chat.completions.with_raw_response.create(model="m", **ASK)
        assert raw.headers["x-sluice-deployment"] == "anthropic/demo-ok"


async def test_random_errors_cause_a_bounded_number_of_further_attempts() -> None:
    models = {"m": [deployment("demo-500+every=3"), deployment("demo-503+every=3", "anthropic")]}
    async with running(models, health={"consecutive_failures": 1000, "success_percent": 0}) as (gateway, upstream):
        async with client(gateway) as sdk:
            hints = []
            for _ in range(300):
                try:
                    await sdk.chat.completions.create(model="m", **ASK)
                except openai.InternalServerError as exc:
                    hints.append(exc.response.headers["x-should-retry"])
    assert tries(upstream) <= 1.2 * 300
    assert set(hints) == {"false"}


async def test_spill_over_is_counted() -> None:
    bought = deployment("demo-429", capacity="provisioned")
    async with running({"m": [deployment("demo-ok"), bought]}) as (gateway, _), client(gateway) as sdk:
        await sdk.chat.completions.create(model="m", **ASK)
        labels = {"model": "m", "from": "provisioned", "to": "default"}
        assert gateway.registry.get_sample_value("sluice_spillover_total", labels) == 1
        await sdk.chat.completions.create(model="m", **ASK)  # the bought one cools down
        assert gateway.registry.get_sample_value("sluice_spillover_total", labels) == 2


async def test_a_slow_deployment_is_ejected() -> None:
    models = {"m": model("demo-ok+delay=0.15", deployment("demo-ok", "anthropic"), strategy="weighted")}
    async with running(models, health={"latency_ejection": 2}) as (gateway, _), client(gateway) as sdk:
        served = []
        for _ in range(60):
            raw = await sdk.chat.completions.with_raw_response.create(model="m", **ASK)
            served.append(raw.headers["x-sluice-deployment"])
            if served.count("openai/demo-ok+delay=0.15") >= 5 and served.count("anthropic/demo-ok") >= 15:
                break
        for _ in range(10):
            raw = await sdk.chat.completions.with_raw_response.create(model="m", **ASK)
            assert raw.headers["x-sluice-deployment"] == "anthropic/demo-ok"


def hedged(*scripts: str, after: float = 0.1) -> dict[str, Any]:
    dialects = ("openai", "anthropic")
    return model(*(deployment(s, dialects[i % 2]) for i, s in enumerate(scripts)), hedging={"after": after})


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_first_byte_is_hedged_and_the_loser_is_cancelled_and_has_its_row(stream: bool) -> None:
    async with running({"m": hedged("demo-ok+delay=5", "demo-echo")}) as (gateway, upstream), client(gateway) as sdk:
        began = time.monotonic()
        raw = await sdk.chat.completions.with_raw_response.create(model="m", stream=stream, **ASK)
        answer = raw.parse()
        if stream:
            assert "".join([c.choices[0].delta.content or "" async for c in answer]) == "Say one two three"  # type: ignore[attr-defined]
        assert time.monotonic() - began < 2
        assert raw.headers["x-sluice-deployment"] == "anthropic/demo-echo"
        assert upstream.in_flight == 0
        value = gateway.registry.get_sample_value
        assert value("sluice_attempts_total", {"deployment": "openai/demo-ok+delay=5", "status": "hedge_lost"}) == 1
        assert value("sluice_attempts_total", {"deployment": "anthropic/demo-echo", "status": "ok"}) == 1
        assert gateway.lasting.fleet["openai/demo-ok+delay=5"].load.in_flight == 0


async def test_a_quick_answer_is_not_hedged_and_two_failures_are_one() -> None:
    models = {"quick": hedged("demo-ok", "demo-echo", after=5), "bad": hedged("demo-500+delay=0.2", "demo-503")}
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        await sdk.chat.completions.create(model="quick", **ASK)
        assert tries(upstream) == 1
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(model="bad", **ASK)


async def test_a_client_that_leaves_cancels_both_of_a_hedge() -> None:
    async with running({"m": hedged("demo-ok+delay=5", "demo-ok+delay=6")}) as (gateway, upstream):
        async with client(gateway, timeout=0.5) as sdk:
            with pytest.raises(openai.APITimeoutError):
                await sdk.chat.completions.create(model="m", **ASK)
        deadline = time.monotonic() + 2
        while upstream.in_flight or gateway.state.in_flight:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert tries(upstream) == 2
        value = gateway.registry.get_sample_value
        for name in ("openai/demo-ok+delay=5", "anthropic/demo-ok+delay=6"):
            assert value("sluice_attempts_total", {"deployment": name, "status": "client_closed"}) == 1


async def test_hedges_are_bounded_by_the_retry_budget() -> None:
    retries = {"budget_floor": 0, "budget_percent": 50}
    async with running({"m": hedged("demo-ok+delay=0.15", "demo-ok", after=0.05)}, retries=retries) as (
        gateway,
        upstream,
    ):
        async with client(gateway) as sdk:
            for _ in range(8):
                await sdk.chat.completions.create(model="m", **ASK)
    assert tries(upstream) == 12


@pytest.mark.parametrize("compatible", [True, False])
async def test_litellm_headers_are_behind_a_switch(compatible: bool) -> None:
    async with (
        running({"m": "demo-ok+input=1000"}, admin={"litellm_compat": compatible}) as (gateway, _),
        client(gateway) as sdk,
    ):
        raw = await sdk.chat.completions.with_raw_response.create(model="m", **ASK)
    ours = {k: v for k, v in raw.headers.items() if k.startswith("x-litellm-")}
    expected = {
        "x-litellm-model-id": "openai/demo-ok+input=1000",
        "x-litellm-call-id": raw.headers["x-request-id"],
        "x-litellm-response-cost": "0.002008",
    }
    assert ours == (expected if compatible else {})

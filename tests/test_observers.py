"""What observers tell of calls, and that nobody can make series at will."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client import CollectorRegistry

from adapters.usage import Usage
from gateway.app import Gateway
from gateway.call import Attempt, CallRecord, Principal
from gateway.errors import ModelNotFound, Unauthenticated
from gateway.observers.access_log import AccessLog
from gateway.observers.calls import CallMetrics, usual
from gateway.observers.genai import DURATION, GenAIMetrics
from gateway.observers.metrics import PrometheusObserver
from gateway.observers.overhead import OverheadMetrics
from gateway.observers.tenants import TenantObserver
from gateway.observers.tiers import TierMetrics
from gateway.records.grants import Actor

from .running import KEY, running
from .servers import RedisServer

NOBODY: Any = None
"""The reply of a request that is refused before any."""


def test_tenants_over_the_cap_share_one_series() -> None:
    registry = CollectorRegistry()
    observer = TenantObserver(registry, cap=2)
    for number in range(100):
        record = CallRecord("r", principal=Principal(f"k{number % 50}", "o", team="t"), cost=10**9)
        observer.call_finished(record)
    series = [s for m in registry.collect() for s in m.samples if s.name == "sluice_tenant_requests_total"]
    assert {(s.labels["team"], s.labels["key"]): s.value for s in series} == {
        ("t", "k0"): 2,
        ("t", "k1"): 2,
        ("other", "other"): 96,
    }


class Incoming:
    """A request whose head has been read, without its connection."""

    client_marks, traceparent, digest = (None, None), None, None

    def __init__(self, number: int, credential: str, model: str) -> None:
        self.id = f"req_{number:032x}"
        self.headers: dict[str, str] = {}
        self.credential = credential
        self._body = orjson.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]})

    async def body(self) -> bytes:
        return self._body


class Deaf:
    """An observer that fails at every call."""

    def call_finished(self, record: CallRecord) -> None:
        raise RuntimeError(f"{record.id} sk-canary")


async def test_an_observer_that_fails_is_logged_and_neither_the_client_nor_the_next_one_notices(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []

    class Listening:
        def call_finished(self, record: CallRecord) -> None:
            told.append(record.code)

    async with running({"m": "demo-ok"}) as (gateway, _):
        pipeline = replace(gateway.pipeline, observers=(Deaf(), Listening()))
        for credential, model, error in (("sk-none", "m", Unauthenticated), (KEY, "none", ModelNotFound)):
            with pytest.raises(error):
                await pipeline.run(Incoming(1, credential, model), NOBODY)
    assert told == ["invalid_api_key", "model_not_found"]
    crashes = [json.loads(line.getMessage()) for line in caplog.records if '"crash"' in line.getMessage()]
    assert [crash["kind"] for crash in crashes] == ["RuntimeError"] * 2
    assert "canary" not in caplog.text


def series(gateway: Gateway) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {(s.name, tuple(s.labels.items())) for m in gateway.registry.collect() for s in m.samples}


async def test_100000_unknown_models_and_keys_make_no_series() -> None:
    """All of them go through the whole pipeline, some of them through HTTP before, which makes what series there are."""
    everything = {"tenant_labels": True, "max_label_values": 100}
    pepper = {"pepper": "p" * 32}
    async with (
        running({"m": "demo-ok"}, metrics=everything, auth=pepper) as (gateway, _),
        aiohttp.ClientSession() as http,
    ):
        url = f"{gateway.url}/v1/chat/completions"
        for key, model in ((KEY, "m"), (KEY, "unknown"), ("sk-sl-unknown", "m")):
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
            async with http.post(url, json=body, headers={"authorization": f"Bearer {key}"}) as response:
                assert response.status in (200, 404, 401)
        before = series(gateway)
        for number in range(100_000):
            with pytest.raises(ModelNotFound):
                await gateway.pipeline.run(Incoming(number, KEY, f"unknown-{number}"), NOBODY)
            with pytest.raises(Unauthenticated):
                await gateway.pipeline.run(Incoming(number, f"sk-sl-{number:032d}", "m"), NOBODY)
        assert series(gateway) == before
        value = gateway.registry.get_sample_value
        assert (
            value("sluice_requests_total", {"model": "unknown", "code": "model_not_found", "status": "404"}) == 100_001
        )
        assert (
            value("sluice_requests_total", {"model": "unknown", "code": "invalid_api_key", "status": "401"}) == 100_001
        )


def test_known_models_and_deployments_over_the_cap_share_one_series() -> None:
    registry = CollectorRegistry()
    observers = (PrometheusObserver(registry, 3), GenAIMetrics(registry, {}, 3), TierMetrics(registry, {}, 3))
    for number in range(50):
        attempt = Attempt(1, f"d{number}", "p", "m", usage=Usage(input=1, output=2), cost=5)
        record = CallRecord(
            "r", model=f"m{number}", effective_tier="default", served_tier="default", attempts=[attempt]
        )
        for observer in observers:
            observer.call_finished(record)
    labels = {
        (name, label)
        for metric in registry.collect()
        for sample in metric.samples
        for name, label in sample.labels.items()
        if name in ("model", "gen_ai_request_model", "deployment")
    }
    assert {label for name, label in labels if name == "deployment"} == {"d0", "d1", "d2", "other"}
    assert {label for name, label in labels if name != "deployment"} == {"m0", "m1", "m2", "other"}


def test_codes_over_the_cap_share_one_series() -> None:
    """What is wrong with a request the provider says in words of its own."""
    registry = CollectorRegistry()
    observers = (PrometheusObserver(registry, 3), GenAIMetrics(registry, {}, 3))
    for code in (*(f"c{number}" for number in range(50)), "ok"):
        for observer in observers:
            observer.call_finished(CallRecord("r", model="m", status=400, code=code))
    samples = [s for metric in registry.collect() for s in metric.samples]
    told = {s.labels["code"]: s.value for s in samples if s.name == "sluice_requests_total"}
    assert told == {"c0": 1, "c1": 1, "other": 48, "ok": 1}
    assert {s.labels["error_type"] for s in samples if "error_type" in s.labels} == {"c0", "c1", "other", ""}


def test_durations_are_named_by_the_conventions() -> None:
    registry = CollectorRegistry()
    observer = GenAIMetrics(registry, {"europe": "azure.ai.openai"}, 10)
    usage = Usage(input=100, output=11)
    observer.call_finished(
        CallRecord(
            "r", model="m", stream=True, ttft=0.5, seconds=2.5, usage=usage, served_tier="flex",
            attempts=[Attempt(1, "d", "europe", "gpt", usage=usage)],
        )
    )  # fmt: skip
    who = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "azure.ai.openai",
        "gen_ai_request_model": "m",
    }
    value, tier = registry.get_sample_value, {"openai_response_service_tier": "flex"}
    assert value("gen_ai_server_request_duration_seconds_sum", {**who, "error_type": ""}) == 2.5
    assert value("gen_ai_server_time_to_first_token_seconds_sum", {**who, **tier}) == 0.5
    assert value("gen_ai_server_time_per_output_token_seconds_sum", {**who, **tier}) == pytest.approx(0.2)
    assert value("gen_ai_client_token_usage_sum", {**who, "gen_ai_token_type": "input"}) == 100
    assert value("gen_ai_client_token_usage_sum", {**who, "gen_ai_token_type": "output"}) == 11
    observer.call_finished(CallRecord("r", model="m", status=502, code="upstream_error", seconds=1))
    failed = {**who, "gen_ai_provider_name": "sluice", "error_type": "upstream_error"}
    assert value("gen_ai_server_request_duration_seconds_sum", failed) == 1


async def test_what_is_left_of_limits_and_budgets_is_told() -> None:
    keys = [{"name": "test", "key": KEY, "team": "search", "limits": {"rpm": 60}}]
    teams = {"search": {"limits": {"budget": {"month": 10}}}}
    labelled = {"tenant_labels": True}
    async with running({"m": "demo-ok"}, keys=keys, teams=teams, metrics=labelled) as (gateway, _):
        value, standing = gateway.registry.get_sample_value, gateway.telemetry.standing
        await standing.look()
        budget = {"owner": "team", "scope": "search", "limit": "budget.month"}
        assert value("sluice_budget_remaining_usd", budget) == 10, "told before anybody calls"
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            for _ in range(6):
                async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
                    assert response.status == 200
        await standing.look()
        spent = value("sluice_tenant_cost_usd_total", {"team": "search", "key": "test"})
        assert spent
        assert value("sluice_budget_cap_usd", budget) == 10
        assert value("sluice_budget_remaining_usd", budget) == pytest.approx(10 - spent, abs=1e-6)
        assert value("sluice_limit_remaining_ratio", {"owner": "team", "limit": "budget.month"}) == pytest.approx(
            1 - spent / 10, abs=1e-6
        )
        left = value("sluice_limit_remaining", {"owner": "key", "scope": "test", "limit": "rpm"})
        assert left is not None
        assert 53 <= left <= 56  # six of sixty, and a second or two regains one or two
        assert value("sluice_limit_cap", {"owner": "key", "scope": "test", "limit": "rpm"}) == 60


async def ask(http: aiohttp.ClientSession, gateway: Gateway, key: str) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": f"Bearer {key}"}
    async with http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status == 200


async def test_limits_that_were_changed_or_deleted_are_not_told_any_more() -> None:
    """Else the alert that a budget is nearly used would go on after it was raised."""
    owner = Actor("admin:test")
    sections: dict[str, Any] = {"metrics": {"tenant_labels": True}, "auth": {"pepper": "p" * 32}}
    async with running({"m": "demo-ok"}, **sections) as (gateway, _), aiohttp.ClientSession() as http:
        value, standing, admin = gateway.registry.get_sample_value, gateway.telemetry.standing, gateway.records.admin
        await admin.create(owner, "team", {"id": "t", "limits": {"budget": {"total": 0.01}}})
        silent = await admin.create(owner, "key", {"name": "a", "team": "t", "limits": {"rpd": 1}})
        busy = await admin.create(owner, "key", {"name": "b", "team": "t"})
        for key in (silent, busy):
            await ask(http, gateway, key["key"])
        await standing.look()
        of_key, of_team = {"owner": "key", "limit": "rpd"}, {"owner": "team", "limit": "budget.total"}
        ratio, cap = "sluice_limit_remaining_ratio", "sluice_budget_cap_usd"
        assert value(ratio, of_key) == 0
        assert value(cap, {**of_team, "scope": "t"}) == 0.01
        await admin.update(owner, "team", "t", {"limits": {"budget": {"total": 100}}})
        await ask(http, gateway, busy["key"])
        await standing.look()
        assert value(cap, {**of_team, "scope": "t"}) == 100
        assert (value(ratio, of_team) or 0) > 0.9999
        for key in (silent, busy):
            await admin.delete(owner, "key", key["id"])
        await admin.delete(owner, "team", "t")
        await standing.look()
        assert {value(ratio, of_key), value(ratio, of_team), value(cap, {**of_team, "scope": "t"})} == {None}


async def test_limits_that_a_reload_changed_are_told_before_anybody_calls() -> None:
    read: list[Any] = []
    keys = [{"name": f"k{n}", "key": f"{KEY}-{n}", "team": "t", "limits": {"rpd": 10 + n}} for n in range(2)]
    sections: dict[str, Any] = {"teams": {"t": {"limits": {"rpd": 7}}}, "metrics": {"tenant_labels": True}}
    async with running({"m": "demo-ok"}, lambda: read[-1], keys=keys, **sections) as (gateway, _):
        standing = gateway.telemetry.standing
        await standing.look()
        changed = [
            key.model_copy(update={"limits": key.limits.model_copy(update={"rpd": 30})}) for key in gateway.config.keys
        ]
        teams = {"t": gateway.config.teams["t"].model_copy(update={"limits": changed[0].limits})}
        read.append(gateway.config.model_copy(update={"keys": (changed[0],), "teams": teams}))
        await gateway.reloader.try_reload()
        await standing.look()
        caps = [s for m in gateway.registry.collect() if m.name == "sluice_limit_cap" for s in m.samples]
        assert {s.labels["scope"]: s.value for s in caps} == {"k0": 30, "t": 30}


async def test_a_redis_that_dies_is_told() -> None:
    own = RedisServer()
    try:
        async with running({"m": "demo-ok"}, redis={"url": own.url}) as (gateway, _):
            healthy = gateway.telemetry.stores.healthy
            assert healthy == {"database": True, "redis": True}
            own.kill()
            await until(lambda: not healthy["redis"])
            gateway.vitals.refresh()
            value = gateway.registry.get_sample_value
            assert value("sluice_store_healthy", {"store": "redis"}) == 0
            assert value("sluice_store_healthy", {"store": "database"}) == 1
            own.start()
            await until(lambda: healthy["redis"])
            assert value("sluice_store_latency_seconds", {"store": "redis"})
    finally:
        own.stop()


async def test_a_ledger_whose_rows_sql_does_not_take_is_told() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _):
        ledger, value = gateway.records.ledger, gateway.registry.get_sample_value
        assert ledger is not None
        assert value("sluice_store_healthy", {"store": "ledger"}) == 1
        await gateway.records.database._writer.run(lambda c: c.execute("PRAGMA query_only = ON").close())
        ledger.append(CallRecord("req_1", "m", None, 200, attempts=[Attempt(1, "p/m", "p", "m")]))
        await until(lambda: not ledger.is_healthy)
        gateway.vitals.refresh()
        assert value("sluice_store_healthy", {"store": "ledger"}) == 0
        assert value("sluice_ledger_rejected_rows_total") == 0
        await gateway.records.database._writer.run(lambda c: c.execute("PRAGMA query_only = OFF").close())
        await ledger._rejected.add(["req_1"])
        for _ in range(2):
            gateway.vitals.refresh()
            assert value("sluice_ledger_rejected_rows_total") == 1


async def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.05)


def test_histograms_say_what_prometheus_s_own_would() -> None:
    """Bulk counting goes around ``Histogram.observe``: every boundary, just below and above it, and far beyond."""
    from prometheus_client import Histogram

    registry, plain = CollectorRegistry(), CollectorRegistry()
    observer = GenAIMetrics(registry, {}, 10)
    name = "gen_ai_server_request_duration_seconds"
    own = Histogram(name, "", buckets=DURATION, registry=plain)
    values = [v for bound in DURATION for v in (bound - 1e-9, bound, bound + 1e-9)] + [0.0, 1e6]
    for value in values:
        own.observe(value)
        observer.call_finished(CallRecord("r", model="m", seconds=value))
        if value > 40:
            observer.refresh()

    def buckets(found: CollectorRegistry) -> dict[str, float]:
        metrics = [m for m in found.collect() if m.name == name]
        return {
            s.labels.get("le", s.name[len(name) :]): s.value
            for m in metrics
            for s in m.samples
            if "_created" not in s.name
        }

    assert buckets(registry) == pytest.approx(buckets(plain))


def test_the_documented_line_of_the_log_has_the_fields_of_a_call(caplog: pytest.LogCaptureFixture) -> None:
    page = (Path(__file__).parents[1] / "docs" / "observability.md").read_text()
    documented = json.loads(page.split("```json\n")[1].split("```")[0])
    context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with caplog.at_level("INFO", "sluice.access"):
        AccessLog().call_finished(CallRecord("r", traceparent=context))
    said = json.loads(caplog.messages[-1])
    assert ["at", "level", "logger", *said] == list(documented)
    assert said["trace_id"] == context[3:35]


def test_usual_calls_are_told_like_any_other() -> None:
    """One look for all metrics gives what each of them finds for itself."""
    chance = random.Random(1)
    together, apart = CollectorRegistry(), CollectorRegistry()
    providers = {"p": "openai"}

    def metrics(registry: CollectorRegistry) -> tuple[Any, ...]:
        return (
            *(PrometheusObserver(registry, 3), GenAIMetrics(registry, providers, 3)),
            *(OverheadMetrics(registry), TierMetrics(registry, {}, 3)),
        )

    observer, observers = CallMetrics(*metrics(together)), metrics(apart)
    seen = 0
    for number in range(3000):
        call = any_call(chance)
        seen += usual(call)
        observer.call_finished(call)
        for one in observers:
            one.call_finished(call)
        if number % 500 == 0:
            observer.forget()
            assert samples(together) == pytest.approx(samples(apart))
    assert 500 < seen < 2500
    assert samples(together) == pytest.approx(samples(apart))
    assert len(samples(together)) > 500


def any_call(chance: random.Random) -> CallRecord:
    """A call of a few models, tiers and fates: half of them usual ones."""

    def rarely(value: Any, otherwise: Any = None) -> Any:
        return value if chance.random() < 0.07 else otherwise

    tier, stream = chance.choice(("default", "flex", "priority")), chance.random() < 0.5
    attempts = [
        Attempt(
            *(n + 1, f"d{chance.randrange(5)}", "p", "m"), served_tier=tier, status=rarely("timeout", "ok"), cost=chance.randrange(99),
            usage=Usage(input=chance.randrange(99), output=chance.randrange(9), cache_read=rarely(7, 0), reasoning=rarely(3, 0)),
        )
        for n in range(rarely(2, rarely(0, 1)))
    ]  # fmt: skip
    made = CallRecord(
        "r", f"m{chance.randrange(5)}", status=200, code=rarely("server_error", "ok"), operation=rarely("embeddings", "chat"),
        stream=stream, requested_tier=chance.choice((None, "auto", tier)), effective_tier=rarely(None, tier),
        served_tier=rarely(None, tier), downgrade=rarely("limit"), queued=rarely(0.2), seconds=chance.random() + 1,
        ttft=rarely(None, chance.random()), fallback=rarely("m9"), spillover=rarely(("a", "b")), retry_denied=rarely(True, False),
        attempts=attempts, shed=rarely(True, False),
    )  # fmt: skip
    made.known, made.read = made.began + 1e-4, made.began + 2e-4
    made.reserved, made.settled = made.began + 4e-4, made.began + 1.1
    if attempts:
        made.usage, made.cost = attempts[-1].usage, sum(attempt.cost for attempt in attempts)
    return made


def samples(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    return {
        (s.name, *map(str, s.labels.items())): s.value
        for metric in registry.collect()
        for s in metric.samples
        if not s.name.endswith("_created")
    }


async def test_a_version_that_no_longer_runs_has_no_series() -> None:
    read: list[Any] = []
    async with running({"m": "demo-ok"}, lambda: read[-1]) as (gateway, _):
        for attempts in range(2, 6):
            config = gateway.config
            read.append(config.model_copy(update={"retries": config.retries.model_copy(update={"attempts": attempts})}))
            await gateway.reloader.try_reload()
            gateway.vitals.refresh()
        versions = [s for m in gateway.registry.collect() if m.name == "sluice_config_info" for s in m.samples]
        assert [(s.labels["version"], s.value) for s in versions] == [(gateway.generation.version, 1)]


async def test_what_a_budget_refused_has_a_row_and_is_no_request() -> None:
    admin = "a" * 32
    keys = [{"name": "test", "key": KEY, "limits": {"budget": {"day": "0.01"}, "rpd": 100}}]
    async with running({"m": "demo-ok"}, keys=keys, admin={"keys": {"ops": admin}}) as (gateway, _):
        async with aiohttp.ClientSession() as http:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            told = []
            for most in (10, 100_000, 100_000):
                asked = {**body, "max_completion_tokens": most}
                headers = {"authorization": f"Bearer {KEY}"}
                async with http.post(f"{gateway.url}/v1/chat/completions", json=asked, headers=headers) as response:
                    told.append((response.status, (await response.json()).get("error", {}).get("code")))
            assert told == [(200, None), (429, "insufficient_quota"), (429, "insufficient_quota")]

            async def get(path: str) -> Any:
                url, headers = f"{gateway.admin_url}/admin/v1/{path}", {"authorization": f"Bearer {admin}"}
                async with http.get(url, headers=headers) as response:
                    assert response.status == 200
                    return (await response.json())["data"]

            (row,) = await get("usage?group_by=key")
            assert (row["requests"], row["errors"]) == (1, 2)
            rows = await get("ledger")
            assert [(r["status"], r["cost"]) for r in rows if r["attempt"] == 0] == [("insufficient_quota", 0)] * 2
            assert await get("reconcile") == [], "the counters of requests a day do not count them either"


async def test_more_keys_than_the_cap_are_looked_after_in_turn_and_named_only_up_to_it() -> None:
    keys = [{"name": f"k{n}", "key": f"{KEY}-{n}", "limits": {"rpd": 10 + n}} for n in range(6)]
    few = {"tenant_labels": True, "max_label_values": 3}
    async with running({"m": "demo-ok"}, keys=keys, metrics=few) as (gateway, _), aiohttp.ClientSession() as http:
        standing = gateway.telemetry.standing
        await standing.look()
        for number in (5, 4, 3):
            for _ in range(2):
                body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
                headers = {"authorization": f"Bearer {KEY}-{number}"}
                async with http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as response:
                    assert response.status == 200
        await standing.look()
        least = gateway.registry.get_sample_value("sluice_limit_remaining_ratio", {"owner": "key", "limit": "rpd"})
        assert least == pytest.approx(11 / 13), "of the three that called last"
        named = {
            s.labels["scope"] for m in gateway.registry.collect() if m.name == "sluice_limit_cap" for s in m.samples
        }
        assert len(named) == 3

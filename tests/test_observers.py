"""What observers tell of calls, and that nobody can make series at will."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client import CollectorRegistry

from adapters.usage import Usage
from gateway.app import Gateway
from gateway.call import Attempt, CallRecord, Principal
from gateway.errors import ModelNotFound, Unauthenticated
from gateway.observers.genai import DURATION, GenAIMetrics
from gateway.observers.metrics import PrometheusObserver
from gateway.observers.tenants import TenantObserver
from gateway.observers.tiers import TierMetrics

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

    client_marks, traceparent = (None, None), None

    def __init__(self, number: int, credential: str, model: str) -> None:
        self.id = f"req_{number:032x}"
        self.headers: dict[str, str] = {}
        self.credential = credential
        self._body = orjson.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]})

    async def body(self) -> bytes:
        return self._body


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

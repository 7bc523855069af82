"""What observers tell of calls: spans, tenants' series, and never a prompt."""

import asyncio
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry

from gateway.call import CallRecord, Principal
from gateway.observers.tenants import TenantObserver

from .running import KEY, deployment, running

PROMPT = "a prompt that nobody else may read"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def collector() -> tuple[web.AppRunner, str, list[bytes]]:
    received: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response()

    application = web.Application()
    application.router.add_post("/v1/traces", take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces", received


def spans(received: list[bytes]) -> list[Any]:
    found = []
    for body in received:
        request = ExportTraceServiceRequest.FromString(body)
        found += [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
    return found


async def test_a_call_is_a_span_that_continues_the_client_s_trace_and_holds_no_prompt() -> None:
    import aiohttp

    runner, endpoint, received = await collector()
    models = {"m": [deployment("demo-529"), deployment("demo-echo", "anthropic")]}
    async with running(models, tracing={"endpoint": endpoint}) as (gateway, _), aiohttp.ClientSession() as http:
        body = {"model": "m", "messages": [{"role": "user", "content": PROMPT}]}
        headers = {"authorization": f"Bearer {KEY}", "traceparent": PARENT}
        async with http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status == 200
    await runner.cleanup()
    (span,) = await asyncio.to_thread(spans, received)
    assert span.trace_id.hex() == PARENT.split("-")[1]
    assert span.parent_span_id.hex() == PARENT.split("-")[2]
    attributes = {a.key: a.value for a in span.attributes}
    assert attributes["gen_ai.request.model"].string_value == "m"
    assert attributes["gen_ai.provider.name"].string_value == "anthropic"
    assert attributes["gen_ai.usage.output_tokens"].int_value > 0
    assert [e.name for e in span.events] == ["attempt", "attempt"]
    assert not any(PROMPT.encode() in body or KEY.encode() in body for body in received)


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


async def test_100000_unknown_models_and_keys_make_no_series() -> None:
    """Ten requests through HTTP show that the label is the same; the observer is then told of the rest directly."""
    import aiohttp

    async with running({"m": "demo-ok"}) as (gateway, _), aiohttp.ClientSession() as http:
        url, good = f"{gateway.url}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
        counts = []
        for number in range(10):
            body = {"model": f"unknown-{number}", "messages": [{"role": "user", "content": "hi"}]}
            await (await http.post(url, json=body, headers=good)).read()
            await (await http.post(url, json=body, headers={"authorization": f"Bearer sk-{number:040d}"})).read()
            counts.append(sum(len(m.samples) for m in gateway.registry.collect()))
        assert counts[0] == counts[-1]
        for number in range(100_000):
            record = CallRecord(f"req_{number}", status=404, code="model_not_found")
            gateway.pipeline.observers[0].call_finished(record)
        assert sum(len(m.samples) for m in gateway.registry.collect()) == counts[-1]

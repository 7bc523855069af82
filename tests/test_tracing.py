"""What traces say, where they go, and what providers are told of them."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from gateway.tracecontext import span_of, valid

from .running import KEY, deployment, running

TRACE, PARENT_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{PARENT_SPAN}-01"
PROMPT, ANSWER = "a prompt that nobody else may read", "Echo"


class Receiver:
    """An OTLP/HTTP receiver on loopback."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        self.paths.append(request.path)
        return web.Response()

    @property
    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            s for r in requests for resource in r.resource_spans for scope in resource.scope_spans for s in scope.spans
        ]


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    made, application = Receiver(), web.Application()
    application.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


async def ask(url: str, *, model: str = "m", path: str = "chat/completions", **more: Any) -> int:
    headers = {"authorization": f"Bearer {KEY}", **more.pop("headers", {})}
    body = more.pop("body", {"messages": [{"role": "user", "content": PROMPT}]})
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{url}/v1/{path}", json={"model": model, **body, **more}) as response:
            await response.read()
            return response.status


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "x" * 55,
        PARENT.upper(),
        PARENT + "-00",
        f"ff-{TRACE}-{PARENT_SPAN}-01",
        f"00-{'0' * 32}-{PARENT_SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT_SPAN}\r\n01",
    ],
)
def test_what_is_no_trace_context_counts_as_none(given: str | None) -> None:
    assert valid(given) is None


def test_a_trace_context_is_taken_as_it_is() -> None:
    assert valid(PARENT) == PARENT


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_a_trace_of_our_own_is_sampled_as_the_sampler_will_say(ratio: float) -> None:
    sampler = TraceIdRatioBased(ratio)
    for number in range(200):
        span = span_of(f"req_{number:032x}", None, sampler.bound)
        assert sampler.should_sample(None, span.trace, "x").decision.is_sampled() == span.sampled
        assert f"{number:032x}" not in span.header(), "the id of a request is nobody else's business"


async def test_providers_get_the_client_s_context_where_nothing_is_traced() -> None:
    async with running({"m": [deployment("demo-529"), deployment("demo-echo", "anthropic")]}) as (gateway, upstream):
        await ask(gateway.url, headers={"traceparent": PARENT})
        assert [e.headers.get("traceparent") for e in upstream.journal] == [PARENT, PARENT]
        upstream.journal.clear()
        await ask(gateway.url, headers={"traceparent": "00-nonsense-that-has-the-length-of-a-trace-context-xxxx-01"})
        await ask(gateway.url)
        assert not [e for e in upstream.journal if "traceparent" in e.headers]


async def test_providers_get_our_span_s_context_where_calls_are_traced() -> None:
    async with receiver() as otlp:
        async with running({"m": "demo-echo"}, tracing={"endpoint": f"{otlp.url}/v1/traces"}) as (gateway, upstream):
            await ask(gateway.url, headers={"traceparent": PARENT})
            await ask(gateway.url, stream=True)
            told = [e.headers["traceparent"] for e in upstream.journal]
    spans = await asyncio.to_thread(lambda: otlp.spans)
    assert told == [f"00-{s.trace_id.hex()}-{s.span_id.hex()}-01" for s in spans]
    assert (spans[0].trace_id.hex(), spans[0].parent_span_id.hex()) == (TRACE, PARENT_SPAN)
    assert spans[1].parent_span_id == b""
    assert spans[1].trace_id != spans[0].trace_id


async def test_a_trace_that_the_client_does_not_sample_is_passed_on_and_not_exported() -> None:
    async with receiver() as otlp:
        async with running({"m": "demo-echo"}, tracing={"endpoint": f"{otlp.url}/v1/traces"}) as (gateway, upstream):
            await ask(gateway.url, headers={"traceparent": PARENT[:-1] + "0"})
            (entry,) = upstream.journal
            assert entry.headers["traceparent"].startswith(f"00-{TRACE}-")
            assert entry.headers["traceparent"].endswith("-00")
    assert otlp.spans == []


async def test_nothing_is_passed_on_where_that_is_switched_off() -> None:
    async with running({"m": "demo-echo"}, tracing={"propagate": False}) as (gateway, upstream):
        await ask(gateway.url, headers={"traceparent": PARENT})
        (entry,) = upstream.journal
        assert "traceparent" not in entry.headers


async def test_a_line_of_the_log_names_the_trace_though_providers_are_told_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "sluice.access")
    async with receiver() as otlp:
        tracing = {"endpoint": f"{otlp.url}/v1/traces", "propagate": False}
        async with running({"m": "demo-echo"}, tracing=tracing) as (gateway, _):
            await ask(gateway.url)
            await ask(gateway.url, headers={"traceparent": PARENT})
    told = [json.loads(r.getMessage())["trace_id"] for r in caplog.records if r.name == "sluice.access"]
    assert told == [span.trace_id.hex() for span in otlp.spans]
    assert told[1] == TRACE


async def test_embeddings_are_no_chat() -> None:
    async with receiver() as otlp:
        async with running({"m": "demo-echo"}, tracing={"endpoint": f"{otlp.url}/v1/traces"}) as (gateway, _):
            assert await ask(gateway.url, path="embeddings", body={"input": "text"}) == 200
    (span,) = otlp.spans
    assert span.name == "embeddings m"
    assert attributes(span)["gen_ai.operation.name"] == "embeddings"


async def test_langfuse_gets_generations_with_cost_user_and_tags() -> None:
    keys = [{"name": "test", "key": KEY, "user": "ada", "tags": ["nightly"]}]
    async with receiver() as otlp:
        langfuse = {"host": otlp.url, "public_key": "pk-lf-1", "secret_key": "sk-lf-2"}
        sections = {"tracing": {"langfuse": langfuse}, "keys": keys, "users": {"ada": {}}}
        async with running({"m": "demo-echo"}, **sections) as (gateway, _):
            await ask(gateway.url, stream=True)
    assert otlp.paths == ["/api/public/otel/v1/traces"]
    assert base64.b64decode(otlp.headers[0]["authorization"].removeprefix("Basic ")) == b"pk-lf-1:sk-lf-2"
    found = attributes(otlp.spans[0])
    assert found["langfuse.observation.type"] == "generation"
    assert json.loads(found["langfuse.observation.cost_details"])["total"] > 0
    assert found["user.id"] == "ada"
    assert [v.string_value for v in found["langfuse.trace.tags"].values] == ["nightly"]
    assert "langfuse.observation.completion_start_time" in found
    assert not any(PROMPT.encode() in body for body in otlp.bodies)


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_and_answers_are_in_spans_only_where_asked_for(stream: bool) -> None:
    for wanted in (False, True):
        async with receiver() as otlp:
            tracing = {"endpoint": f"{otlp.url}/v1/traces", "content": wanted}
            async with running({"m": "demo-echo"}, tracing=tracing) as (gateway, _):
                await ask(gateway.url, stream=stream)
        found = attributes(otlp.spans[0])
        assert any(PROMPT.encode() in body for body in otlp.bodies) == wanted
        if wanted:
            (said,) = json.loads(found["gen_ai.input.messages"])
            assert said == {"role": "user", "parts": [{"type": "text", "content": PROMPT}]}
            (answer,) = json.loads(found["gen_ai.output.messages"])
            assert answer["role"] == "assistant"
            assert answer["parts"][0]["content"]
            assert answer["finish_reason"] == "stop"

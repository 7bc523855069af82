"""A client that speaks only OpenAI, in front of every dialect: conversations, failovers, credentials, embeddings."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from adapters.interface import UpstreamRequest
from gateway import demo
from gateway.credentials.aws import Keys, signed
from gateway.demo.answer import vectors
from gateway.demo.gemini import SIGNATURE
from gateway.upstream.head import locate

from .contract import Contract
from .dialects import DIALECTS, EMBEDDERS, each, every_dialect
from .replay import completion_problems, stream_problems
from .running import deployment, running
from .test_active_health import server
from .test_flow import ASK, client

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}},
    {"type": "function", "function": {"name": "time", "description": "The time.", "parameters": CITY}},
]
WORDS = "Say one two three"


async def said(sdk: AsyncOpenAI, stream: bool, **request: Any) -> Any:
    """The completion, put together by the SDK when it is streamed."""
    if not stream:
        return await sdk.chat.completions.create(**request)
    async with sdk.chat.completions.stream(stream_options={"include_usage": True}, **request) as events:
        async for _event in events:
            pass
        return await events.get_final_completion()


@pytest.mark.parametrize("stream", [False, True])
async def test_two_turns_with_parallel_tools_on_every_dialect(stream: bool) -> None:
    async with every_dialect(each("demo-parallel")) as (gateway, upstream, _), client(gateway) as sdk:
        for dialect in DIALECTS:
            first = await said(sdk, stream, model=dialect, tools=TOOLS, **ASK)
            choice = first.choices[0]
            calls = choice.message.tool_calls
            assert choice.finish_reason == "tool_calls", dialect
            assert [c.function.name for c in calls] == ["weather", "time"], dialect
            assert [json.loads(c.function.arguments) for c in calls] == [{"city": "demo"}] * 2, dialect
            assert len({c.id for c in calls}) == 2, dialect
            assert all(len(c.id) <= 40 for c in calls), dialect
            results = [
                {"role": "tool", "tool_call_id": c.id, "content": f"result {at} is sunny"} for at, c in enumerate(calls)
            ]
            messages = [*ASK["messages"], choice.message.model_dump(exclude_none=True), *results]
            second = await said(sdk, stream, model=dialect, tools=TOOLS, messages=messages)
            assert second.choices[0].message.content == "result 0 is sunny result 1 is sunny", dialect
            assert second.choices[0].finish_reason == "stop", dialect
            for answer in (first, second):
                told = answer.usage
                assert told.total_tokens == told.prompt_tokens + told.completion_tokens > 0, dialect
            assert all(entry.complete and entry.status == 200 for entry in upstream.journal), dialect
        assert len(upstream.journal) == 2 * len(DIALECTS)


@pytest.mark.parametrize("stream", [False, True])
async def test_every_dialect_fails_over_to_the_next(stream: bool) -> None:
    scripts = [
        "demo-refused",
        "demo-429",
        "demo-500",
        "demo-503",
        "demo-401",
        *(["demo-error-early"] if stream else ()),
    ]
    models = {
        f"{dialect}/{script}": [deployment(script, dialect), deployment("demo-echo", DIALECTS[at - 1])]
        for at, dialect in enumerate(DIALECTS)
        for script in scripts
    }
    async with every_dialect(models) as (gateway, _, _), client(gateway) as sdk:
        for name in models:
            raw = await sdk.chat.completions.with_raw_response.create(model=name, stream=stream, **ASK)
            assert raw.headers["x-sluice-attempts"] == "2", name
            answer = raw.parse()
            if stream:
                text = "".join([c.choices[0].delta.content or "" async for c in answer if c.choices])  # type: ignore[attr-defined]
            else:
                text = answer.choices[0].message.content or ""
            assert text == WORDS, name


async def test_a_conversation_moves_between_dialects_turn_by_turn() -> None:
    """Tool ids, signatures and thoughts of one provider are no hindrance for the next."""
    async with every_dialect(each("demo-parallel")) as (gateway, _, _), client(gateway) as sdk:
        messages: list[Any] = list(ASK["messages"])
        for dialect in (*DIALECTS, *reversed(DIALECTS)):
            answer = await sdk.chat.completions.create(model=dialect, tools=TOOLS, messages=messages)
            message = answer.choices[0].message
            assert [c.function.name for c in message.tool_calls or []] == ["weather", "time"], dialect  # type: ignore[union-attr]
            messages.append(message.model_dump(exclude_none=True))
            messages += [
                {"role": "tool", "tool_call_id": c.id, "content": f"{dialect} {at}"}
                for at, c in enumerate(message.tool_calls or [])
            ]
            messages.append({"role": "user", "content": "Once more"})


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_is_the_providers_own_on_every_dialect(stream: bool) -> None:
    models = each("demo-cached+reasoning=4+chunks=6")
    async with every_dialect(models) as (gateway, upstream, _), client(gateway) as sdk:
        for dialect in DIALECTS:
            more: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
            answer = await sdk.chat.completions.create(model=dialect, stream=stream, **more, **ASK)
            told = [c.usage async for c in answer][-1] if stream else answer.usage  # type: ignore[union-attr]
            billed = upstream.journal[-1].usage
            assert told is not None, dialect
            assert (told.prompt_tokens, told.completion_tokens) == (100, 10), dialect
            assert (billed.prompt_tokens, billed.completion_tokens) == (100, 10), dialect
            assert told.prompt_tokens_details is not None
            assert told.prompt_tokens_details.cached_tokens == 60, dialect


FORCED = {"tool_choice": {"type": "function", "function": {"name": "weather"}}}
ANSWERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "echo": ({}, {"stop"}),
    "parallel": ({"tools": TOOLS}, {"tool_calls"}),
    "tools": ({"tools": TOOLS, **FORCED}, {"stop"}),
    "reasoning": ({}, {"stop"}),
    "refusal": ({}, {"stop", "content_filter"}),
    "cached": ({}, {"stop"}),
    "long": ({"max_completion_tokens": 3}, {"length"}),
}
"""Script -> what is asked, and how the answer may end."""


async def test_C_266_283_286_314_325_329_472_473_every_dialect_streams_what_it_answers() -> None:
    models = {f"{d}/{script}": [deployment(f"demo-{script}", d)] for d in DIALECTS for script in ANSWERS}
    async with every_dialect(models) as (gateway, upstream, _), aiohttp.ClientSession() as http:
        asking = Contract(gateway, upstream, http)
        for model in models:
            more, ends = ANSWERS[model.partition("/")[2]]
            whole = (await asking.ask(model, **more)).body
            reply = await asking.ask(model, stream=True, stream_options={"include_usage": True}, **more)
            assert completion_problems(whole) == [], model
            assert stream_problems(reply.raw, include_usage=True) == [], model
            (choice,) = whole["choices"]
            assert [choice["finish_reason"]] == reply.finishes, model
            assert choice["finish_reason"] in ends, model
            for key in ("content", "refusal", "reasoning_content"):
                told = "".join(delta.get(key) or "" for delta in reply.deltas())
                assert told == (choice["message"].get(key) or ""), (model, key)
            assert reply.chunks[-1]["usage"] == whole["usage"], model
            assert {chunk["service_tier"] for chunk in reply.chunks} == {whole["service_tier"]}, model


async def test_credentials_come_from_their_issuers_once_and_reach_every_request() -> None:
    async with every_dialect(each("demo-ok")) as (gateway, upstream, issuers), client(gateway) as sdk:
        for dialect in DIALECTS * 2:
            await sdk.chat.completions.create(model=dialect, **ASK)
        headers = [entry.headers for entry in upstream.journal]
    found = dict(zip(DIALECTS, headers, strict=False))
    assert found["azure"]["authorization"] == "Bearer entra-token"
    assert "api-key" not in found["azure"]
    assert found["azure-classic"]["api-key"] == "up"
    assert "authorization" not in found["azure-classic"]
    assert found["vertex"]["authorization"] == found["vertex-claude"]["authorization"] == "Bearer google-token"
    assert found["gemini"]["x-goog-api-key"] == "up"
    assert found["bedrock-key"]["authorization"] == found["cohere"]["authorization"] == "Bearer up"
    signed = found["bedrock"]
    assert signed["authorization"].startswith("AWS4-HMAC-SHA256 Credential=ASIAROLE/")
    assert "/eu-west-1/bedrock/aws4_request, SignedHeaders=" in signed["authorization"]
    assert signed["x-amz-security-token"] == "session"
    # one per account: both Vertex providers have the same
    assert sorted(issuers.asked) == ["/google", "/sts/", "/tenant/oauth2/v2.0/token"]


async def test_a_dead_issuer_is_a_failed_attempt_that_falls_back() -> None:
    models = {name: [deployment("demo-echo", name), deployment("demo-echo", "cohere")] for name in ("azure", "vertex")}
    async with every_dialect(models) as (gateway, upstream, issuers), client(gateway) as sdk:
        issuers.dead = True
        for name in models:
            raw = await sdk.chat.completions.with_raw_response.create(model=name, **ASK)
            assert raw.headers["x-sluice-deployment"] == "cohere/demo-echo"
        assert [entry.dialect for entry in upstream.journal] == ["cohere"] * 2


async def test_a_dead_issuer_hides_no_deployment_and_is_named_where_there_is_no_other() -> None:
    several = [deployment("demo-echo", "azure", name=f"azure-{at}") for at in range(4)]
    models = {"some": [*several, deployment("demo-echo", "cohere")], "none": several}
    async with every_dialect(models) as (gateway, _, issuers), client(gateway) as sdk:
        issuers.dead = True
        raw = await sdk.chat.completions.with_raw_response.create(model="some", **ASK)
        assert raw.headers["x-sluice-deployment"] == "cohere/demo-echo"
        with pytest.raises(openai.InternalServerError, match="could not get its credential"):
            await sdk.chat.completions.create(model="none", **ASK)


async def test_a_credential_that_cannot_be_had_for_a_moment_takes_no_deployment_out() -> None:
    async with every_dialect(each("demo-ok")) as (gateway, _, issuers), client(gateway) as sdk:
        issuers.failing = 2  # a metadata service that begins with the gateway
        await sdk.chat.completions.create(model="azure", **ASK)
        issuers.dead = True
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(model="vertex", **ASK)
        assert all(known.serves for known in gateway.lasting.fleet.breakers().values())
        issuers.dead = False
        await asyncio.sleep(1.05)
        await sdk.chat.completions.create(model="vertex", **ASK)


async def test_a_token_that_ends_early_takes_no_deployment_out_and_one_that_may_not_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.credentials.refresh.SETTLED", 0.2)
    tokens = 0
    ended: set[str] = set()

    async def answer(request: web.Request) -> web.Response:
        nonlocal tokens
        if request.path.endswith("/token"):
            tokens += 1
            return web.json_response({"access_token": f"token-{tokens}", "expires_in": 3600})
        if request.headers["authorization"] in ended or (await request.json())["model"] == "not-ours":
            return web.json_response({"error": {"code": "401", "message": "no"}}, status=401)
        return web.json_response({"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}]})

    async with server(answer) as url:
        entra = {"tenant_id": "t", "client_id": "c", "client_secret": "s", "authority": url}
        models = {"m": [deployment("x", "own")], "n": [deployment("not-ours", "own")]}
        own = {"own": {"adapter": "azure", "base_url": url, "options": entra}}
        async with running(models, providers=own) as (gateway, _), client(gateway) as sdk:
            await sdk.chat.completions.create(model="m", **ASK)
            await asyncio.sleep(0.3)
            ended.add("Bearer token-1")
            with pytest.raises(openai.APIStatusError):
                await sdk.chat.completions.create(model="m", **ASK)
            async with asyncio.timeout(3):
                while tokens < 2:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            await sdk.chat.completions.create(model="m", **ASK)
            with pytest.raises(openai.APIStatusError):
                await sdk.chat.completions.create(model="n", **ASK)
            serves = {name: known.serves for name, known in gateway.lasting.fleet.breakers().items()}
            assert serves == {"own/x": True, "own/not-ours": False}


async def test_bedrock_is_signed_for_where_the_configuration_names_no_credential(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sk")
    upstream = await demo.start()
    plain = {"adapter": "bedrock", "base_url": f"{upstream.url}/bedrock", "options": {"region": "eu-west-1"}}
    own = {**plain, "headers": {"Authorization": "Basic of-a-proxy"}}
    models = {name: [deployment("demo-ok", name)] for name in ("plain", "own")}
    async with running(models, upstream=upstream, providers={"plain": plain, "own": own}) as (gateway, _):
        async with client(gateway) as sdk:
            for name in models:
                await sdk.chat.completions.create(model=name, **ASK)
        sent = [entry.headers["authorization"] for entry in upstream.journal]
    assert sent[0].startswith("AWS4-HMAC-SHA256 Credential=AKENV/")
    assert sent[1] == "Basic of-a-proxy"


@pytest.mark.parametrize(
    "place", ["https://b.example", "https://b.example:443", "https://b.example:8443/x", "http://[::1]:80"]
)
def test_the_host_that_is_signed_is_the_host_that_is_written(place: str) -> None:
    from botocore.auth import _host_from_url

    url = f"{place}/model/a%3A0/converse"
    assert f"\r\nHost: {_host_from_url(url)}\r\n" in locate(url).opening


async def test_E_041_a_thought_signature_survives_a_client_that_drops_unknown_fields() -> None:
    async with every_dialect({"gemini": [deployment("gemini-3-pro+parallel", "gemini")]}) as (gateway, upstream, _):
        async with client(gateway) as sdk:
            first = await sdk.chat.completions.create(model="gemini", tools=TOOLS, **ASK)
            calls = first.choices[0].message.tool_calls or []
            plain = [{"id": c.id, "type": "function", "function": c.function.model_dump()} for c in calls]  # type: ignore[union-attr]
            results = [{"role": "tool", "tool_call_id": c.id, "content": "ok"} for c in calls]
            history = [*ASK["messages"], {"role": "assistant", "tool_calls": plain}, *results]
            await sdk.chat.completions.create(model="gemini", tools=TOOLS, messages=history)
        parts = upstream.journal[-1].body["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [SIGNATURE, None]


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_embeddings_of_every_provider_that_has_them(form: str) -> None:
    async with every_dialect(each("demo")) as (gateway, upstream, _), client(gateway) as sdk:
        for name in EMBEDDERS:
            texts = ["one two", "three"]
            if form == "float":
                answer = await sdk.embeddings.create(model=name, input=texts, dimensions=16, encoding_format="float")
            else:  # the SDK's default: it asks for base64 and unpacks it
                answer = await sdk.embeddings.create(model=name, input=texts, dimensions=16)
            assert [item.index for item in answer.data] == [0, 1], name
            assert [len(item.embedding) for item in answer.data] == [16, 16], name
            for item, text in zip(answer.data, texts, strict=True):
                assert item.embedding == pytest.approx(vectors([text], 16)[0][0], abs=1e-6), name
            assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3, name
            assert upstream.journal[-1].usage.prompt_tokens == 3


async def test_embeddings_fail_over_and_say_where_there_are_none() -> None:
    models = {
        "both": [deployment("demo-503", "gemini"), deployment("demo", "cohere")],
        **{name: [deployment("demo", name)] for name in ("anthropic", "bedrock", "vertex-claude")},
    }
    async with every_dialect(models) as (gateway, _, _), client(gateway) as sdk:
        raw = await sdk.embeddings.with_raw_response.create(model="both", input="x")
        assert raw.headers["x-sluice-deployment"] == "cohere/demo"
        for name in ("anthropic", "bedrock", "vertex-claude"):
            with pytest.raises(openai.BadRequestError, match="no embeddings"):
                await sdk.embeddings.create(model=name, input="x")


async def test_what_was_signed_for_bedrock_is_what_is_sent() -> None:
    """The service computes the signature again, from the bytes that it gets."""
    model = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
    seen: list[tuple[str, str]] = []

    async def converse(request: web.Request) -> web.Response:
        body = await request.read()
        stamp = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        got = UpstreamRequest(
            f"http://{request.headers['host']}{request.raw_path}",
            {"content-type": request.headers["content-type"]},
            body,
        )
        keys, place = Keys("AKDEMO", "sk"), {"service": "bedrock", "region": "us-east-1"}
        seen.append((request.headers["authorization"], signed(got, keys, place, stamp.timestamp())["authorization"]))
        content = [{"text": request.raw_path}]
        told = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": "end_turn"}
        return web.json_response(told)

    app = web.Application()
    app.router.add_post("/{path:.*}", converse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    options = {"access_key_id": "AKDEMO", "secret_access_key": "sk"}
    address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    provider = {"adapter": "bedrock", "base_url": address, "options": options}
    try:
        async with running({"b": [deployment(model, "b")]}, providers={"b": provider}) as (gateway, _):
            async with client(gateway) as sdk:
                answer = await sdk.chat.completions.create(model="b", **ASK)
    finally:
        await runner.cleanup()
    assert answer.choices[0].message.content == f"/model/{model.replace(':', '%3A')}/converse"
    assert len(seen) == 1
    assert seen[0][0] == seen[0][1]

"""The main job, end to end: one endpoint, two dialects, a stream that survives a dead provider."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from gateway.app import Gateway

from .running import KEY, deployment, running

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Say one two three"}]}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
DIALECTS = ("openai", "anthropic")


def client(gateway: Gateway, key: str = KEY, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, **options)


def both(script: str) -> dict[str, Any]:
    return {dialect: [deployment(script, dialect)] for dialect in DIALECTS}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_whole_answer_validates_strictly(dialect: str) -> None:
    async with running(both("demo-echo")) as (gateway, _), client(gateway, _strict_response_validation=True) as sdk:
        answer = await sdk.chat.completions.create(model=dialect, **ASK)
    assert answer.choices[0].message.content == "Say one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_stream_is_the_whole_answer_in_pieces(dialect: str) -> None:
    async with running(both("demo-echo")) as (gateway, _), client(gateway) as sdk:
        stream = await sdk.chat.completions.create(
            model=dialect, stream=True, stream_options={"include_usage": True}, **ASK
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Say one two three"
    assert [c.usage for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_stream_helper_collects_parallel_tool_calls(dialect: str) -> None:
    async with running(both("demo-parallel")) as (gateway, _), client(gateway) as sdk:
        async with sdk.chat.completions.stream(model=dialect, tools=[TOOL], **ASK) as stream:  # type: ignore[list-item]
            async for _event in stream:
                pass
            final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert len(calls) == 2
    assert len({c.id for c in calls}) == 2
    assert all(isinstance(json.loads(c.function.arguments), dict) for c in calls)
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_two_turns_with_parallel_tools(dialect: str, stream: bool) -> None:
    async with running(both("demo-parallel")) as (gateway, _), client(gateway) as sdk:
        first = await sdk.chat.completions.create(model=dialect, tools=[TOOL], **ASK)  # type: ignore[list-item]
        message = first.choices[0].message
        assert message.tool_calls is not None
        results = [
            {"role": "tool", "tool_call_id": c.id, "content": f"result {i}"} for i, c in enumerate(message.tool_calls)
        ]
        messages = [*ASK["messages"], message.model_dump(exclude_none=True), *results]
        if stream:
            async with sdk.chat.completions.stream(model=dialect, tools=[TOOL], messages=messages) as events:  # type: ignore[list-item]
                second = await events.get_final_completion()
                text = second.choices[0].message.content
        else:
            whole = await sdk.chat.completions.create(model=dialect, tools=[TOOL], messages=messages)  # type: ignore[list-item]
            text = whole.choices[0].message.content
    assert text is not None
    assert "result 0" in text
    assert "result 1" in text


FAILURES = (
    "demo-refused",
    "demo-429",
    "demo-500",
    "demo-503",
    "demo-529",
    "demo-502",
    "demo-401",
    "demo-404",
    "demo-quota",
)
BEFORE_CONTENT = ("demo-no-content", "demo-error-early")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_fails_is_invisible(dialect: str, stream: bool) -> None:
    scripts = [*FAILURES, *(BEFORE_CONTENT if stream else ())]
    models = {s: [deployment(s, dialect), deployment("demo-echo", "anthropic")] for s in scripts}
    async with running(models) as (gateway, _), client(gateway) as sdk:
        for script in scripts:
            raw = await sdk.chat.completions.with_raw_response.create(model=script, stream=stream, **ASK)
            assert raw.headers["x-sluice-deployment"] == "anthropic/demo-echo", script
            assert raw.headers["x-sluice-attempts"] == "2", script
            if stream:
                assert "".join([c.choices[0].delta.content or "" async for c in raw.parse()]) == "Say one two three"  # type: ignore[attr-defined]


async def test_a_provider_that_does_not_answer_in_time_is_invisible() -> None:
    models = {
        "m": [deployment("demo-slow+delay=5", timeouts={"first_byte": 0.2}), deployment("demo-echo", "anthropic")]
    }
    async with running(models) as (gateway, upstream), client(gateway) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(model="m", stream=True, **ASK)
        assert raw.headers["x-sluice-deployment"] == "anthropic/demo-echo"
        await asyncio.sleep(0.2)
        assert upstream.in_flight <= 1  # the slow one was hung up on


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("script", ["demo-cut", "demo-closed", "demo-unfinished", "demo-error-late"])
async def test_C_341_C_343_a_death_after_content_is_an_error_event_and_a_broken_connection(
    dialect: str, script: str
) -> None:
    async with running({"m": [deployment(script, dialect), deployment("demo-ok")]}) as (gateway, _):
        async with aiohttp.ClientSession() as http:
            body = {"model": "m", "stream": True, **ASK}
            async with http.post(
                f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}
            ) as response:
                assert response.status == 200
                received = b""
                with pytest.raises(aiohttp.ClientPayloadError):
                    async for data in response.content.iter_any():
                        received += data
        events = [e for e in received.decode().split("\n\n") if e]
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert b"[DONE]" not in received
        async with client(gateway) as sdk:
            stream = await sdk.chat.completions.create(model="m", stream=True, **ASK)
            with pytest.raises(openai.APIError):
                [chunk async for chunk in stream]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_016_C_345_a_client_that_leaves_cancels_the_upstream_and_is_settled(dialect: str) -> None:
    async with running({"m": [deployment("demo-endless", dialect)]}) as (gateway, upstream):
        async with aiohttp.ClientSession() as http:
            response = await http.post(
                f"{gateway.url}/v1/chat/completions",
                json={"model": "m", "stream": True, **ASK},
                headers={"authorization": f"Bearer {KEY}"},
            )
            await response.content.readany()
            assert upstream.in_flight == 1
            left = time.monotonic()
            response.close()
            while upstream.in_flight and time.monotonic() - left < 2:
                await asyncio.sleep(0.005)
            assert time.monotonic() - left < 0.2
        await asyncio.sleep(0.05)
        value = gateway.registry.get_sample_value
        assert value("sluice_requests_total", {"model": "m", "code": "client_closed", "status": "499"}) == 1
        tokens = {"model": "m", "deployment": f"{dialect}/demo-endless", "tier": "default", "kind": "output"}
        assert (value("sluice_tokens_total", tokens) or 0) > 0  # read and hung up on is not free


async def test_a_client_that_leaves_before_the_first_byte_cancels_the_upstream() -> None:
    async with running({"m": "demo-slow+delay=10"}) as (gateway, upstream), aiohttp.ClientSession() as http:
        asked = asyncio.ensure_future(
            http.post(
                f"{gateway.url}/v1/chat/completions",
                json={"model": "m", **ASK},
                headers={"authorization": f"Bearer {KEY}"},
            )
        )
        while not upstream.in_flight:
            await asyncio.sleep(0.01)
        asked.cancel()
        left = time.monotonic()
        while upstream.in_flight and time.monotonic() - left < 2:
            await asyncio.sleep(0.005)
        assert time.monotonic() - left < 0.2


async def test_every_provider_down_is_told_without_a_retry() -> None:
    async with running({"m": [deployment("demo-500"), deployment("demo-529", "anthropic")]}) as (gateway, upstream):
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=2) as sdk:
            with pytest.raises(openai.InternalServerError) as caught:
                await sdk.chat.completions.create(model="m", **ASK)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert caught.value.request_id is not None
        assert len(upstream.journal) <= 3  # our attempts, not multiplied by the SDK's


async def test_C_106_an_unknown_model_is_404() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _), client(gateway) as sdk:
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.chat.completions.create(model="x", **ASK)
    assert caught.value.code == "model_not_found"
    assert caught.value.param is None


async def test_C_021_an_unknown_key_is_401_and_masked() -> None:
    async with running({"m": "demo-ok"}) as (gateway, _), client(gateway, "sk-not-a-real-key-0123456789") as sdk:
        with pytest.raises(openai.AuthenticationError) as caught:
            await sdk.chat.completions.create(model="m", **ASK)
    assert caught.value.code == "invalid_api_key"
    assert "sk-not-a****6789" in caught.value.message
    assert "real" not in caught.value.message


async def test_C_500_models_are_listed_by_what_the_key_may_use() -> None:
    keys = [{"name": "a", "key": KEY, "models": ["fast*"]}, {"name": "b", "key": KEY + "b"}]
    async with running({"fast-1": "demo-ok", "big/model": "demo-ok"}, keys=keys) as (gateway, _):
        async with client(gateway) as sdk:
            assert [m.id async for m in sdk.models.list()] == ["fast-1"]
            with pytest.raises(openai.NotFoundError):
                await sdk.models.retrieve("big/model")
            with pytest.raises(openai.NotFoundError):
                await sdk.chat.completions.create(model="big/model", **ASK)
        async with client(gateway, KEY + "b") as sdk:
            assert (await sdk.models.retrieve("big/model")).id == "big/model"

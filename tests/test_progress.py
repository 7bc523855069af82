"""A stream that sends nothing but heartbeats is dead, before its first content and after it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import openai
import pytest
from aiohttp import web

from .running import deployment, running
from .servers import upstream_of
from .test_flow import ASK, client

CHUNK = b'data: {"id":"x","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
SHORT = {"progress": 0.3, "idle": 5}


@contextlib.asynccontextmanager
async def beating(*first: bytes) -> AsyncIterator[str]:
    """An upstream that says ``first`` and then only that it is alive."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in first:
            await response.write(event)
        while True:
            await response.write(b": still here\n\n")
            await asyncio.sleep(0.05)

    async with upstream_of(answer, handler_cancellation=True, shutdown_timeout=0.1) as url:
        yield url


@pytest.mark.parametrize("adapter", ["openai", "openai-compatible"])
async def test_before_the_first_content_another_answers(adapter: str) -> None:
    async with beating() as url:
        providers = {"beating": {"adapter": adapter, "base_url": url, "api_key": "up"}}
        models = {"m": [deployment("x", "beating", timeouts=SHORT), deployment("demo-ok", "anthropic")]}
        async with running(models, providers=providers) as (gateway, _), client(gateway) as sdk:
            raw = await sdk.chat.completions.with_raw_response.create(model="m", stream=True, **ASK)
            assert raw.headers["x-sluice-attempts"] == "2"
            assert "".join([c.choices[0].delta.content or "" async for c in raw.parse()]) == "ok"
            value = gateway.registry.get_sample_value
            assert value("sluice_attempts_total", {"deployment": "beating/x", "status": "timeout"}) == 1


@pytest.mark.parametrize("adapter", ["openai", "openai-compatible"])
async def test_after_it_the_stream_ends_with_an_error(adapter: str) -> None:
    async with beating(CHUNK) as url:
        providers = {"beating": {"adapter": adapter, "base_url": url, "api_key": "up"}}
        models = {"m": [deployment("x", "beating", timeouts=SHORT)]}
        async with running(models, providers=providers) as (gateway, _), client(gateway) as sdk:
            stream = await sdk.chat.completions.create(model="m", stream=True, **ASK)
            with pytest.raises(openai.APIError) as caught:
                async with asyncio.timeout(3):
                    async for _chunk in stream:
                        pass
        assert caught.value.code == "upstream_timeout"

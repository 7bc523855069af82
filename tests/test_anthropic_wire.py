"""Our requests over real HTTP to an upstream that speaks Messages, and its answers through the adapter."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from adapters.anthropic import Anthropic
from adapters.errors import ErrorKind, ProviderError
from gateway import demo
from gateway.demo import DemoUpstream

from . import replay
from .anthropic_requests import TIME, USER, WEATHER, ask, result, target

ADAPTER = Anthropic()


@pytest.fixture
async def upstream() -> AsyncIterator[DemoUpstream]:
    server = await demo.start()
    yield server
    await server.close()


async def exchange(upstream: DemoUpstream, script: str, request: dict[str, Any]) -> Any:
    """A whole answer, or the outcome of a stream; raises what the upstream's failure means."""
    sent = ADAPTER.prepare({"model": "m", **request}, target(f"demo{script}", base_url=upstream.anthropic_url))
    async with (
        aiohttp.ClientSession() as http,
        http.post(sent.url, data=sent.body, headers=dict(sent.headers)) as response,
    ):
        if response.status != 200:
            headers = {name.lower(): value for name, value in response.headers.items()}
            raise ADAPTER.error(response.status, headers, await response.read())
        if not sent.stream:
            return ADAPTER.parse(await response.read(), sent)
        pieces: list[bytes] = []
        try:
            async for piece in response.content.iter_any():
                pieces.append(piece)  # noqa: PERF401 - what came before a broken connection counts
        except aiohttp.ClientPayloadError:
            pass
        return replay.translate(ADAPTER.stream(sent), pieces)


async def test_streamed_and_whole_answers_are_the_same_and_counted_alike(upstream: DemoUpstream) -> None:
    whole = await exchange(upstream, "+chunks=5", ask())
    streamed = await exchange(upstream, "+chunks=5", ask(stream=True))
    assert replay.texts(replay.written(streamed)) == {0: whole.completion["choices"][0]["message"]["content"]}
    assert streamed.usage == whole.usage
    assert [entry.usage for entry in upstream.journal] == [whole.usage] * 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_conversation_of_two_turns(upstream: DemoUpstream, stream: bool) -> None:
    request = ask(stream=stream, tools=[WEATHER, TIME])
    first = await exchange(upstream, "+tools=2", request)
    raw = replay.written(first) if stream else b""
    gathered = replay.Accumulator()
    gathered.add(first.chunks if stream else [])
    said = (gathered.completion() if stream else first.completion)["choices"][0]["message"]
    assert len(said["tool_calls"]) == 2
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in said["tool_calls"])
    assert not stream or not replay.stream_problems(raw, include_usage=True)
    history = [USER, {"role": "assistant", **said}, *(result(call["id"]) for call in said["tool_calls"])]
    second = await exchange(upstream, "", ask(*history, stream=stream, tools=[WEATHER, TIME]))
    assert second.usage is not None


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("-cut", ErrorKind.INCOMPLETE),
        ("-closed", ErrorKind.INCOMPLETE),
        ("-unfinished", ErrorKind.INCOMPLETE),
        ("-error-early", ErrorKind.OVERLOADED),
        ("-error-late", ErrorKind.OVERLOADED),
    ],
)
async def test_a_stream_that_breaks_off_never_ends(upstream: DemoUpstream, script: str, kind: ErrorKind) -> None:
    outcome = await exchange(upstream, script, ask(stream=True))
    assert outcome.error is not None
    assert outcome.error.kind is kind
    assert not any(choice.get("finish_reason") for chunk in outcome.chunks for choice in chunk["choices"])


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("-400", ErrorKind.CONTEXT_LENGTH),
        ("-401", ErrorKind.AUTHENTICATION),
        ("-404", ErrorKind.NOT_FOUND),
        ("-413", ErrorKind.TOO_LARGE),
        ("-429", ErrorKind.RATE_LIMITED),
        ("+fault=quota", ErrorKind.QUOTA),
        ("-500", ErrorKind.SERVER),
        ("-529", ErrorKind.OVERLOADED),
        ("-502", ErrorKind.SERVER),
    ],
)
async def test_failures_are_classified(upstream: DemoUpstream, script: str, kind: ErrorKind) -> None:
    with pytest.raises(ProviderError) as caught:
        await exchange(upstream, script, ask())
    assert caught.value.kind is kind


async def test_reasoning_and_caches_are_counted(upstream: DemoUpstream) -> None:
    for script in ("-reasoning", "+input=100+cached=60+written=20"):
        whole = await exchange(upstream, script, ask())
        streamed = await exchange(upstream, script, ask(stream=True))
        assert streamed.usage == whole.usage == upstream.journal[-1].usage

"""The demo upstream, spoken to by the vendors' own SDKs and by raw HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import anthropic
import jsonschema
import openai
import pytest
import uvloop

from adapters.usage import Usage
from gateway import demo
from gateway.demo import DemoUpstream, Script, script_for
from gateway.demo.scripts import SCRIPTS

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
HELLO = [{"role": "user", "content": "say three words"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": f"tool{i}", "parameters": WEATHER}} for i in range(2)]


@pytest.fixture
async def upstream() -> AsyncIterator[DemoUpstream]:
    server = await demo.start()
    yield server
    await server.close()


@pytest.fixture
async def client(upstream: DemoUpstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=upstream.openai_url, api_key="sk-demo", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def claude(upstream: DemoUpstream) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=upstream.anthropic_url, api_key="sk-demo", max_retries=0) as sdk:
        yield sdk


async def texts(client: openai.AsyncOpenAI, model: str, **more: object) -> list[str]:
    """The content deltas of a stream."""
    stream = await client.chat.completions.create(model=model, messages=HELLO, stream=True, **more)
    return [c.choices[0].delta.content or "" async for c in stream if c.choices]


def test_script_names_compose() -> None:
    assert script_for("gpt-4o-mini") == Script()
    assert script_for("demo-long+gap=0.01+cut=5+how=close") == Script(chunks=100, gap=0.01, cut=5, how="close")
    assert script_for("gpt-4o+no-usage") == Script(usage=False)
    assert script_for("gpt-4o+retry-after=2").retry_after == 2
    for wrong in ("demo-nothing", "x+nothing", "x+cut=many", "x+how=softly", "x+colour=red"):
        assert script_for(wrong) is None


def test_every_script_is_known() -> None:
    assert all(script_for(f"demo-{name}") for name in SCRIPTS)


async def test_answers_and_journals_whole_and_streamed_alike(
    upstream: DemoUpstream, client: openai.AsyncOpenAI
) -> None:
    whole = await client.chat.completions.create(model="demo+chunks=3", messages=HELLO)
    assert whole.choices[0].message.content == "ok word1 word2"
    streamed = await texts(client, "demo+chunks=3", stream_options={"include_usage": True})
    assert streamed == ["", "ok", " word1", " word2", ""]
    assert [e.usage for e in upstream.journal] == [Usage(input=3, output=3)] * 2
    assert all(e.complete and e.reported and e.aborted_at is None for e in upstream.journal)
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 3)
    assert upstream.journal.totals()["output"] == 6


async def test_max_tokens_bounds_the_answer(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="demo-long", messages=HELLO, max_completion_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7


@pytest.mark.parametrize("stream", [False, True])
async def test_parallel_tools_and_their_results(client: openai.AsyncOpenAI, stream: bool) -> None:
    if stream:
        async with client.chat.completions.stream(model="demo-parallel", messages=HELLO, tools=TOOLS) as events:
            answer = await events.get_final_completion()
    else:
        answer = await client.chat.completions.create(model="demo-parallel", messages=HELLO, tools=TOOLS)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert [c.function.name for c in message.tool_calls or []] == ["tool0", "tool1"]
    assert [json.loads(c.function.arguments) for c in message.tool_calls or []] == [{"city": "demo"}] * 2
    results = [{"role": "tool", "tool_call_id": c.id, "content": f"{c.id} is sunny"} for c in message.tool_calls or []]
    said = {"role": "assistant", "tool_calls": [c.model_dump() for c in message.tool_calls or []]}
    after = await client.chat.completions.create(model="demo-parallel", messages=[*HELLO, said, *results], tools=TOOLS)
    assert after.choices[0].message.content == " ".join(r["content"] for r in results)


async def test_structured_output_satisfies_its_schema(client: openai.AsyncOpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a", "b"]},
            "node": {"$ref": "#/$defs/node"},
            "list": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        },
        "required": ["kind", "node", "list"],
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["next"],
            }
        },
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await client.chat.completions.create(model="demo", messages=HELLO, response_format=wanted)
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)


async def test_choices_reasoning_refusal_and_tiers(client: openai.AsyncOpenAI) -> None:
    two = await client.chat.completions.create(model="demo-reasoning", messages=HELLO, n=2, service_tier="flex")
    assert len(two.choices) == 2
    assert two.usage is not None
    assert two.usage.completion_tokens == 2 * (3 + 5)
    assert two.service_tier == "flex"
    refused = await client.chat.completions.create(model="demo-refusal", messages=HELLO)
    assert refused.choices[0].message.refusal == "I'm sorry, I can't help with that."
    lower = await client.chat.completions.create(model="demo-downgraded", messages=HELLO, service_tier="priority")
    assert lower.service_tier == "default"
    with pytest.raises(openai.RateLimitError, match="Resource Unavailable"):
        await client.chat.completions.create(model="demo-flex-refused", messages=HELLO, service_tier="flex")
    await client.chat.completions.create(model="demo-flex-refused", messages=HELLO, service_tier="default")


@pytest.mark.parametrize("script", [name for name, row in SCRIPTS.items() if "fault" in row and "every" not in row])
async def test_refusals_carry_their_status_and_cost_nothing(
    upstream: DemoUpstream, client: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic, script: str
) -> None:
    expected = {"context": 400, "invalid": 400, "content-filter": 400, "quota": 429, "recovers": 500}
    status = expected.get(script) or int(script)
    with pytest.raises(openai.APIStatusError) as failed:
        await client.chat.completions.create(model=f"demo-{script}", messages=HELLO)
    assert failed.value.status_code == status
    assert script != "429" or failed.value.response.headers["retry-after"] == "1"
    with pytest.raises(anthropic.APIStatusError) as refused:
        await claude.messages.create(model=f"claude+{script}", messages=HELLO, max_tokens=10)
    assert refused.value.status_code == status
    assert [(e.status, e.usage) for e in upstream.journal] == [(status, Usage())] * 2


async def test_flapping_and_recovering(client: openai.AsyncOpenAI) -> None:
    async def outcomes(model: str) -> list[bool]:
        seen = []
        for _ in range(4):
            try:
                await client.chat.completions.create(model=model, messages=HELLO)
                seen.append(True)
            except openai.InternalServerError:
                seen.append(False)
        return seen

    assert await outcomes("demo-flapping") == [True, False, True, False]
    assert await outcomes("demo-recovers") == [False, False, True, True]


@pytest.mark.parametrize(
    ("script", "output", "failure"),
    [
        ("refused", None, openai.APIConnectionError),
        ("no-content", 0, Exception),
        ("cut", 3, Exception),
        ("closed", 3, Exception),
        ("unfinished", 3, None),
        ("error-early", 0, openai.APIError),
        ("error-late", 3, openai.APIError),
    ],
)
async def test_broken_streams_break_where_the_script_says(
    upstream: DemoUpstream,
    client: openai.AsyncOpenAI,
    script: str,
    output: int | None,
    failure: type[Exception] | None,
) -> None:
    if failure:
        with pytest.raises(failure):
            await texts(client, f"demo-{script}")
    else:
        assert len(await texts(client, f"demo-{script}")) == 4
    entry = upstream.journal[0]
    assert not entry.complete
    assert entry.usage == (Usage() if output is None else Usage(input=3, output=output))


async def test_broken_whole_answers(upstream: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    for script in ("refused", "cut", "closed"):
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(model=f"demo-{script}", messages=HELLO)
    with pytest.raises(json.JSONDecodeError):
        await client.chat.completions.create(model="demo-unfinished", messages=HELLO)
    assert [e.usage.output for e in upstream.journal] == [0, 10, 10, 10]


async def test_notices_a_client_that_leaves(upstream: DemoUpstream) -> None:
    body = {"model": "demo-endless", "messages": HELLO, "stream": True}
    slow = {"model": "demo+delay=30", "messages": HELLO}
    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"{upstream.openai_url}/chat/completions", json=body)
        await answer.content.read(10)
        waiting = asyncio.create_task(session.post(f"{upstream.openai_url}/chat/completions", json=slow))
        await asyncio.sleep(0.05)
        assert upstream.in_flight == 2
        assert upstream.connections == 2
        answer.close()
        waiting.cancel()
        await asyncio.sleep(0.1)
    assert upstream.in_flight == 0
    first, second = upstream.journal
    assert first.aborted_at == first.usage.output
    assert 1 <= first.usage.output < 30
    assert (second.aborted_at, second.usage) == (-1, Usage())


@pytest.mark.parametrize("stream", [False, True])
async def test_speaks_anthropic(upstream: DemoUpstream, claude: anthropic.AsyncAnthropic, stream: bool) -> None:
    tools = [{"name": "weather", "input_schema": WEATHER}]
    model = "claude+reasoning+parallel+input=100+cached=20+written=30"
    if stream:
        async with claude.messages.stream(model=model, messages=HELLO, max_tokens=99, tools=tools) as events:
            answer = await events.get_final_message()
    else:
        answer = await claude.messages.create(model=model, messages=HELLO, max_tokens=99, tools=tools)
    assert [block.type for block in answer.content] == ["thinking", "tool_use", "tool_use"]
    assert answer.content[1].input == {"city": "demo"}
    assert answer.stop_reason == "tool_use"
    output = upstream.journal[0].usage.output
    assert upstream.journal[0].usage == Usage(input=50, cache_read=20, cache_write=30, output=output, reasoning=5)
    assert answer.usage.output_tokens == output + 5
    assert answer.usage.input_tokens == 50


async def test_anthropic_tool_results_and_errors_in_the_stream(claude: anthropic.AsyncAnthropic) -> None:
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "it is sunny"}]}
    answer = await claude.messages.create(model="demo-tools", messages=[result], max_tokens=99)
    assert answer.content[0].text == "it is sunny"
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        async with claude.messages.stream(model="demo-error-late", messages=HELLO, max_tokens=99) as events:
            await events.get_final_message()


async def test_embeddings_models_and_control(upstream: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    floats = await client.embeddings.create(model="embed", input=["a b", "c"], encoding_format="float", dimensions=4)
    packed = await client.embeddings.create(model="embed", input=["a b", "c"], dimensions=4)
    assert [e.embedding for e in packed.data] == [pytest.approx(e.embedding) for e in floats.data]
    assert floats.usage.prompt_tokens == 3
    assert "demo-cut" in [model.id async for model in client.models.list()]
    async with aiohttp.ClientSession() as session:
        seen = await (await session.get(f"{upstream.url}/journal")).json()
        assert [e["usage"]["input"] for e in seen["entries"]] == [3, 3]
        assert "sk-demo" not in json.dumps(seen)
        assert (await (await session.get(f"{upstream.url}/stats")).json())["in_flight"] == 0
        await session.delete(f"{upstream.url}/journal")
    assert len(upstream.journal) == 0


async def test_scripts_change_while_it_runs(upstream: DemoUpstream, client: openai.AsyncOpenAI) -> None:
    upstream.scripts["gpt"] = Script(fault="server")
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="gpt", messages=HELLO)
    upstream.scripts["gpt"] = Script(text="back")
    assert (await client.chat.completions.create(model="gpt", messages=HELLO)).choices[0].message.content == "back"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"model":1}', b'{"model":"x","messages":[1]}'])
async def test_malformed_requests_get_400(upstream: DemoUpstream, body: bytes) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("openai/v1/chat/completions", "openai/v1/embeddings", "anthropic/v1/messages"):
            assert (await session.post(f"{upstream.url}/{path}", data=body)).status == 400

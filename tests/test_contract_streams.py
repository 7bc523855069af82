"""What a client gets that streams: checklist C-300 to C-355, through the gateway, relayed and translated."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from .contract import DIALECTS, TOOL, USER, Contract, Reply, chunk, contract, sse
from .replay import size_problems, stream_problems

pytestmark = pytest.mark.asyncio(loop_scope="module")
USAGE = {"include_usage": True}
CUSTOM = {"type": "custom", "custom": {"name": "run_sql"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sluice() -> AsyncIterator[Contract]:
    async with contract(server={"ping": 0.1}, timeouts={"idle": 30}) as found:
        yield found


async def stream(sluice: Contract, model: str, **parameters: Any) -> Reply:
    reply = await sluice.ask(model, stream=True, **parameters)
    assert reply.status == 200, reply.raw
    return reply


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_300_301_303_the_head_and_the_lines_of_a_stream(sluice: Contract, dialect: str) -> None:
    reply = await stream(sluice, f"{dialect}-long")
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "no-cache" in reply.headers["cache-control"]
    assert reply.headers["x-request-id"].startswith("req_")
    assert "content-encoding" not in reply.headers
    for block in reply.blocks:
        assert block.startswith("data: ")
        assert "\n" not in block
        assert block != "data: "


async def test_C_301_foreign_lines_of_an_upstream_are_not_passed_on(sluice: Contract) -> None:
    dirty = b"retry: 100\n\n: hello\n\nid: 1\nevent: message\n"
    dirty += sse(chunk({"role": "assistant", "content": ""}), done=False) + b": again\r\n\r\n"
    dirty += sse(chunk({"content": "hi"}), chunk({}, "stop"))
    sluice.says("verbatim-0", dirty, content_type="text/event-stream")
    for model in ("verbatim-0", "mended-0"):
        reply = await stream(sluice, model)
        assert all(block.startswith("data: ") and "\n" not in block for block in reply.blocks), model
        assert reply.text == "hi"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_302_017_a_silent_stream_is_kept_alive_by_comments(sluice: Contract, dialect: str) -> None:
    sluice.upstream.scripts["demo-slow"] = sluice.upstream.scripts.get("demo-slow") or paused()
    reply = await stream(sluice, f"{dialect}-slow")
    pings = [b for b in reply.blocks if b.startswith(":")]
    assert pings
    assert set(pings) == {": ping"}
    assert reply.text == "ok word1"


def paused() -> Any:
    from gateway.demo import Script

    return Script(gap=0.35, chunks=2)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_304_305_306_307_308_309_473_every_chunk_says_the_same_of_itself(
    sluice: Contract, dialect: str
) -> None:
    chunks = (await stream(sluice, f"{dialect}-long", stream_options=USAGE)).chunks
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    for key in ("id", "created", "model", "service_tier", "system_fingerprint"):
        assert all(key in c for c in chunks), key
        assert len({c[key] for c in chunks}) == 1, key
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert chunks[0]["model"] == "demo-long"
    assert chunks[0]["service_tier"] == "default"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_310_311_the_role_comes_first_and_once(sluice: Contract, dialect: str) -> None:
    for script, more in (("echo", {}), ("parallel", {"tools": [TOOL]}), ("refusal", {}), ("reasoning", {})):
        deltas = (await stream(sluice, f"{dialect}-{script}", **more)).deltas()
        assert deltas[0]["role"] == "assistant", script
        assert [d for d in deltas[1:] if "role" in d] == [], script


async def test_C_312_313_choices_interleave_and_appear_in_order(sluice: Contract) -> None:
    chunks = (await stream(sluice, "openai-echo", n=3)).chunks
    indexes = [c["index"] for k in chunks for c in k["choices"]]
    assert all(len(c["choices"]) == 1 for c in chunks)
    assert list(dict.fromkeys(indexes)) == [0, 1, 2]
    assert indexes != sorted(indexes)
    late = [chunk({"role": "assistant", "content": "b"}, index=1), chunk({"role": "assistant", "content": "a"})]
    sluice.says("verbatim-1", sse(*late, chunk({}, "stop"), chunk({}, "stop", 1)), content_type="text/event-stream")
    mended = await stream(sluice, "mended-1", n=2)
    assert list(dict.fromkeys(c["index"] for k in mended.chunks for c in k["choices"])) == [0, 1]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("script", ["echo", "long", "reasoning", "refusal", "cached"])
async def test_C_314_329_a_stream_adds_up_to_the_whole_answer(sluice: Contract, dialect: str, script: str) -> None:
    whole = (await sluice.ask(f"{dialect}-{script}")).body
    reply = await stream(sluice, f"{dialect}-{script}", stream_options=USAGE)
    told = whole["choices"][0]["message"]
    for key in ("content", "refusal", "reasoning_content"):
        assert "".join(d.get(key) or "" for d in reply.deltas()) == (told.get(key) or ""), key
    assert reply.chunks[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_315_316_fragments_of_tool_calls(sluice: Contract, dialect: str) -> None:
    deltas = (await stream(sluice, f"{dialect}-parallel", tools=[TOOL])).deltas()
    fragments = [f for d in deltas for f in d.get("tool_calls") or ()]
    seen: list[int] = []
    for fragment in fragments:
        if fragment["index"] in seen:
            assert fragment["index"] == seen[-1]  # one call ends before the next begins
            assert set(fragment) == {"index", "function"}
            assert set(fragment["function"]) == {"arguments"}
        else:
            assert fragment["index"] == len(seen)
            seen.append(fragment["index"])
            assert fragment["id"]
            assert fragment["type"] == "function"
            assert fragment["function"] == {"name": "weather", "arguments": ""}
    assert seen == [0, 1]
    for index in seen:
        text = "".join(f["function"]["arguments"] for f in fragments if f["index"] == index)
        assert json.loads(text) == {"city": "demo"}


MESSY_TOOLS = [
    {"index": 1, "id": "call_1", "function": {"name": "weather", "arguments": '{"ci'}},  # no type, not from 0
    {"index": 1, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": 'ty":1}'}},
    {"index": 2, "id": "call_2", "type": None, "function": {"name": "weather", "arguments": "{}"}},
    {"index": 2, "id": None, "type": None, "function": {"name": None, "arguments": ""}},
]


async def test_C_315_316_what_other_servers_do_with_tools_is_mended(sluice: Contract) -> None:
    chunks = [chunk({"role": "assistant", "tool_calls": [t]}) for t in MESSY_TOOLS]
    sluice.says("verbatim-2", sse(*chunks, chunk({}, "tool_calls")), content_type="text/event-stream")
    reply = await stream(sluice, "mended-2", tools=[TOOL], stream_options=USAGE)
    fragments = [f for d in reply.deltas() for f in d.get("tool_calls") or ()]
    assert [f["id"] for f in fragments if "id" in f] == ["call_1", "call_2"]
    assert sorted({f["index"] for f in fragments}) == [0, 1]
    texts = ["".join(f["function"]["arguments"] for f in fragments if f["index"] == i) for i in (0, 1)]
    assert texts == ['{"city":1}', "{}"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("n", [1, 2])
async def test_C_317_318_319_every_choice_ends_once_and_last(sluice: Contract, dialect: str, n: int) -> None:
    if n > 1 and dialect == "anthropic":
        return
    reply = await stream(sluice, f"{dialect}-long", n=n)
    for index in range(n):
        told = [c for k in reply.chunks for c in k["choices"] if c["index"] == index]
        assert all("finish_reason" in c for c in told)
        assert [c["finish_reason"] for c in told if c["finish_reason"]] == ["stop"]
        assert told[-1]["finish_reason"] == "stop"
        assert told[-1]["delta"] == {}


async def test_C_317_318_319_repeated_and_early_ends_are_mended(sluice: Contract) -> None:
    chunks = [chunk({"role": "assistant", "content": "a"}, "stop"), chunk({"content": "b"}, "stop"), chunk({}, "stop")]
    sluice.says("verbatim-3", sse(*chunks), content_type="text/event-stream")
    reply = await stream(sluice, "mended-3")
    assert reply.finishes == ["stop"]
    assert reply.deltas()[-1] == {}
    assert reply.text == "ab"


async def test_C_321_log_probabilities_stream(sluice: Contract) -> None:
    entry = {"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": []}
    first, second = chunk({"role": "assistant", "content": ""}), chunk({"content": "hi"})
    first["choices"][0]["logprobs"] = {"content": [], "refusal": None}
    second["choices"][0]["logprobs"] = {"content": [entry], "refusal": None}
    sluice.says("verbatim-4", sse(first, second, chunk({}, "stop")), content_type="text/event-stream")
    for model in ("verbatim-4", "mended-4"):
        told = [c["logprobs"] for k in (await stream(sluice, model, logprobs=True)).chunks for c in k["choices"]]
        assert {"content": [entry], "refusal": None} in told, model
        assert told[0] == {"content": [], "refusal": None}, model


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_322_refusals_stream(sluice: Contract, dialect: str) -> None:
    deltas = (await stream(sluice, f"{dialect}-refusal")).deltas()
    assert "".join(d.get("refusal") or "" for d in deltas) == "I'm sorry, I can't help with that."
    assert not any(d.get("content") for d in deltas)


async def test_C_323_function_calls_stream(sluice: Contract) -> None:
    functions = [TOOL["function"]]
    reply = await stream(sluice, "anthropic-tools", functions=functions)
    calls = [d["function_call"] for d in reply.deltas() if "function_call" in d]
    assert calls[0] == {"name": "weather", "arguments": ""}
    assert all(set(c) == {"arguments"} for c in calls[1:])
    assert json.loads("".join(c["arguments"] for c in calls)) == {"city": "demo"}
    assert reply.finishes == ["function_call"]


async def test_C_324_custom_tool_calls_stream(sluice: Contract) -> None:
    opening = {"index": 0, "id": "call_1", "type": "custom", "custom": {"name": "run_sql", "input": ""}}
    rest = {"index": 0, "custom": {"input": "select 1"}}
    first = {"role": "assistant", "content": None, "tool_calls": [opening], "refusal": None}
    body = sse(chunk(first), chunk({"tool_calls": [rest]}), chunk({}, "tool_calls"))
    sluice.says("verbatim-5", body, content_type="text/event-stream")
    reply = await stream(sluice, "verbatim-5", tools=[CUSTOM])
    assert [d["tool_calls"][0] for d in reply.deltas() if "tool_calls" in d] == [opening, rest]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_325_326_328_330_usage_comes_once_and_last(sluice: Contract, dialect: str) -> None:
    reply = await stream(sluice, f"{dialect}-cached", stream_options=USAGE)
    *others, last = reply.chunks
    assert all(c["usage"] is None for c in others)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 100
    assert reply.blocks[-1] == "data: [DONE]"
    assert reply.blocks.count("data: [DONE]") == 1


async def test_C_325_an_answer_without_content_or_usage_has_its_usage_chunk(sluice: Contract) -> None:
    sluice.says("verbatim-6", sse(chunk({"role": "assistant", "content": ""})), content_type="text/event-stream")
    reply = await stream(sluice, "mended-6", stream_options=USAGE)
    assert stream_problems(reply.raw, include_usage=True) == []
    assert reply.chunks[-1]["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
async def test_C_327_330_no_usage_unless_asked_for(sluice: Contract, dialect: str, options: dict[str, Any]) -> None:
    reply = await stream(sluice, f"{dialect}-cached", **options)
    assert not any("usage" in c for c in reply.chunks)
    assert all(c["choices"] for c in reply.chunks)
    assert reply.blocks[-1] == "data: [DONE]"


async def test_C_328_325_usage_in_the_middle_or_twice_is_mended(sluice: Contract) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    chunks = [chunk({"role": "assistant", "content": "a"}, usage=usage), chunk({"content": "b"}, "stop", usage=usage)]
    sluice.says("verbatim-6", sse(*chunks), content_type="text/event-stream")
    reply = await stream(sluice, "mended-6", stream_options=USAGE)
    assert [bool(c["usage"]) for c in reply.chunks] == [False] * (len(reply.chunks) - 1) + [True]
    assert reply.chunks[-1]["usage"]["total_tokens"] == 5


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("text", ["Say one two three", "Grüße 😀 日本語 and more words of other lengths"])
async def test_C_332_333_obfuscation_is_on_by_default(sluice: Contract, dialect: str, text: str) -> None:
    body = {"messages": [{"role": "user", "content": text}], "stream_options": USAGE}
    reply = await sluice.ask(f"{dialect}-echo", *body.pop("messages"), stream=True, **body)  # type: ignore[misc]
    assert all(isinstance(c["obfuscation"], str) for c in reply.chunks)
    assert {len(b) % 16 for b in reply.blocks[:-1]} == {7}
    assert list(size_problems(reply.raw)) == []


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_334_obfuscation_can_be_turned_off(sluice: Contract, dialect: str) -> None:
    reply = await stream(sluice, f"{dialect}-echo", stream_options={"include_obfuscation": False})
    assert not any("obfuscation" in c for c in reply.chunks)
    assert reply.text == "Say one two three"


async def test_C_335_padding_of_a_provider_is_recomputed(sluice: Contract) -> None:
    padded = [chunk({"role": "assistant", "content": "hi"}, obfuscation="xx"), chunk({}, "stop", obfuscation="yyy")]
    sluice.says("verbatim-7", sse(*padded), content_type="text/event-stream")
    reply = await stream(sluice, "mended-7")
    assert {len(b) % 16 for b in reply.blocks[:-1]} == {7}
    assert not {"xx", "yyy"} & {c["obfuscation"] for c in reply.chunks}
    off = await stream(sluice, "mended-7", stream_options={"include_obfuscation": False})
    assert b"obfuscation" not in off.raw


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_336_every_event_leaves_at_once(sluice: Contract, dialect: str) -> None:
    from gateway.demo import Script

    sluice.upstream.scripts["demo-slow"] = Script(gap=0.35, chunks=2)
    began = time.monotonic()
    body = {"model": f"{dialect}-slow", "messages": [USER], "stream": True}
    url = f"{sluice.gateway.url}/v1/chat/completions"
    async with sluice.http.post(url, json=body, headers=sluice.bearer) as response:
        times = [time.monotonic() - began async for line in response.content if b'"content":"' in line]
    assert times[-1] - times[-2] > 0.25  # the first word did not wait for the second
    assert times[0] < 0.25


async def test_C_337_no_character_is_cut_in_two(sluice: Contract) -> None:
    halves = [chunk({"role": "assistant", "content": "a\ud83d"}), chunk({"content": "\ude00b"}), chunk({}, "stop")]
    sluice.says("verbatim-8", sse(*halves), content_type="text/event-stream")
    reply = await stream(sluice, "mended-8")
    assert reply.text == "a😀b"
    for delta in reply.deltas():
        (delta.get("content") or "").encode()  # raises for half a pair


@pytest.mark.parametrize("model", ["verbatim-9", "mended-9"])
async def test_C_338_a_delta_of_a_megabyte(sluice: Contract, model: str) -> None:
    huge = "x" * 1_000_000
    body = sse(chunk({"role": "assistant", "content": ""}), chunk({"content": huge}), chunk({}, "stop"))
    sluice.says("verbatim-9", body, content_type="text/event-stream")
    assert (await stream(sluice, model)).text == huge


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_026_340_failures_before_the_stream_have_a_status(sluice: Contract, dialect: str) -> None:
    for script, status in (("500", 502), ("429", 429), ("context", 400), ("no-content", 502), ("refused", 502)):
        reply = await sluice.ask(f"{dialect}-{script}", stream=True)
        assert reply.status == status, script
        assert reply.error["message"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("script", ["cut", "closed", "unfinished", "error-late"])
async def test_C_341_342_343_344_a_death_in_the_middle_is_told(sluice: Contract, dialect: str, script: str) -> None:
    before = len(sluice.upstream.journal)
    reply = await stream(sluice, f"{dialect}-{script}")
    *events, last = reply.blocks
    error = json.loads(last.removeprefix("data: "))["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert "[DONE]" not in reply.raw.decode()
    assert '"stop"' not in "".join(events)
    assert reply.broken
    assert len(sluice.upstream.journal) == before + 1  # no second attempt


@pytest.mark.parametrize("model", ["verbatim-0", "mended-0"])
async def test_C_343_an_answer_that_its_server_aborts_is_not_told_as_complete(sluice: Contract, model: str) -> None:
    """vLLM says so in the place of the finish, and ``[DONE]`` after it."""
    said = [chunk({"role": "assistant", "content": "hi"}), chunk({}, "abort")]
    sluice.says("verbatim-0", sse(*said), content_type="text/event-stream")
    reply = await stream(sluice, model)
    assert reply.broken
    assert '"error"' in reply.blocks[-1]
    assert "abort" not in reply.raw.decode()
    assert '"stop"' not in reply.raw.decode()
    assert "[DONE]" not in reply.raw.decode()
    sluice.says("verbatim-0", sse(said[1]), content_type="text/event-stream")
    assert (await sluice.ask(model, stream=True)).status == 502  # nothing was said: another may still answer


async def test_C_346_a_slow_reader_holds_the_upstream_back(sluice: Contract) -> None:
    from gateway.demo import Script

    sluice.upstream.scripts["demo-endless"] = Script(chunks=5_000_000, text="x" * 1000)
    body = json.dumps({"model": "openai-endless", "messages": [USER], "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", sluice.gateway.data.port, limit=1024)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {sluice.bearer['authorization']}\r\n"
    writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    await reader.readuntil(b"\r\n\r\n")
    entry = sluice.upstream.journal[-1]
    generated = -1
    del sluice.upstream.scripts["demo-endless"]
    for _ in range(100):
        await asyncio.sleep(0.1)
        if entry.usage.output == generated:
            break
        generated = entry.usage.output
    else:
        pytest.fail("the upstream was never held back")
    writer.transport.abort()
    end = time.monotonic() + 5
    while sluice.upstream.in_flight and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert not sluice.upstream.in_flight
    assert generated < 1_000_000


async def test_C_347_348_nulls_that_break_clients_are_mended(sluice: Contract) -> None:
    messy = [
        {**chunk({"role": "assistant", "content": "hi"}), "error": None},
        {**chunk({}), "choices": None},
        {**chunk({}), "choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]},
        {"id": "x", "object": "chat.completion.chunk", "usage": None},
    ]
    sluice.says("verbatim-0", sse(*messy), content_type="text/event-stream")
    for model in ("verbatim-0", "mended-0"):
        reply = await stream(sluice, model)
        for told in reply.chunks:
            assert "error" not in told
            assert isinstance(told["choices"], list)
            assert all(isinstance(c["delta"], dict) for c in told["choices"])
        assert (reply.text, reply.finishes) == ("hi", ["stop"])


async def test_C_351_moderation_results_stream(sluice: Contract) -> None:
    results = {"type": "moderation_results", "model": "omni-moderation-latest", "results": []}
    told = {**chunk({}), "choices": [], "moderation": {"input": results, "output": results}}
    body = sse(chunk({"role": "assistant", "content": "hi"}), chunk({}, "stop"), told)
    sluice.says("verbatim-1", body, content_type="text/event-stream")
    reply = await stream(sluice, "verbatim-1", moderation={"model": "omni-moderation-latest"})
    found = [c for c in reply.chunks if "moderation" in c]
    assert [c["moderation"]["input"] for c in found] == [results]
    assert found[0]["choices"] == []


async def test_C_352_audio_streams(sluice: Contract) -> None:
    parts: list[dict[str, Any]] = [
        {"id": "audio_1", "transcript": "hi"},
        {"data": "UklG"},
        {"expires_at": 1_700_003_600},
    ]
    first, *rest = parts
    body = sse(chunk({"role": "assistant", "audio": first}), *(chunk({"audio": p}) for p in rest))
    sluice.says("verbatim-2", body, content_type="text/event-stream")
    ask = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
    reply = await stream(sluice, "verbatim-2", **ask)
    assert [d["audio"] for d in reply.deltas() if "audio" in d] == parts
    assert reply.blocks[-1] == "data: [DONE]"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_354_reasoning_comes_before_content(sluice: Contract, dialect: str) -> None:
    keys = [k for d in (await stream(sluice, f"{dialect}-reasoning")).deltas() for k in d if d[k]]
    told = [k for k in keys if k in ("reasoning_content", "content")]
    assert told == ["reasoning_content"] * 5 + ["content"] * 3


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_355_closing_the_connection_cancels(sluice: Contract, dialect: str) -> None:
    url = f"{sluice.gateway.url}/v1/chat/completions"
    body = {"model": f"{dialect}-endless", "messages": [USER], "stream": True}
    response = await sluice.http.post(url, json=body, headers=sluice.bearer)
    await response.content.readany()
    response.close()
    end = time.monotonic() + 3
    while sluice.upstream.in_flight and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert not sluice.upstream.in_flight
    assert sluice.upstream.journal[-1].aborted_at is not None


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_012_only_the_body_decides_on_streaming(sluice: Contract, dialect: str) -> None:
    plain = await sluice.ask(f"{dialect}-ok", headers={"accept": "text/event-stream"})
    assert plain.body["object"] == "chat.completion"
    streamed = await sluice.ask(f"{dialect}-ok", headers={"accept": "application/json"}, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_013_015_438_a_stream_is_chunked_uncompressed_and_leaves_the_connection_usable(
    sluice: Contract, dialect: str
) -> None:
    opened = []

    async def count(*_: Any) -> None:
        opened.append(1)

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(count)
    async with aiohttp.ClientSession(trace_configs=[trace]) as http:
        for streamed in (True, False, True):
            body = {"model": f"{dialect}-echo", "messages": [USER], "stream": streamed}
            url = f"{sluice.gateway.url}/v1/chat/completions"
            headers = {**sluice.bearer, "accept-encoding": "gzip, deflate"}
            async with http.post(url, json=body, headers=headers) as response:
                told = {k.lower() for k in response.headers}
                await response.read()
            assert "content-encoding" not in told
            assert ("transfer-encoding" in told) == streamed
            assert ("content-length" in told) != streamed
            assert not told & {"keep-alive", "te", "trailer", "upgrade", "proxy-connection"}
    assert len(opened) == 1


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_streams_satisfy_the_reference(sluice: Contract, dialect: str) -> None:
    for script, more in (
        ("echo", {}),
        ("parallel", {"tools": [TOOL]}),
        ("reasoning", {}),
        ("refusal", {}),
        ("long", {}),
    ):
        for usage in (True, False):
            options = {"stream_options": USAGE} if usage else {}
            reply = await stream(sluice, f"{dialect}-{script}", **more, **options)
            assert stream_problems(reply.raw, include_usage=usage) == [], script

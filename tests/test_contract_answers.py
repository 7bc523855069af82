"""What a client gets that does not stream: checklist C-260 to C-286, through the gateway, from two dialects."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from .contract import DIALECTS, TOOL, Contract, completion, contract
from .replay import completion_problems

pytestmark = pytest.mark.asyncio(loop_scope="module")
FUNCTION = {"name": "weather", "parameters": TOOL["function"]["parameters"]}  # type: ignore[index]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sluice() -> AsyncIterator[Contract]:
    async with contract() as found:
        yield found


def message(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["choices"][0]["message"]
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_260_261_262_263_a_completion_tells_what_it_is(sluice: Contract, dialect: str) -> None:
    bodies = [(await sluice.ask(f"{dialect}-echo")).body for _ in range(3)]
    assert len({b["id"] for b in bodies}) == 3
    for body in bodies:
        assert body["id"].startswith("chatcmpl-")
        assert body["object"] == "chat.completion"
        assert type(body["created"]) is int
        assert 1_600_000_000 < body["created"] <= time.time() + 1
        assert body["model"] == "demo-echo"


async def test_C_107_the_answer_names_the_model_that_answered(sluice: Contract) -> None:
    sluice.says("verbatim-0", completion({"content": "hi"}))
    assert (await sluice.ask("verbatim-0")).body["model"] == "up-2026-01-01"


async def test_C_264_choices_are_as_many_as_asked_in_order(sluice: Contract) -> None:
    body = (await sluice.ask("openai-echo", n=4)).body
    assert [c["index"] for c in body["choices"]] == [0, 1, 2, 3]
    one = (await sluice.ask("openai-echo")).body
    assert body["usage"]["completion_tokens"] == 4 * one["usage"]["completion_tokens"]


async def test_C_285_fewer_choices_are_never_returned_silently(sluice: Contract) -> None:
    refused = await sluice.ask("anthropic-echo", n=2)
    assert (refused.status, refused.error["param"], refused.error["code"]) == (400, "n", "unsupported_parameter")
    lacking = completion({"content": "only one", "refusal": None, "annotations": []})
    lacking["choices"][0]["logprobs"] = None
    for body in (lacking, {**lacking, "service_tier": "default", "system_fingerprint": None}):  # the latter is relayed
        sluice.says("verbatim-1", body)
        assert (await sluice.ask("verbatim-1")).status == 200
        for model in ("verbatim-1", "mended-1"):
            assert (await sluice.ask(model, n=2)).status == 502, model


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("end_turn", "stop"),
        ("max_tokens", "length"), ("eos", "stop"), ("SAFETY", "content_filter"), ("MAX_TOKENS", "length"),
    ],
)  # fmt: skip
async def test_C_265_foreign_finish_reasons_are_mapped(sluice: Contract, told: str, expected: str) -> None:
    sluice.says("verbatim-2", completion({"content": "hi"}, told))
    assert (await sluice.ask("mended-2")).body["choices"][0]["finish_reason"] == expected


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("choice", "finish"),
    [
        ("auto", "tool_calls"),
        ("required", "tool_calls"),
        ({"type": "function", "function": {"name": "weather"}}, "stop"),
    ],
)
async def test_C_151_266_the_finish_reason_of_tools(sluice: Contract, dialect: str, choice: Any, finish: str) -> None:
    body = (await sluice.ask(f"{dialect}-tools", tools=[TOOL], tool_choice=choice)).body
    assert message(body)["content"] is None
    assert [c["function"]["name"] for c in message(body)["tool_calls"]] == ["weather"]
    assert body["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_150_no_calls_when_the_choice_is_none(sluice: Contract, dialect: str) -> None:
    body = (await sluice.ask(f"{dialect}-tools", tools=[TOOL], tool_choice="none")).body
    assert "tool_calls" not in message(body)
    assert message(body)["content"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_267_269_270_277_278_a_message_has_its_keys(sluice: Contract, dialect: str) -> None:
    body = (await sluice.ask(f"{dialect}-echo", store=True, metadata={"a": "b"})).body
    told = message(body)
    assert (told["role"], told["content"], told["refusal"], told["annotations"]) == (
        "assistant", "Say one two three", None, [],
    )  # fmt: skip
    assert "tool_calls" not in told
    assert "function_call" not in told
    assert body["choices"][0]["logprobs"] is None
    assert body["system_fingerprint"] is None or isinstance(body["system_fingerprint"], str)
    assert "metadata" not in body


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_268_a_refusal_is_no_content(sluice: Contract, dialect: str) -> None:
    choice = (await sluice.ask(f"{dialect}-refusal")).body["choices"][0]
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"] == "I'm sorry, I can't help with that."
    assert choice["finish_reason"] in ("stop", "content_filter")


async def test_C_270_citations_are_passed_on(sluice: Contract) -> None:
    citation = {"start_index": 0, "end_index": 2, "title": "T", "url": "https://example.com/"}
    annotations = [{"type": "url_citation", "url_citation": citation}]
    sluice.says("verbatim-3", completion({"content": "hi", "refusal": None, "annotations": annotations}))
    for model in ("verbatim-3", "mended-3"):
        assert message((await sluice.ask(model)).body)["annotations"] == annotations


async def test_C_271_a_spoken_answer(sluice: Contract) -> None:
    audio = {"id": "audio_1", "data": "UklGRg==", "expires_at": 1_700_003_600, "transcript": "hi"}
    sluice.says("verbatim-4", completion({"content": None, "refusal": None, "annotations": [], "audio": audio}))
    ask = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    told = message((await sluice.ask("verbatim-4", **ask)).body)
    assert (told["content"], told["audio"]) == (None, audio)


async def test_C_272_the_deprecated_functions_get_a_function_call(sluice: Contract) -> None:
    body = (await sluice.ask("anthropic-tools", functions=[FUNCTION], function_call="auto")).body
    assert message(body)["function_call"]["name"] == "weather"
    assert json.loads(message(body)["function_call"]["arguments"]) == {"city": "demo"}
    assert "tool_calls" not in message(body)
    assert body["choices"][0]["finish_reason"] == "function_call"


@pytest.mark.parametrize("prefix", ["verbatim", "mended"])
async def test_C_123_273_log_probabilities(sluice: Contract, prefix: str) -> None:
    bare = {"token": "hi", "logprob": -0.5, "bytes": [104, 105]}
    body = completion({"content": "hi", "refusal": None, "annotations": []})
    told = {**bare, "top_logprobs": []} if prefix == "verbatim" else bare
    body["choices"][0]["logprobs"] = {"content": [told], "refusal": None}
    sluice.says("verbatim-5", body)
    found = (await sluice.ask(f"{prefix}-5", logprobs=True)).body["choices"][0]["logprobs"]
    assert found == {"content": [{**bare, "top_logprobs": []}], "refusal": None}
    body["choices"][0].pop("logprobs")
    sluice.says("verbatim-5", body)
    assert (await sluice.ask("mended-5")).body["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_274_275_usage_adds_up(sluice: Contract, dialect: str) -> None:
    usage = (await sluice.ask(f"{dialect}-cached")).body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]) == (100, 60)
    usage = (await sluice.ask(f"{dialect}-reasoning")).body["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 5
    assert usage["completion_tokens"] == 8
    assert {"cached_tokens", "audio_tokens"} <= set(usage["prompt_tokens_details"])
    assert {"audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"} <= set(
        usage["completion_tokens_details"]
    )


async def test_C_167_predicted_tokens_are_told_and_billed(sluice: Contract) -> None:
    details = {
        "accepted_prediction_tokens": 3,
        "rejected_prediction_tokens": 4,
        "reasoning_tokens": 0,
        "audio_tokens": 0,
    }
    usage = {
        "prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 19,
        "completion_tokens_details": details, "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    }  # fmt: skip
    sluice.says("verbatim-6", completion({"content": "hi", "refusal": None, "annotations": []}, usage=usage))
    ask = {"prediction": {"type": "content", "content": "hello there"}}
    before = sold(sluice, "verbatim-6")
    body = (await sluice.ask("verbatim-6", **ask)).body
    assert body["usage"]["completion_tokens_details"] == details
    assert sold(sluice, "verbatim-6") - before == 9


def sold(sluice: Contract, model: str) -> float:
    """Completion tokens that were accounted for."""
    labels = {"model": model, "deployment": f"openai/{model}", "tier": "default", "kind": "output"}
    return sluice.gateway.registry.get_sample_value("sluice_tokens_total", labels) or 0.0


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_276_472_the_answer_names_the_tier_that_served(sluice: Contract, dialect: str) -> None:
    assert (await sluice.ask(f"{dialect}-echo")).body["service_tier"] == "default"
    if dialect == "openai":
        assert (await sluice.ask("openai-downgraded", service_tier="priority")).body["service_tier"] == "default"


async def test_C_279_moderation_results_only_when_asked_for(sluice: Contract) -> None:
    results = {"type": "moderation_results", "model": "omni-moderation-latest", "results": []}
    moderation = {"input": results, "output": results}
    sluice.says("verbatim-7", completion({"content": "hi", "refusal": None, "annotations": []}, moderation=moderation))
    asked = await sluice.ask("verbatim-7", moderation={"model": "omni-moderation-latest"})
    assert asked.body["moderation"] == moderation
    assert "moderation" not in (await sluice.ask("openai-echo")).body


async def test_C_280_354_reasoning_comes_as_an_extra_field(sluice: Contract) -> None:
    for dialect in DIALECTS:
        told = message((await sluice.ask(f"{dialect}-reasoning")).body)
        assert told["reasoning_content"] == "".join(f"thought{i} " for i in range(5))


async def test_C_281_arguments_are_passed_on_byte_for_byte(sluice: Contract) -> None:
    for given, expected in (('{"a": 1,  "b":[]', '{"a": 1,  "b":[]'), ("", "{}"), ('{"x":"\\ud83d\\ude00"}',) * 2):
        call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": given}}
        sluice.says("verbatim-8", completion({"tool_calls": [call]}, "tool_calls"))
        told = message((await sluice.ask("mended-8", tools=[TOOL])).body)["tool_calls"][0]["function"]["arguments"]
        assert told == expected, given


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_282_ids_of_tool_calls_are_unique(sluice: Contract, dialect: str) -> None:
    calls = message((await sluice.ask(f"{dialect}-parallel", tools=[TOOL])).body)["tool_calls"]
    assert len({c["id"] for c in calls}) == len(calls) == 2
    call = {"id": "same", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    sluice.says("verbatim-8", completion({"tool_calls": [call, call]}, "tool_calls"))
    mended = message((await sluice.ask("mended-8", tools=[TOOL])).body)["tool_calls"]
    assert len({c["id"] for c in mended}) == 2


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_283_the_token_limit_ends_an_answer(sluice: Contract, dialect: str) -> None:
    choice = (await sluice.ask(f"{dialect}-long", max_completion_tokens=3)).body["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == "ok word1 word2"


async def test_C_284_custom_tool_calls(sluice: Contract) -> None:
    tool = {"type": "custom", "custom": {"name": "run_sql"}}
    call = {"id": "call_1", "type": "custom", "custom": {"name": "run_sql", "input": "select 1"}}
    sluice.says("verbatim-9", completion({"tool_calls": [call]}, "tool_calls"))
    assert message((await sluice.ask("verbatim-9", tools=[tool])).body)["tool_calls"] == [call]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_160_a_schema_gets_json_of_it(sluice: Contract, dialect: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    body = (await sluice.ask(f"{dialect}-ok", response_format=wanted)).body
    assert json.loads(message(body)["content"]) == {"city": "demo"}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_286_answers_satisfy_the_schema(sluice: Contract, dialect: str) -> None:
    asks: list[tuple[str, dict[str, Any]]] = [
        ("echo", {}), ("parallel", {"tools": [TOOL]}), ("reasoning", {}), ("refusal", {}), ("cached", {}),
        ("long", {"max_completion_tokens": 2}),
    ]  # fmt: skip
    bodies = await asyncio.gather(*(sluice.ask(f"{dialect}-{script}", **more) for script, more in asks))
    for (script, _), reply in zip(asks, bodies, strict=True):
        assert reply.status == 200, script
        assert completion_problems(reply.body) == [], script
        assert {"id", "object", "created", "model", "choices", "usage"} <= set(reply.body)


async def test_an_upstream_that_is_no_api_is_a_clean_502(sluice: Contract) -> None:
    for body in (b"<html>", b"", b"[]", b"null", b"{}", b'{"choices":null}', b"\xff", b'{"choices":[{}]}'):
        sluice.says("verbatim-0", body)
        for model in ("verbatim-0", "mended-0"):
            reply = await sluice.ask(model)
            assert reply.status in (200, 502), body
            if reply.status == 502:
                assert reply.error["code"] == "upstream_error"
            else:
                assert isinstance(message(reply.body)["role"], str), body

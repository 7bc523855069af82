"""Providers of OpenAI's dialect: their rows, and all their recorded traffic."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from adapters import registry
from adapters.compatible import ROWS
from adapters.emit import completion
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import Target, UpstreamRequest
from adapters.openai import OpenAI
from adapters.openai.dialect import read_usage, served_tier
from adapters.params import PARAMS, Fate

from .replay import (
    completion_problems,
    need,
    recordings,
    replay_stream,
    replay_whole,
    stream_problems,
    translate,
    written,
)
from .test_openai_adapter import chunk

FOLDERS = {"alibaba_qwen": "qwen", "gemini_openai": "gemini-openai", "openai_compat_misc": "openai-compatible", "bedrock_mantle": "openai-compatible"}  # fmt: skip
PLAYED = (
    "alibaba_qwen", "bedrock_mantle", "cerebras", "copilot", "crusoe", "deepseek", "doubleword", "gemini_openai", "groq",
    "huggingface", "llamacpp", "mistralrs", "moonshot", "ollama", "openai_compat_misc", "openrouter", "perplexity",
    "snowflake", "together", "venice", "vllm", "xai", "zai",
)  # fmt: skip
MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def sent(name: str, target: Target | None = None, **request: Any) -> tuple[UpstreamRequest, dict[str, Any]]:
    adapter = registry.load(name)
    up = adapter.prepare({"model": "x", "messages": MESSAGES} | request, target or Target(adapter.base_url, "m", "k"))
    return up, json.loads(up.body)


@pytest.mark.parametrize("name", ROWS)
def test_every_parameter_has_a_fate(name: str) -> None:
    row = ROWS[name]
    assert set(PARAMS) <= row.params.keys()
    assert not row.base_url.endswith("/")
    assert (row.params["service_tier"] is Fate.TRANSLATE) == bool(row.tiers)
    adapter = registry.load(name)
    assert isinstance(adapter, OpenAI)
    assert name in registry.names()


@pytest.mark.parametrize("name", ROWS)
def test_a_plain_request_works_everywhere(name: str) -> None:
    up, body = sent(name, stream=True, temperature=0.5, max_completion_tokens=9, user="u", n=1, logprobs=False)
    assert body["messages"] == MESSAGES
    assert body[ROWS[name].max_tokens] == 9
    assert ("stream_options" in body) is ROWS[name].stream_options
    assert registry.load(name).relay(up, include_usage=True) is None  # type: ignore[attr-defined]
    assert set(up.dropped) <= {"user"}


def test_relay_only_where_the_operator_vouches_for_the_upstream() -> None:
    adapter = OpenAI(ROWS["vllm"])
    up, _ = sent("vllm", Target("http://h/v1", "m", options=adapter.options({"relay": True})))
    assert adapter.relay(up, include_usage=True) is not None


def test_E_015_developer_becomes_system_where_unknown() -> None:
    messages = [{"role": "developer", "content": "be brief"}, *MESSAGES]
    assert sent("cerebras", messages=messages)[1]["messages"][0]["role"] == "system"
    assert sent("vllm", messages=messages)[1]["messages"][0]["role"] == "developer"


def test_E_018_turns_of_one_role_are_merged_where_they_must_alternate() -> None:
    messages = [MESSAGES[0], {"role": "user", "content": "there"}, {"role": "assistant", "content": "a"}]
    told = sent("perplexity", messages=messages)[1]["messages"]
    assert told == [{"role": "user", "content": "hi\n\nthere"}, {"role": "assistant", "content": "a"}]


def test_E_020_parts_a_model_cannot_take_are_refused_by_name() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    with pytest.raises(UnsupportedParameter) as caught:
        sent("deepseek", messages=[{"role": "user", "content": parts}])
    assert caught.value.param == "messages[0].content[1].type"


def test_E_024_functions_are_told_as_tools() -> None:
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    ]
    body = sent("groq", messages=messages, functions=[{"name": "f"}], function_call={"name": "f"})[1]
    assert body["tools"] == [TOOL]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert body["messages"][1]["tool_calls"][0]["id"] == body["messages"][2]["tool_call_id"] == "call_1"
    assert "functions" not in body


def test_E_025_text_parts_become_a_string_where_needed() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert sent("llamacpp", messages=[{"role": "user", "content": content}])[1]["messages"][0]["content"] == "a\nb"


def test_E_032_allowed_tools_filter() -> None:
    other = {"type": "function", "function": {"name": "g"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}}
    body = sent("groq", tools=[TOOL, other], tool_choice=choice)[1]
    assert (body["tools"], body["tool_choice"]) == ([TOOL], "required")


def test_E_035_custom_tools_are_refused() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        sent("groq", tools=[{"type": "custom", "custom": {"name": "x"}}])
    assert caught.value.param == "tools[0].type"


def test_E_031_E_043_deepseek_does_not_reason_where_it_could_not() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    history = [*MESSAGES, turn, {"role": "tool", "tool_call_id": "a", "content": "1"}]
    assert sent("deepseek", messages=history, tools=[TOOL])[1]["thinking"] == {"type": "disabled"}
    echoed = [*MESSAGES, turn | {"reasoning_content": "hm"}, history[2]]
    body = sent("deepseek", messages=echoed, tools=[TOOL])[1]
    assert "thinking" not in body
    assert body["messages"][1]["reasoning_content"] == "hm"
    assert sent("deepseek", tools=[TOOL], tool_choice="required")[1]["thinking"] == {"type": "disabled"}
    assert sent("deepseek", reasoning_effort="none")[1] == {
        "model": "m",
        "messages": MESSAGES,
        "thinking": {"type": "disabled"},
    }
    assert "thinking" not in sent("deepseek")[1]


@pytest.mark.parametrize(
    ("name", "effort", "body", "dropped"),
    [
        ("qwen", "none", {"enable_thinking": False}, ()),
        ("qwen", "high", {}, ("reasoning_effort",)),
        ("zai", "none", {"thinking": {"type": "disabled"}}, ()),
        ("zai", "high", {"reasoning_effort": "high"}, ()),
        ("moonshot", "none", {"thinking": {"type": "disabled"}}, ()),
    ],
)
def test_no_reasoning_is_none_in_the_provider_s_words(
    name: str, effort: str, body: dict[str, Any], dropped: tuple[str, ...]
) -> None:
    up, told = sent(name, reasoning_effort=effort)
    assert {key: value for key, value in told.items() if key not in ("model", "messages")} == body
    assert up.dropped == dropped


def test_a_switch_of_the_provider_s_own_wins_over_the_effort() -> None:
    asked = sent("qwen", reasoning_effort="none", enable_thinking=True)[1]
    assert asked["enable_thinking"] is True
    assert "reasoning_effort" not in asked


def test_C_160_a_schema_that_cannot_be_kept_is_refused_or_named_as_dropped_policy() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    with pytest.raises(UnsupportedParameter):
        sent("deepseek", response_format=wanted)
    target = Target("", "m", unsupported="drop")
    assert sent("deepseek", target, response_format=wanted)[1]["response_format"] == {"type": "json_object"}


def test_E_080_the_token_limit_has_the_provider_s_name() -> None:
    assert sent("mistralrs", max_completion_tokens=5, max_tokens=6)[1]["max_tokens"] == 5
    assert sent("groq", max_tokens=6)[1]["max_completion_tokens"] == 6


def test_C_478_tiers_both_ways() -> None:
    assert sent("groq", service_tier="default")[1]["service_tier"] == "on_demand"
    assert sent("groq", service_tier="flex")[1]["service_tier"] == "flex"
    assert sent("groq", service_tier="scale")[0].dropped == ("service_tier",)
    assert [served_tier(ROWS["groq"], t) for t in ("on_demand", "performance", "flex", "", None, "x")] == [
        "default",
        "priority",
        "flex",
        None,
        None,
        None,
    ]


def test_parameters_a_provider_lacks() -> None:
    up, body = sent("groq", frequency_penalty=0.5, seed=1)
    assert (up.dropped, body["seed"]) == (("frequency_penalty",), 1)
    for name, value in (("logit_bias", {"1": 1}), ("n", 2), ("logprobs", True)):
        with pytest.raises(UnsupportedParameter) as caught:
            sent("groq", **{name: value})
        assert caught.value.param == name


def test_E_046_reasoning_between_tags() -> None:
    text = "<think>\nhm <b></thin</think>\n\nHello </think> <think>"
    adapter = OpenAI(ROWS["vllm"])
    for tags, said in (("explicit", text), ("implied", text.removeprefix("<think>")), ("implied", text)):
        up, _ = sent("vllm", Target("http://h/v1", "m", options=adapter.options({"think_tags": tags})))
        expected = {"reasoning_content": "\nhm <b></thin", "content": "Hello </think> <think>"}
        for size in (1, 3, 100):
            translator = adapter.stream(up)
            chunks = [
                c for i in range(0, len(said), size) for c in translator.feed(chunk({"content": said[i : i + size]}))
            ]
            chunks += translator.feed(chunk({}, finish_reason="stop") + b"data: [DONE]\n\n") + translator.close()
            keys = ("reasoning_content", "content")
            assert {k: "".join(c["choices"][0]["delta"].get(k, "") for c in chunks) for k in keys} == expected
        whole = {"choices": [{"index": 0, "message": {"content": said}, "finish_reason": "stop"}]}
        assert adapter.parse(json.dumps(whole).encode(), up).completion["choices"][0]["message"] == expected
    plain = adapter.stream(up).feed(chunk({"content": "<thi"}) + chunk({"content": "s"}, finish_reason="stop"))
    assert plain[-1]["choices"][0]["delta"] == {"reasoning_content": "<this"}


@pytest.mark.parametrize(
    "name", ["openai", "azure", "groq", "cerebras", "fireworks", "openrouter", "openai-compatible"]
)
def test_what_other_providers_want_in_a_conversation_goes_to_none_that_refuses_it(name: str) -> None:
    """Claude's marks for the cache and Gemini's signatures, where a conversation goes on elsewhere."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    mark = {"cache_control": {"type": "ephemeral"}}
    signed = {**call, "index": 0, "extra_content": {"google": {"thought_signature": "s"}}}
    text = {"type": "text", "text": "hi"}
    messages = [
        {"role": "user", "content": [{**text, **mark}]},
        {"role": "assistant", "content": None, "tool_calls": [signed]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ]
    tools = [{**TOOL, **mark}, {"type": "function", "function": {"name": "g", **mark}}]
    body = json.loads(
        registry.load(name).prepare({"messages": messages, "tools": tools}, Target("https://h", "m", "k")).body
    )
    refuses = name not in ("openrouter", "openai-compatible")
    content = body["messages"][0]["content"]
    assert content == ("hi" if name == "cerebras" else [text if refuses else {**text, **mark}])
    assert body["messages"][1]["tool_calls"] == [call if refuses else signed]
    plain = [TOOL, {"type": "function", "function": {"name": "g"}}]
    assert body["tools"] == (plain if refuses else tools)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_an_earlier_refusal_is_what_the_model_said(name: str) -> None:
    """No server but OpenAI's own has a field for it: some refuse it, the others would see an empty turn."""
    flat = ROWS[name].flat
    for turn in (
        {"content": None, "refusal": "no"},
        {"content": "", "refusal": "no"},
        {"content": [{"type": "refusal", "refusal": "no"}]},
    ):
        told = sent(name, messages=[*MESSAGES, {"role": "assistant", **turn}, *MESSAGES])[1]["messages"][1]
        parts = isinstance(turn["content"], list) and not flat
        assert told == {"role": "assistant", "content": [{"type": "text", "text": "no"}] if parts else "no"}
    both = {"role": "assistant", "content": "yes", "refusal": "no"}
    assert sent(name, messages=[*MESSAGES, both])[1]["messages"][1] == {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize("name", ["cerebras", "ollama", "openrouter"])
def test_reasoning_comes_back_under_the_provider_s_own_name(name: str) -> None:
    turn = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    told = {"role": "assistant", "content": "a", "reasoning": "hm"}
    assert sent(name, messages=[*MESSAGES, turn])[1]["messages"][1] == told
    assert sent(name, messages=[*MESSAGES, {**told, "reasoning_content": "other"}])[1]["messages"][1] == told


@pytest.mark.parametrize("name", ["openrouter", "snowflake"])
def test_signed_reasoning_comes_back_whole(name: str) -> None:
    details = [{"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}]
    turn = {"role": "assistant", "content": "a", "reasoning_details": details}
    assert sent(name, messages=[*MESSAGES, turn])[1]["messages"][1] == turn
    assert "reasoning" not in sent(name, messages=[*MESSAGES, {**turn, "reasoning_content": "hm"}])[1]["messages"][1]


def test_the_sources_of_a_search_are_in_a_whole_answer_as_in_a_stream() -> None:
    adapter, found = (
        registry.load("perplexity"),
        {"citations": ["https://a.example"], "search_results": [{"title": "A"}]},
    )
    choice = {"index": 0, "finish_reason": "stop"}
    whole = {"choices": [{**choice, "message": {"content": "a[1]"}}], **found}
    answer = adapter.parse(json.dumps(whole).encode(), UpstreamRequest("", {}, b""))
    told = completion(answer, id="c", created=1, model="m")["choices"][0]["message"]
    assert {key: told[key] for key in found} == found
    streamed = {"choices": [{**choice, "delta": {"content": "a[1]"}}], **found}
    outcome = translate(
        adapter.stream(UpstreamRequest("", {}, b"")), [b"data: " + json.dumps(streamed).encode() + b"\n\n"]
    )
    assert outcome.chunks[-1]["choices"][0]["delta"] == found


def test_E_037_a_failed_tool_call_of_groq_keeps_its_code() -> None:
    said = {"error": {"message": "Failed to call a function.", "code": "tool_use_failed", "failed_generation": "x"}}
    error = registry.load("groq").error(400, {}, json.dumps(said).encode())
    assert (error.kind, error.code) == (ErrorKind.INVALID_REQUEST, "tool_use_failed")


def test_E_052_recorded_stream_error_of_openrouter() -> None:
    error = b'data: {"id":"g","error":{"code":502,"message":"Provider disconnected"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}\n\n'
    translator = registry.load("openrouter").stream(UpstreamRequest("", {}, b""))
    with pytest.raises(ProviderError, match="Provider disconnected"):
        translator.feed(b": OPENROUTER PROCESSING\n\n" + error)


@pytest.mark.parametrize("before", [b"", chunk({"content": "half"})])
def test_E_052_an_error_of_llama_cpp_in_a_field_of_its_own(before: bytes) -> None:
    """``[DONE]`` comes after it all the same: it must not pass for a natural end."""
    told = {"code": 400, "message": "the request exceeds the available context size", "type": "invalid_request_error"}
    body = before + b"error: " + json.dumps(told).encode() + b"\n\ndata: [DONE]\n\n"
    for size in (1, 7, len(body)):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        outcome = translate(registry.load("llamacpp").stream(UpstreamRequest("", {}, b"")), pieces)
        assert len(outcome.chunks) == bool(before)
        assert outcome.error is not None
        assert (outcome.error.kind, outcome.error.code) == (ErrorKind.CONTEXT_LENGTH, "context_length_exceeded")


@pytest.mark.parametrize("folder", PLAYED)
def test_recorded_streams(folder: str) -> None:
    found = recordings(folder, endpoint="chat.completions", stream=True)
    if not found:
        pytest.skip("no recorded streams of this provider")
    adapter = registry.load(FOLDERS.get(folder, folder))
    for recording in found:
        outcome, raw = replay_stream(
            recording,
            lambda: adapter.stream(UpstreamRequest("", {}, b"")),
            n=choices(recording.request),
            forced_tool=forced(recording.request),
        )
        assert outcome.usage == own_usage(recording.body), str(recording)
        for event in raw.decode().split("\n\n")[:-2]:
            ChatCompletionChunk.model_validate_json(event[6:], strict=True)
        unpadded = written(outcome, n=choices(recording.request), obfuscation=False)
        assert (
            stream_problems(
                unpadded, obfuscation=False, include_usage=outcome.usage is not None, n=choices(recording.request)
            )
            == []
        )


@pytest.mark.parametrize("folder", PLAYED)
def test_recorded_answers(folder: str) -> None:
    found = recordings(folder, endpoint="chat.completions", stream=False)
    if not found:
        pytest.skip("no recorded answers of this provider")
    adapter = registry.load(FOLDERS.get(folder, folder))
    for recording in found:
        answer = adapter.parse(recording.body, UpstreamRequest("", {}, b""))
        lawful = replay_whole(recording, answer, n=choices(recording.request), forced_tool=forced(recording.request))
        ChatCompletion.model_validate_json(json.dumps(lawful), strict=True)
        theirs = recording.exchange["response"]["body"]
        assert lawful["usage"]["total_tokens"] == theirs["usage"]["total_tokens"], str(recording)
        for ours, other in zip(lawful["choices"], theirs["choices"], strict=True):
            message = other["message"]
            assert (ours["message"]["content"] or "") == (message.get("content") or ""), str(recording)
            reasoning = message.get("reasoning_content") or message.get("reasoning")
            assert ours["message"].get("reasoning_content") == (reasoning or None), str(recording)
            assert len(ours["message"].get("tool_calls", ())) == len(message.get("tool_calls") or ()), str(recording)


def test_every_complete_recording_is_played() -> None:
    every = {
        r.provider: 0 for s in (True, False) for r in need(recordings(*PLAYED, endpoint="chat.completions", stream=s))
    }
    assert set(every) == set(PLAYED)
    total = sum(len(recordings(*PLAYED, endpoint="chat.completions", stream=s)) for s in (True, False))
    assert total >= 495


def test_recorded_requests_are_accepted_as_they_are() -> None:
    """What a provider took once, our own request for it keeps: no parameter goes missing but by the table."""
    played = 0
    for folder in PLAYED:
        name = FOLDERS.get(folder, folder)
        for recording in (r for s in (True, False) for r in recordings(folder, endpoint="chat.completions", stream=s)):
            request = recording.request
            if not isinstance(request, dict):
                continue
            target = Target("https://h/v1", request["model"], allow=frozenset(request) - set(PARAMS))
            up = registry.load(name).prepare(kept(request, name), target)
            body = json.loads(up.body)
            for key in request.keys() & {"tools", "temperature", "top_p", "stop", "response_format", "seed"} - set(
                up.dropped
            ):
                assert key not in kept(request, name) or request[key] in (None, []) or body[key] == request[key], (
                    f"{recording} {key}"
                )
            played += 1
    need(recordings("deepseek", endpoint="chat.completions", stream=True))
    assert played >= 400


def kept(request: dict[str, Any], name: str) -> dict[str, Any]:
    """A request without what the row refuses: some of these requests were taken and answered without it."""
    params = ROWS[name].params
    told = {k: v for k, v in request.items() if params.get(k) is not Fate.REJECT}
    if not ROWS[name].json_schema and (told.get("response_format") or {}).get("type") == "json_schema":
        del told["response_format"]
    return told


def choices(request: Any) -> int:
    """How many choices came: OpenRouter takes ``n`` and answers with one, so its row refuses the parameter."""
    wanted = (request or {}).get("n") or 1
    return 1 if "/" in str((request or {}).get("model")) else int(wanted)


def forced(request: Any) -> bool:
    choice = (request or {}).get("tool_choice")
    return isinstance(choice, dict) and choice.get("type") == "function"


def own_usage(body: bytes) -> Any:
    """The last usage a recorded stream tells, wherever it tells it."""
    found = None
    for line in body.replace(b"\r", b"").split(b"\n"):
        if line.startswith(b"data:") and b"[DONE]" not in line:
            chunk = json.loads(line[5:])
            inner = (chunk.get("x_groq") or {}).get("usage")
            inner = inner or next((c["usage"] for c in chunk.get("choices") or () if c.get("usage")), None)
            found = chunk.get("usage") or inner or found
    return read_usage(found)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.sampled_from(["", "a", "stop"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "index",
                    "content",
                    "tool_calls",
                    "function",
                    "custom",
                    "name",
                    "arguments",
                    "input",
                    "id",
                    "type",
                    "finish_reason",
                    "logprobs",
                    "token",
                    "top_logprobs",
                    "usage",
                    "prompt_tokens",
                    "prompt_tokens_details",
                    "function_call",
                    "audio",
                    "expires_at",
                    "annotations",
                    "x_groq",
                    "error",
                    "reasoning",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(JUNK, max_size=3),
    st.dictionaries(st.sampled_from(["content", "tool_calls", "function_call", "audio", "logprobs"]), JUNK),
)
def test_S_50_no_upstream_can_break_the_reader_or_the_writer(junk: list[Any], delta: dict[str, Any]) -> None:
    adapter, up = registry.load("openai-compatible"), UpstreamRequest("", {}, b"")
    shaped = [{"choices": [{"index": 0, "delta": delta, "logprobs": delta.get("logprobs")}]}]
    whole = [{"choices": [{"message": delta, "logprobs": delta.get("logprobs"), "finish_reason": "stop"}]}]
    for chunks in (junk, shaped, [*shaped, *junk]):
        body = b"".join(b"data: %b\n\n" % json.dumps(c).encode() for c in chunks)
        outcome = translate(adapter.stream(up), [body, chunk({}, finish_reason="stop"), b"data: [DONE]\n\n"])
        if outcome.error is None:
            with contextlib.suppress(ProviderError):
                assert stream_problems(written(outcome), include_usage=outcome.usage is not None) == []
    for body in (*junk, *whole):
        with contextlib.suppress(ProviderError):
            answer = adapter.parse(json.dumps(body).encode(), up)
            assert completion_problems(completion(answer, id="x", created=1, model="m")) == []

"""Mistral: its words, ids and parts, checked against its SDK and all its recorded traffic."""

import json
import re
from typing import Any

import pytest

from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import Target, UpstreamRequest
from adapters.mistral import Mistral
from adapters.mistral.request import tool_id
from adapters.params import PARAMS
from adapters.usage import Usage

from .replay import need, recordings, replay_stream, replay_whole
from .test_compatible import own_usage
from .test_openai_adapter import chunk

ADAPTER = Mistral()
MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "description": None}}
CALL = {"id": "call_abcdefghijklmnopqrstuvwx", "type": "function", "function": {"name": "f", "arguments": ""}}


def sent(**request: Any) -> tuple[UpstreamRequest, dict[str, Any]]:
    """What is sent, after Mistral's own SDK has found nothing against it."""
    allow = frozenset(request) - set(PARAMS)
    up = ADAPTER.prepare(
        {"model": "x", "messages": MESSAGES} | request, Target(ADAPTER.base_url, "m", "k", allow=allow)
    )
    body = json.loads(up.body)
    assert mistral_problems(body) == []
    return up, body


def mistral_problems(body: dict[str, Any]) -> list[str]:
    from mistralai.client.models import ChatCompletionRequest, ChatCompletionStreamRequest

    model = ChatCompletionStreamRequest if body.get("stream") else ChatCompletionRequest
    unknown = [key for key in body if key not in model.model_fields]
    model.model_validate(body)
    return unknown


def test_every_parameter_has_a_fate() -> None:
    assert set(PARAMS) <= ADAPTER.params.keys()


def test_names_of_its_own_and_nothing_it_does_not_know() -> None:
    up, body = sent(
        stream=True, seed=5, max_completion_tokens=7, user="u", store=True, metadata={"a": "b"}, reasoning_effort="low"
    )
    assert body == {
        "model": "m",
        "messages": MESSAGES,
        "stream": True,
        "random_seed": 5,
        "max_tokens": 7,
        "reasoning_effort": "high",
    }
    assert up.dropped == ("user",)
    assert up.url == "https://api.mistral.ai/v1/chat/completions"
    for name, value in (("logit_bias", {"1": 1}), ("web_search_options", {"x": 1}), ("top_k", 3)):
        with pytest.raises(UnsupportedParameter) as caught:
            ADAPTER.prepare({"model": "x", "messages": MESSAGES, name: value}, Target("", "m"))
        assert caught.value.param == name


def test_E_011_tool_ids_are_nine_letters_and_digits_on_both_sides() -> None:
    history = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL | {"id": "abcDEF123"}]},
        {"role": "tool", "tool_call_id": CALL["id"], "content": [{"type": "text", "text": "1"}]},
        {"role": "tool", "tool_call_id": "abcDEF123", "content": "2"},
    ]
    told = sent(messages=history, tools=[TOOL])[1]["messages"]
    first, second = told[1]["tool_calls"]
    assert re.fullmatch("[a-zA-Z0-9]{9}", first["id"])
    assert (told[2]["tool_call_id"], told[2]["content"]) == (first["id"], "1")
    assert second["id"] == told[3]["tool_call_id"] == "abcDEF123"
    assert first["function"]["arguments"] == "{}"
    assert tool_id("call|1") != tool_id("call|2")


def test_E_014_the_order_of_roles_satisfies_mistral_s_own_validator() -> None:
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.protocol.instruct.validator import MistralRequestValidatorV3

    history = [
        {"role": "developer", "content": "be brief"},
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": CALL["id"], "content": "1"},
        {"role": "user", "content": "and now?"},
    ]
    body = sent(messages=history, tools=[TOOL])[1]
    MistralRequestValidatorV3().validate_request(
        ChatCompletionRequest(model="m", messages=body["messages"], tools=body["tools"])
    )
    assert body["messages"][0]["role"] == "system"


def ordered(*history: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages that are sent, after the validators of all of Mistral's tokenizers have found nothing against them."""
    from mistral_common.protocol.instruct import validator
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    told: list[dict[str, Any]] = sent(messages=[*history], tools=[TOOL])[1]["messages"]
    for name in ("V3", "V5", "V11", "V13", "V15"):
        check = getattr(validator, f"MistralRequestValidator{name}")()
        check.validate_request(ChatCompletionRequest(model="m", messages=told))
    assert told[-1]["role"] in ("user", "tool") or told[-1]["prefix"]
    return told


def says(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_E_015_instructions_stand_where_mistral_takes_them() -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": CALL["id"], "content": "1"}
    first, late, user, answer = says("system", "a"), says("developer", "b"), says("user", "u"), says("assistant", "x")
    told = ordered(first, user, answer, late, user)
    assert [(m["role"], m["content"]) for m in told[:2]] == [("system", "a"), ("system", "b")]
    assert [m["role"] for m in told] == ["system", "system", "user", "assistant", "user"]
    assert [m["role"] for m in ordered(user, calls, result, late, late, user)] == [
        *("system", "system", "user", "assistant", "tool", "user")
    ]
    assert [m["role"] for m in ordered(user, calls, result, late)] == ["system", "user", "assistant", "tool"]
    assert [m["role"] for m in ordered(user, late, user)] == ["user", "system", "user"]  # which it takes
    assert ordered(user, answer, late)[-1] == says("user", "b")  # nothing goes on with the answer before it
    assert ordered(user, late)[-1] == says("user", "b")


def test_E_016_instructions_alone_are_the_question() -> None:
    assert ordered(says("developer", "a")) == [says("user", "a")]
    assert ordered(says("system", "a"), says("system", "b")) == [says("system", "a"), says("user", "b")]


@pytest.mark.parametrize("blank", [{"content": ""}, {"content": None}, {}, {"content": []}])
def test_E_019_a_blank_turn_of_the_assistant_is_left_out(blank: dict[str, Any]) -> None:
    blank = {"role": "assistant", **blank}
    assert ordered(says("user", "a"), blank, says("user", "b")) == [says("user", "a"), says("user", "b")]
    assert ordered(says("user", "a"), blank) == [says("user", "a")]


def test_E_013_one_id_for_several_calls_is_one_for_each() -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}
    result = {"role": "tool", "tool_call_id": CALL["id"], "content": "1"}
    told = ordered(*MESSAGES, turn, result, result, turn, result, result)
    ids = [call["id"] for message in told for call in message.get("tool_calls", ())]
    assert len(set(ids)) == 4
    assert [message["tool_call_id"] for message in told if message["role"] == "tool"] == ids


def test_E_081_a_temperature_is_within_mistral_s_range() -> None:
    assert [sent(temperature=t)[1]["temperature"] for t in (2, 1.5, 0.3, 0)] == [1.5, 1.5, 0.3, 0]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
        ({"content": "", "refusal": "I cannot"}, "I cannot"),
        ({"refusal": "I cannot"}, "I cannot"),
        ({"content": [{"type": "refusal", "refusal": "I cannot"}]}, "I cannot"),
        ({"content": "Yes", "refusal": None}, "Yes"),
    ],
)
def test_an_earlier_refusal_is_what_the_model_said(said: dict[str, Any], told: str) -> None:
    history = [*MESSAGES, {"role": "assistant", **said}, *MESSAGES]
    assert sent(messages=history)[1]["messages"][1] == {"role": "assistant", "content": told}


def test_E_017_a_last_assistant_turn_is_a_prefix() -> None:
    assert sent(messages=[*MESSAGES, {"role": "assistant", "content": "I"}])[1]["messages"][1] == {
        "role": "assistant",
        "content": "I",
        "prefix": True,
    }


def test_E_026_a_tool_without_parameters_gets_an_empty_schema() -> None:
    assert sent(tools=[TOOL])[1]["tools"][0]["function"] == {
        "parameters": {"type": "object", "properties": {}},
        "name": "f",
    }


def test_E_024_E_032_tool_choice() -> None:
    assert sent(tools=[TOOL], tool_choice="required")[1]["tool_choice"] == "any"
    named = {"type": "function", "function": {"name": "f"}}
    assert sent(tools=[TOOL], tool_choice=named)[1]["tool_choice"] == named
    other = {"type": "function", "function": {"name": "g"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    body = sent(tools=[TOOL, other], tool_choice=allowed)[1]
    assert (len(body["tools"]), body["tool_choice"]) == (1, "any")
    legacy = sent(functions=[{"name": "f"}], function_call="auto")[1]
    assert (legacy["tools"][0]["function"]["name"], legacy["tool_choice"]) == ("f", "auto")


def test_parts() -> None:
    content = [
        {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "image_url", "image_url": {"url": "https://h/x.png", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "x.pdf"}},
        {"type": "file", "file": {"file_id": "00000000-0000-4000-8000-000000000000"}},
    ]
    assert sent(messages=[{"role": "user", "content": content}])[1]["messages"][0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "https://h/x.png", "detail": "low"}},
        {"type": "input_audio", "input_audio": "AAAA"},
        {"type": "document_url", "document_url": "data:application/pdf;base64,AA==", "document_name": "x.pdf"},
        {"type": "file", "file_id": "00000000-0000-4000-8000-000000000000"},
    ]
    with pytest.raises(UnsupportedParameter) as caught:
        sent(messages=[{"role": "user", "content": [{"type": "video_url"}]}])
    assert caught.value.param == "messages[0].content[0].type"


@pytest.mark.parametrize("before", [[], [{"type": "text", "text": "see"}]])
def test_E_020_an_image_in_a_tool_s_result_is_refused_by_name(before: list[dict[str, Any]]) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": CALL["id"], "content": [*before, image]}
    with pytest.raises(UnsupportedParameter) as caught:
        sent(messages=[*MESSAGES, call, result], tools=[TOOL])
    assert caught.value.param == f"messages[2].content[{len(before)}].type"


def test_E_048_thinking_told_as_a_list() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]
    translator = ADAPTER.stream(UpstreamRequest("", {}, b""))
    chunks = translator.feed(
        chunk({"content": parts}) + chunk({"content": [{"type": "reference", "reference_ids": [1]}]})
    )
    assert chunks[0]["choices"][0]["delta"] == {"reasoning_content": "hm", "content": "a"}
    assert chunks[1]["choices"][0]["delta"] == {"content": ""}
    whole = {"choices": [{"index": 0, "message": {"content": parts}, "finish_reason": "model_length"}]}
    answer = ADAPTER.parse(json.dumps(whole).encode(), UpstreamRequest("", {}, b""))
    assert answer.completion["choices"][0]["message"] == {"reasoning_content": "hm", "content": "a"}


def test_E_072_an_end_by_error_is_no_answer() -> None:
    translator = ADAPTER.stream(UpstreamRequest("", {}, b""))
    from .replay import Outcome, written

    chunks = translator.feed(chunk({"content": "a"}) + chunk({}, finish_reason="error") + b"data: [DONE]\n\n")
    with pytest.raises(ProviderError):
        written(Outcome(chunks + translator.close(), None, None, None))


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (401, {"detail": "Invalid API Key"}, ErrorKind.AUTHENTICATION, None),
        (400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"}, ErrorKind.NOT_FOUND, "invalid_model"),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra inputs"}]}, ErrorKind.INVALID_REQUEST, "extra_forbidden"),
        (429, {"message": "Requests rate limit exceeded"}, ErrorKind.RATE_LIMITED, None),
        (400, {"object": "error", "message": "Prompt contains 9 tokens, too large for model with 8 maximum context length"}, ErrorKind.CONTEXT_LENGTH, "context_length_exceeded"),
    ],
)  # fmt: skip
def test_E_076_failures(status: int, body: Any, kind: ErrorKind, code: str | None) -> None:
    error = ADAPTER.error(status, {}, json.dumps(body).encode())
    assert (error.kind, error.code) == (kind, code)


def test_embeddings_have_another_name_for_their_size() -> None:
    up = ADAPTER.prepare_embeddings(
        {"model": "x", "input": "a", "dimensions": 8, "user": "u"}, Target("https://h/v1", "m")
    )
    assert json.loads(up.body) == {"model": "m", "input": "a", "encoding_format": "float", "output_dimension": 8}


def test_a_mark_for_the_cache_is_no_field_of_its_functions() -> None:
    marked = {"type": "function", "function": {"name": "f", "strict": True, "cache_control": {"type": "ephemeral"}}}
    function = sent(tools=[marked])[1]["tools"][0]["function"]
    assert function == {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {}}}


def test_sound_is_told_beside_the_prompts_text_and_is_no_reasoning() -> None:
    """As the API told it of five seconds of sound: only the total has all of the prompt."""
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 15,
        "total_tokens": 401,
        "prompt_audio_seconds": 5,
        "prompt_tokens_details": {"audio_tokens": 375, "cached_tokens": 9},
    }
    choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    answer = ADAPTER.parse(json.dumps({"choices": [choice], "usage": usage}).encode(), sent()[0])
    assert answer.usage == Usage(input=2, cache_read=9, audio_input=375, output=15)
    assert answer.usage.total_tokens == 401


def test_every_recorded_stream() -> None:
    played = need(recordings("mistral", endpoint="chat.completions", stream=True))
    for recording in played:
        outcome, _ = replay_stream(
            recording, lambda: ADAPTER.stream(UpstreamRequest("", {}, b"")), n=(recording.request or {}).get("n") or 1
        )
        assert outcome.usage == own_usage(recording.body)
        assert isinstance(outcome.usage, Usage)
    assert len(played) >= 58


def test_every_recorded_answer() -> None:
    played = need(recordings("mistral", endpoint="chat.completions", stream=False))
    for recording in played:
        answer = ADAPTER.parse(recording.body, UpstreamRequest("", {}, b""))
        lawful = replay_whole(recording, answer, n=(recording.request or {}).get("n") or 1)
        theirs = recording.exchange["response"]["body"]
        assert lawful["usage"]["total_tokens"] == theirs["usage"]["total_tokens"]
        for ours, given in zip(lawful["choices"], theirs["choices"], strict=True):
            assert [c["id"] for c in ours["message"].get("tool_calls", ())] == [
                c["id"] for c in given["message"].get("tool_calls") or ()
            ]
    assert len(played) >= 70

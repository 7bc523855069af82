"""Requests for the tests of validation: a smallest one, rich ones, and what a refusal says."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from gateway.errors import InvalidRequest
from gateway.validation import validate_chat

USER = {"role": "user", "content": "Hello"}
FUNCTION = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
CUSTOM = {"type": "custom", "custom": {"name": "run_sql"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "call_1", "content": "Rain"}
STRICT_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": ["integer", "null"]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "detail": "low"}}


class Refusal(NamedTuple):
    code: str | None
    param: str | None
    message: str


def chat(*messages: Any, **parameters: Any) -> dict[str, Any]:
    """A request of ``messages`` (one greeting if none) with ``parameters``."""
    return {"model": "fast", "messages": list(messages) or [USER], **parameters}


def refusal(request: Mapping[str, Any], validate: Callable[..., None] = validate_chat, **options: Any) -> Refusal:
    """What the refusal of ``request`` says; fails when it is accepted."""
    with pytest.raises(InvalidRequest) as caught:
        validate(request, **options)
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    assert caught.value.message
    return Refusal(caught.value.code, caught.value.param, caught.value.message)


RICH: dict[str, dict[str, Any]] = {
    "sampling": chat(
        temperature=0, top_p=0.5, frequency_penalty=-2, presence_penalty=2, n=128, seed=-(2**63), stop=["a", "b"],
        logit_bias={"50256": -100, "1": 0.5}, logprobs=True, top_logprobs=20, max_completion_tokens=1, user="u",
    ),
    "hints": chat(
        safety_identifier="x" * 128, prompt_cache_key="k", prompt_cache_retention="24h", verbosity="low",
        prompt_cache_options={"mode": "explicit", "ttl": "30m"}, service_tier="flex", reasoning_effort="xhigh",
    ),
    "stored": chat(store=True, metadata={"k" * 64: "v" * 512}, stream=True, stream_options={"include_usage": True}),
    "tools": chat(
        USER, ASKED, ANSWERED, tools=[FUNCTION, CUSTOM], tool_choice="required", parallel_tool_calls=False
    ),
    "custom grammar": chat(
        tools=[{"type": "custom", "custom": {"name": "g", "format": {
            "type": "grammar", "grammar": {"syntax": "lark", "definition": "start: \"a\""}}}}],
        tool_choice={"type": "custom", "custom": {"name": "g"}},
    ),
    "functions": chat(
        USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
        {"role": "function", "name": "f", "content": None}, functions=[{"name": "f"}], function_call={"name": "f"},
    ),
    "json schema": chat(response_format={
        "type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": STRICT_SCHEMA}}),
    "json object": chat({"role": "system", "content": "Answer in JSON."}, response_format={"type": "json_object"}),
    "parts": chat(
        {"role": "developer", "content": [{"type": "text", "text": "Be brief.", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}]},
        {"role": "user", "name": "ann", "content": [
            {"type": "text", "text": "Look"}, IMAGE,
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Seen."}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ),
    "audio": chat(
        {"role": "assistant", "audio": {"id": "audio_1"}}, USER, modalities=["text", "audio"], stream=True,
        audio={"voice": {"id": "voice_1"}, "format": "pcm16"},
    ),
    "prediction": chat(prediction={"type": "content", "content": [{"type": "text", "text": "class A:"}]}, n=1),
    "search": chat(web_search_options={"search_context_size": "high", "user_location": {
        "type": "approximate", "approximate": {"city": "Bern", "country": "CH"}}}),
    "moderated": chat(moderation={"model": "omni-moderation-latest", "policy": {"input": {"mode": "block"}, "output": None}}),
}  # fmt: skip
"""Valid requests that between them use every parameter."""

"""What the tests of Claude ask and what they get for it."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from adapters.anthropic import Anthropic
from adapters.errors import UnsupportedParameter
from adapters.interface import Target, UpstreamRequest

from .anthropic_types import problems

ADAPTER = Anthropic()
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
USER = {"role": "user", "content": "Hi"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "time"}}


def target(model: str = "claude-opus-4-5", **fields: Any) -> Target:
    return Target(**{"base_url": "https://api.anthropic.com", "model": model, "api_key": "sk-ant-x", **fields})


def prepared(request: Mapping[str, Any], model: str = "claude-opus-4-5", **fields: Any) -> UpstreamRequest:
    return ADAPTER.prepare({"model": "m", **request}, target(model, **fields))


def body(request: Mapping[str, Any], model: str = "claude-opus-4-5", **fields: Any) -> Any:
    """The body we would send, which must be lawful."""
    made = json.loads(prepared(request, model, **fields).body)
    typed = {k: v for k, v in made.items() if not (k == "thinking" and "block_binding" in v)}
    assert not problems(typed)
    return made


def ask(*messages: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
    return {"messages": list(messages) or [USER], **rest}


def refused(request: Mapping[str, Any], model: str = "claude-opus-4-5", **fields: Any) -> str:
    with pytest.raises(UnsupportedParameter) as caught:
        prepared(request, model, **fields)
    return caught.value.param


def called(*ids: str, content: Any = None, **extras: Any) -> dict[str, Any]:
    calls = [
        {"id": i, "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}} for i in ids
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls, **extras}


def result(identity: str, content: Any = "sunny", **extras: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content, **extras}


LATE = [USER, {"role": "assistant", "content": "Yes?"}, {"role": "system", "content": "Be brief."}]


SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
HIDDEN = {"type": "redacted_thinking", "data": "blob"}


CONTENT = [
    {"type": "thinking", "thinking": "One.", "signature": "s1"},
    {"type": "text", "text": "Part one. "},
    {"type": "thinking", "thinking": "Two.", "signature": "s2"},
    {"type": "text", "text": "Part two."},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
    {"type": "redacted_thinking", "data": "d3"},
    {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Oslo"}},
]


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}


def message(*content: dict[str, Any], stop: str = "end_turn", **fields: Any) -> bytes:
    return json.dumps(
        {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": content,
            "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 5}, **fields,
        }
    ).encode()  # fmt: skip


SENT = UpstreamRequest("", {}, b"", notes={"custom": frozenset(), "answer": None})

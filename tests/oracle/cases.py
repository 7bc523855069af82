"""Requests as clients send them, and where they go."""

from typing import Any

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time."}}
USER = {"role": "user", "content": "How is the weather in Oslo and Rome?"}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABh6FO1AAAAABJRU5ErkJggg=="
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}


def call(number: int, arguments: str, name: str = "weather") -> dict[str, Any]:
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def result(number: int, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call{number:05d}", "content": content}


CALLS = [call(1, '{"city": "Oslo"}'), call(2, '{"city": "Rome"}')]
ASKED = [USER, {"role": "assistant", "content": None, "tool_calls": CALLS}]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"messages": [USER]},
    "system": {"messages": [{"role": "system", "content": "Be short."}, USER]},
    "developer": {"messages": [{"role": "developer", "content": "Be short."}, USER]},
    "two systems": {"messages": [{"role": "system", "content": "A."}, {"role": "system", "content": "B."}, USER]},
    "conversation": {
        "messages": [USER, {"role": "assistant", "content": "Rainy."}, {"role": "user", "content": "Sure?"}]
    },
    "users in a row": {"messages": [USER, {"role": "user", "content": "And in Paris?"}]},
    "tools": {"messages": [USER], "tools": [WEATHER]},
    "tool without parameters": {"messages": [USER], "tools": [CLOCK]},
    "tool choice auto": {"messages": [USER], "tools": [WEATHER], "tool_choice": "auto"},
    "tool choice required": {"messages": [USER], "tools": [WEATHER], "tool_choice": "required"},
    "tool choice named": {
        "messages": [USER],
        "tools": [WEATHER, CLOCK],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    },
    "tool choice none": {"messages": [USER], "tools": [WEATHER], "tool_choice": "none"},
    "one call at a time": {"messages": [USER], "tools": [WEATHER], "parallel_tool_calls": False},
    "parallel results": {"messages": [*ASKED, result(1, "rain"), result(2, "sun")], "tools": [WEATHER]},
    "results out of order": {"messages": [*ASKED, result(2, "sun"), result(1, "rain")], "tools": [WEATHER]},
    "result, then text": {
        "messages": [*ASKED, result(1, "rain"), result(2, "sun"), {"role": "user", "content": "So?"}],
        "tools": [WEATHER],
    },
    "text beside calls": {
        "messages": [USER, {"role": "assistant", "content": "I look.", "tool_calls": CALLS[:1]}, result(1, "rain")],
        "tools": [WEATHER],
    },
    "call with empty arguments": {
        "messages": [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [call(1, "", "clock")]},
            result(1, "noon"),
        ],
        "tools": [CLOCK],
    },
    "empty result": {
        "messages": [USER, {"role": "assistant", "content": None, "tool_calls": CALLS[:1]}, result(1, "")],
        "tools": [WEATHER],
    },
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
            }
        ]
    },
    "limits": {"messages": [USER], "max_completion_tokens": 50, "stop": ["END"]},
    "old limit": {"messages": [USER], "max_tokens": 50},
    "one stop": {"messages": [USER], "stop": "END"},
    "sampling": {"messages": [USER], "temperature": 0.3, "seed": 7},
    "nucleus": {"messages": [USER], "top_p": 0.9},
    "json schema": {
        "messages": [USER],
        "response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA, "strict": True}},
    },
    "json object": {
        "messages": [{"role": "user", "content": "The weather, in JSON."}],
        "response_format": {"type": "json_object"},
    },
    "effort": {"messages": [USER], "reasoning_effort": "low", "max_completion_tokens": 4000},
    "user": {"messages": [USER], "user": "somebody"},
}
PROVIDERS = {
    "anthropic": ("claude-haiku-4-5", "anthropic/claude-haiku-4-5"),
    "bedrock": (
        "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "bedrock/converse/us.anthropic.claude-haiku-4-5-20251001-v1:0",
    ),
    "gemini": ("gemini-2.5-flash", "gemini/gemini-2.5-flash"),
    "mistral": ("mistral-large-latest", "mistral/mistral-large-latest"),
    "cohere": ("command-a-03-2025", "cohere_chat/command-a-03-2025"),
    "groq": ("openai/gpt-oss-20b", "groq/openai/gpt-oss-20b"),
    "deepseek": ("deepseek-chat", "deepseek/deepseek-chat"),
    "openrouter": ("openai/gpt-oss-20b", "openrouter/openai/gpt-oss-20b"),
}
"""Adapter -> the model as we name it, and as LiteLLM does."""
